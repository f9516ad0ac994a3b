# EfficientNet-Lite0 from ImageNet alone, 400 iterations of 8 crops of 144×192 in bf16: few are
# enough, since it begins with features.
_base_ = [
    '../_base_/models/camvid_effnetlite0.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/runtime.py',
]
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
