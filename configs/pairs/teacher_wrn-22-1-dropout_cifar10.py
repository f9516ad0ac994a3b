# A teacher that can be fickle: WRN-22-1, trained with dropout, as many passes as the ResNet-20.
_base_ = './teacher_resnet20_cifar10.py'
model = dict(backbone=dict(_delete_=True, type='WideResNet', depth=22, widen_factor=1, dropout=0.2))
