# The depth student alone: ResNet-18 at half width from scratch, 1,000 iterations of 8 images.
_base_ = ['../_base_/datasets/nyuv2_160x120.py', '../_base_/runtime.py']
norm_cfg = dict(type='BN')
model = dict(
    type='DepthEstimator',
    data_preprocessor=dict(  # padding would be depth unless it is 0
        type='SegDataPreProcessor',
        mean=[127.0] * 3,
        std=[128.0] * 3,
        bgr_to_rgb=True,
        size=(120, 160),
        seg_pad_val=0,
    ),
    backbone=dict(
        type='ResNetV1c', depth=18, base_channels=32, stem_channels=32, norm_cfg=norm_cfg
    ),
    decode_head=dict(
        type='mmkd.DepthHead',
        min_depth=0.5,
        max_depth=10.0,
        num_bins=64,
        in_channels=[32, 64, 128, 256],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=64,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=50, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(save_best=None))
