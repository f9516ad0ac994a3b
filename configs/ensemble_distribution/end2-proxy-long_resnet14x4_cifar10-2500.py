# The proxy for four times as long, at a higher rate: how near one network comes to the ensemble.
_base_ = './end2-proxy_resnet14x4_cifar10-2500.py'
max_iters = 2340
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
