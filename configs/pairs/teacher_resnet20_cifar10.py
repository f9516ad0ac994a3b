# The teacher: ResNet-20, 12 passes over the same images.
_base_ = './baseline_resnet8_cifar10.py'
model = dict(backbone=dict(depth=20))
train_cfg = dict(max_iters=2112)
