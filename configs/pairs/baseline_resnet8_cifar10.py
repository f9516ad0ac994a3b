# The student without distillation: a plain classifier, 5 passes over 22,500 images.
_base_ = [
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=8),
    num_classes=10,
    in_channels=64,
)
train_cfg = dict(max_iters=880)
