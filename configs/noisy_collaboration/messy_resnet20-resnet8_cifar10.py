# Messy Collaboration: a fifth of the student's labels is wrong, the teacher learned from clean
# ones.
_base_ = '../pairs/kd_resnet20-resnet8_cifar10.py'
model = dict(noise=[dict(type='LabelFlip', rate=0.2)])
