# The paper's teacher: WRN-40-2, trained with dropout 0.4 so that it can be fickle; dropout=0. for the other noises.
_base_ = './baseline_wrn-16-2_cifar10.py'
model = dict(backbone=dict(depth=40, dropout=0.4))
