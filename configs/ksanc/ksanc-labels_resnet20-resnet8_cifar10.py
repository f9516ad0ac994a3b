# KSANC beside the student's own label loss, which the equation does not have.
_base_ = './ksanc_resnet20-resnet8_cifar10.py'
model = dict(task_weight=1.0)
