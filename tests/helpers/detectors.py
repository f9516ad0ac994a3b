"""Small dense detectors that tests share; they need mmdet, see helpers.runs.need_mmdet."""


def detector(width: int) -> dict:
    """Return a small FCOS whose neck has as many channels as its backbone's first stage."""
    return dict(
        type='FCOS',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=width, stem_channels=width),
        neck=dict(
            type='FPN',
            in_channels=[width, 2 * width, 4 * width, 8 * width],
            out_channels=width,
            start_level=1,
            num_outs=5,
            add_extra_convs='on_output',
        ),
        bbox_head=dict(
            type='FCOSHead',
            num_classes=3,
            in_channels=width,
            feat_channels=width,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4),
        ),
    )


def detr(kind: str = 'DABDETR', width: int = 4, dim: int = 16, classes: int = 3) -> dict:
    """Return a small DETR, ConditionalDETR or DABDETR of two layers and ten queries."""
    dim = 256 if kind == 'ConditionalDETR' else dim  # it knows no other
    drops = dict(dropout=0.0) if kind == 'DETR' else dict(attn_drop=0.0, proj_drop=0.0)
    own, cross = (dict(embed_dims=dim, num_heads=4, **drops) for _ in range(2))
    ffn = dict(embed_dims=dim, feedforward_channels=2 * dim, num_fcs=2, ffn_drop=0.0)
    if kind == 'DABDETR':
        own, cross = own | dict(cross_attn=False), cross | dict(cross_attn=True)
    if kind == 'ConditionalDETR':
        own, cross = own | dict(cross_attn=False), cross | dict(cross_attn=True)
    encoder = dict(self_attn_cfg=dict(embed_dims=dim, num_heads=4, dropout=0.0), ffn_cfg=ffn)
    decoder = dict(self_attn_cfg=own, cross_attn_cfg=cross, ffn_cfg=ffn)
    if kind == 'DETR':
        scored = dict(type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1.0)
        cost = dict(type='ClassificationCost', weight=1.0)
    else:
        scored = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
        cost = dict(type='FocalLossCost', weight=2.0)
    boxes = dict(type='BBoxL1Cost', weight=5.0, box_format='xywh')
    overlap = dict(type='IoUCost', iou_mode='giou', weight=2.0)
    return dict(
        type=kind,
        num_queries=10,
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=1
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=width,
            stem_channels=width,
            out_indices=(3,),
            norm_eval=False,
        ),
        neck=dict(
            type='ChannelMapper',
            in_channels=[8 * width],
            kernel_size=1,
            out_channels=dim,
            act_cfg=None,
            norm_cfg=None,
            num_outs=1,
        ),
        encoder=dict(num_layers=2, layer_cfg=encoder),
        decoder=dict(num_layers=2, return_intermediate=True, layer_cfg=decoder),
        positional_encoding=dict(num_feats=dim // 2, normalize=True),
        bbox_head=dict(type=f'{kind}Head', num_classes=classes, embed_dims=dim, loss_cls=scored),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=[cost, boxes, overlap])),
        test_cfg=dict(max_per_img=10),
    )
