# The control: a member that goes on for as long as the distilled rows, with its labels.
_base_ = './member_resnet14_cifar10-2500.py'
load_from = 'work_dirs/member_resnet14_cifar10-2500/seed_0/iter_1170.pth'
max_iters = 585
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.02)))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
