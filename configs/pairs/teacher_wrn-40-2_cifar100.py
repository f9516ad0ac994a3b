# The paper's teacher: WRN-40-2, 240 passes; the published checkpoints of the pair have other key
# names.
_base_ = './baseline_wrn-16-2_cifar100.py'
model = dict(backbone=dict(depth=40))
