# A small SegFormer alone, by its own optimizer, as long as the U-Net; with lr 1e-3 it still names
# nothing but background.
_base_ = './baseline_unet_digit-scenes.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MixVisionTransformer',
        embed_dims=16,
        num_layers=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        patch_sizes=[7, 3, 3, 3],
        strides=[2, 2, 2, 2],
        sr_ratios=[8, 4, 2, 1],
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[16, 32, 64, 128],
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
