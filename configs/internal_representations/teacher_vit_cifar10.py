# Its teacher: the same width in 6 layers, 12 passes.
_base_ = './baseline_vit_cifar10.py'
model = dict(backbone=dict(num_layers=6))
max_iters = 2112
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
