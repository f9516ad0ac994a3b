# The paper's network alone: ResNet-32, 300 passes of batch 128, the rate divided by 10 at 150 and
# 225.
_base_ = [
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=32),
    num_classes=100,
    in_channels=64,
)
train_dataloader = dict(batch_size=128)
auto_scale_lr = dict(base_batch_size=128)
passes = 391  # iterations of one pass over 50,000 images
param_scheduler = [
    dict(type='MultiStepLR', milestones=[150 * passes, 225 * passes], by_epoch=False)
]
train_cfg = dict(max_iters=300 * passes, val_interval=10 * passes)
default_hooks = dict(checkpoint=dict(interval=10 * passes))
