# EfficientNet-Lite0 from ImageNet at output stride 16, with a DeepLabV3+ head of a third of the
# teacher's channels: a small CamVid student that 600 iterations suffice for.
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='mmseg.EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(144, 192),
    ),
    backbone=dict(
        type='mmkd.EfficientNetLite', variant='lite0', output_stride=16, pretrained=True
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=320,
        in_index=-1,
        channels=64,
        dilations=(1, 3, 6),
        c1_in_channels=24,
        c1_channels=16,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
