# The large peer alone, as long as the small one: 5 passes.
_base_ = './baseline_resnet8_cifar10.py'
model = dict(backbone=dict(depth=20))
