# The paper's depth student alone: MobileNetV2, 3,000 iterations of 8 crops (30 passes over 795
# images).
_base_ = ['../_base_/datasets/nyuv2_384x384.py', '../_base_/runtime.py']
norm_cfg = dict(type='SyncBN')
model = dict(
    type='DepthEstimator',
    data_preprocessor=dict(  # padding would be depth unless it is 0
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(384, 384),
        test_cfg=dict(size_divisor=32),
        seg_pad_val=0,
    ),
    backbone=dict(type='MobileNetV2', out_indices=(1, 2, 4, 6), norm_cfg=norm_cfg),
    decode_head=dict(
        type='mmkd.DepthHead',
        min_depth=0.1,
        max_depth=10.0,
        num_bins=150,
        in_channels=[24, 32, 96, 320],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=256,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=150, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3000, val_interval=1000)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=1000, save_best='abs_rel', rule='less'))
