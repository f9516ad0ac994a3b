# The paper's teacher without dropout, for the noises that need none.
_base_ = './baseline_wrn-16-2_cifar10.py'
model = dict(backbone=dict(depth=40))
