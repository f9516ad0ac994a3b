# One member, and the student without distillation: a plain classifier on 500 images a class (40 passes).
_base_ = ['../_base_/cifar10_ood.py', '../_base_/schedule_cifar.py', '../_base_/runtime_cls.py']
model = dict(
    type='mmkd.ImageClassifier', backbone=dict(type='CIFARResNet', depth=14), num_classes=10, in_channels=64)
train_dataloader = dict(dataset=dict(images_per_class=500))
max_iters = 1560
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
