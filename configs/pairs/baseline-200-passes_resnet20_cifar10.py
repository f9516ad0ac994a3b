# The paper's student alone: ResNet-20 on CIFAR-10, 200 passes of batch 128; the paper's own
# schedule is not known to us.
_base_ = [
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=20),
    num_classes=10,
    in_channels=64,
)
train_dataloader = dict(dataset=dict(split='trainval'))
val_dataloader = dict(dataset=dict(split='test'))  # as is usual there
passes = 391  # iterations of one pass
param_scheduler = [
    dict(type='MultiStepLR', milestones=[100 * passes, 150 * passes], gamma=0.1, by_epoch=False)
]
train_cfg = dict(max_iters=200 * passes, val_interval=10 * passes)
default_hooks = dict(checkpoint=dict(interval=10 * passes))
