# EfficientNet-Lite2 at output stride 16 with the DeepLabV3+ head: the CamVid teachers. A plain
# mmseg model.
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
        size=(360, 480),
    ),
    backbone=dict(type='mmkd.EfficientNetLite', variant='lite2', output_stride=16),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=352,
        in_index=-1,
        channels=192,
        dilations=(1, 6, 12, 18),
        c1_in_channels=24,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
