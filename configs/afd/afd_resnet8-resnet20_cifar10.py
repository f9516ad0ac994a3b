# AFD of a small and a large peer, ResNet-8 and ResNet-20; their last maps have one shape.
_base_ = './afd_resnet8x2_cifar10.py'
model = dict(students=dict(peer1=dict(model=dict(backbone=dict(depth=20)))))
