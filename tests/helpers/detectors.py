"""Small dense detectors that tests share; they need mmdet, see helpers.runs.need_mmdet."""

from typing import Any

from torch import nn


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


def deformable(
    kind: str = 'DINO',
    width: int = 4,
    stages: int = 1,
    refine: bool = False,
    dim: int = 16,
    classes: int = 3,
    layers: int = 2,
    levels: int = 2,
    queries: int = 10,
) -> dict:
    """Return a small DeformableDETR or DINO, of two levels and ten queries.

    It says the same in training as in a test, but for DINO's denoising: without dropout, norms
    are fixed.
    """
    dino = kind == 'DINO'
    stages, refine = (2, True) if dino else (stages, refine)
    dim = 256 if stages == 2 and not dino else dim  # it knows no other
    own = dict(embed_dims=dim, num_heads=4, dropout=0.0)
    several = dict(own, num_levels=levels, num_points=2)
    ffn = dict(embed_dims=dim, feedforward_channels=2 * dim, num_fcs=2, ffn_drop=0.0)
    cfg = detr('DABDETR', width, dim, classes)
    backbone = dict(cfg['backbone'], out_indices=(2, 3), norm_eval=True)
    denoising = dict(group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=4))
    return dict(
        cfg,
        type=kind,
        with_box_refine=refine,
        as_two_stage=stages == 2,
        num_queries=queries,
        num_feature_levels=levels,
        backbone=backbone,
        neck=dict(cfg['neck'], in_channels=[4 * width, 8 * width], num_outs=levels),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=several, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=layers,
            return_intermediate=True,
            layer_cfg=dict(self_attn_cfg=own, cross_attn_cfg=several, ffn_cfg=ffn),
            post_norm_cfg=None,
        ),
        bbox_head=dict(cfg['bbox_head'], type=f'{kind}Head'),
        **(dict(dn_cfg=denoising) if dino else {}),
    )


def spread(model: Any) -> Any:
    """Return a detector with random matrices of a scale by which its queries say different things.

    As they begin, boxes say nothing of the query, and mmdet leaves some weights unwritten.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            inputs = 1 if 'embed' in name else parameter[0].numel()
            nn.init.normal_(parameter, std=1.5 * inputs**-0.5)
    return model
