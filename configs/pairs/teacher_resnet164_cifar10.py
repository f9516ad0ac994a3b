# The paper's teacher: ResNet-164, bottlenecks of 64, 128 and 256 channels.
_base_ = './baseline-200-passes_resnet20_cifar10.py'
model = dict(backbone=dict(depth=164, bottleneck=True), in_channels=256)
