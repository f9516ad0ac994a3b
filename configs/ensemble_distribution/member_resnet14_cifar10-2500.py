# One member, and the student without distillation: a plain classifier on 250 images a class (30 passes of batch 64).
_base_ = ['../_base_/cifar10_ood.py', '../_base_/schedule_cifar.py', '../_base_/runtime_cls.py']
model = dict(
    type='mmkd.ImageClassifier', backbone=dict(type='CIFARResNet', depth=14), num_classes=10, in_channels=64)
train_dataloader = dict(batch_size=64, dataset=dict(images_per_class=250))
max_iters = 1170
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
auto_scale_lr = dict(enable=False, base_batch_size=64)
