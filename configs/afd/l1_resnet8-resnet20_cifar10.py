# Their last maps aligned directly.
_base_ = './l1_resnet8x2_cifar10.py'
model = dict(students=dict(peer1=dict(model=dict(backbone=dict(depth=20)))))
