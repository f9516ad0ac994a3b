# The CamVid teacher: EfficientNet-Lite2 from ImageNet under a DeepLabV3+ head, 2,400 iterations of
# AdamW at batch 16 (105 passes over the 367 training frames), to be run with --amp.
_base_ = [
    '../_base_/models/camvid_teacher.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/runtime.py',
]
model = dict(backbone=dict(pretrained=True))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=150, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=150, by_epoch=False),
]
train_cfg = dict(max_iters=2400, val_interval=600)
