# 400 iterations in bf16: few are enough for a student that begins with ImageNet weights.
_base_ = './schedule_camvid.py'
optim_wrapper = dict(
    _delete_=True,
    type='mmkd.Bf16OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.2))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=40, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=40, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=200)
