# The control of Fickle Teacher: the same teacher, whose dropout is off while it supervises.
_base_ = './kd_resnet20-resnet8_cifar10.py'
model = dict(
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_wrn-22-1-dropout_cifar10.py',
        checkpoint='work_dirs/teacher_wrn-22-1-dropout_cifar10/iter_2112.pth',
    )
)
