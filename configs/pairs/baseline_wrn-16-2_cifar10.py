# The paper's student alone: WRN-16-2, 200 passes of batch 128 over all 50,000 images, the rate
# divided by 5 three times.
_base_ = [
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='WideResNet', depth=16, widen_factor=2),
    num_classes=10,
    in_channels=128,
)
train_dataloader = dict(dataset=dict(split='trainval'))
val_dataloader = dict(dataset=dict(split='test'))  # as is usual there
passes = 391  # iterations of one pass
param_scheduler = [
    dict(
        type='MultiStepLR',
        milestones=[60 * passes, 120 * passes, 160 * passes],
        gamma=0.2,
        by_epoch=False,
    )
]
train_cfg = dict(max_iters=200 * passes, val_interval=10 * passes)
default_hooks = dict(checkpoint=dict(interval=10 * passes))
