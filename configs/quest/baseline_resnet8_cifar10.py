# The student without distillation: a plain classifier, 5 passes over 22,500 images.
_base_ = ['../_base_/cifar10.py', '../_base_/schedule_cifar.py', '../_base_/runtime_cls.py']
model = dict(
    type='mmkd.ImageClassifier', backbone=dict(type='CIFARResNet', depth=8), num_classes=10, in_channels=64)
max_iters = 880
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
