# The paper's fickle teacher: WRN-40-2, trained with dropout 0.4.
_base_ = './baseline_wrn-16-2_cifar10.py'
model = dict(backbone=dict(depth=40, dropout=0.4))
