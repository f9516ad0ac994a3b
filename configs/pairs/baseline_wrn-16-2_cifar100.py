# The paper's student alone: WRN-16-2, 240 passes of batch 64, the rate divided by 10 at 150, 180
# and 210.
_base_ = [
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='WideResNet', depth=16, widen_factor=2),
    num_classes=100,
    in_channels=128,
)
passes = 781  # iterations of one pass over 50,000 images
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
param_scheduler = [
    dict(type='MultiStepLR', milestones=[150 * passes, 180 * passes, 210 * passes], by_epoch=False)
]
train_cfg = dict(max_iters=240 * passes, val_interval=10 * passes)
default_hooks = dict(checkpoint=dict(interval=10 * passes))
