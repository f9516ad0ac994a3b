"""mmsegmentation's zoo and detectors of mmdetection, small and offline: a config a folder."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmkd.distiller.members.member import Member
from mmkd.distiller.members.stand_in import stand_in
from mmkd.utils.config_file import read_config

CROP = (64, 128)
PARTNER = 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
# of a transformer's layers
FEW = {'model.backbone.num_layers': 4, 'model.backbone.out_indices': (0, 1, 2, 3)}
WINDOWS = {'model.backbone.img_size': CROP}
CLASSES = 19


@dataclass(frozen=True)
class Architecture:
    """One config of the zoo.

    Args:
        config: Its path in the library.
        options: What makes it small.
        logits: The tap of the class map as a reader of the head's source finds it; '' of a map that
            is assembled from queries; None where there is none.
        feature: What the classifier reads, likewise.
        size: Height and width that it runs on.
        needs: A module that must import.
        what: How to say so.
        weights: Whether mmseg cannot initialise it without a file of weights.
    """

    config: str
    options: dict[str, Any] = field(default_factory=dict)
    logits: str | None = 'decode_head.conv_seg'
    feature: str = 'decode_head.dropout:input'
    size: tuple[int, int] = CROP
    needs: str = 'mmseg'
    what: str = ''
    weights: bool = False


OPS = dict(needs='mmcv._ext', what='mmcv with compiled operations')
DET = dict(needs='mmdet.models', what='mmdet, and mmcv with compiled operations')
PRETRAIN = dict(needs='mmpretrain.models', what='mmpretrain and torchvision')
PLAIN = dict(feature='decode_head.conv_seg:input')  # its head has no dropout
KNET = dict(
    logits='decode_head.kernel_update_head.2[0]',
    feature='decode_head.kernel_generate_head.dropout:input',
)
MASKS = dict(logits='', feature='decode_head.pixel_decoder[0]')

ZOO = {
    'ann': Architecture(
        'ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024.py', feature='decode_head.dropout#1:input'
    ),
    'apcnet': Architecture('apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'beit': Architecture('beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py', FEW | WINDOWS),
    'bisenetv1': Architecture('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py'),
    'bisenetv2': Architecture('bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py'),
    'ccnet': Architecture('ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', **OPS),
    'cgnet': Architecture('cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py', **PLAIN),
    'convnext': Architecture(
        'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', **PRETRAIN
    ),
    'danet': Architecture(
        'danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        feature='decode_head.dropout#2:input',
    ),
    'ddrnet': Architecture(
        'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py', **PLAIN
    ),
    'deeplabv3': Architecture('deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    'deeplabv3plus': Architecture(
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    ),
    'dmnet': Architecture('dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'dnlnet': Architecture('dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'dpt': Architecture('dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', FEW),
    'emanet': Architecture('emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py'),
    'encnet': Architecture('encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'erfnet': Architecture('erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py'),
    'fastfcn': Architecture('fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py'),
    'fastfcn-enc': Architecture('fastfcn/fastfcn_r50-d32_jpu_enc_4xb2-80k_cityscapes-512x1024.py'),
    'fastscnn': Architecture('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'),
    'fcn': Architecture('fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    'gcnet': Architecture('gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'hrnet': Architecture('hrnet/fcn_hr18s_4xb2-40k_cityscapes-512x1024.py', **PLAIN),
    'icnet': Architecture('icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py', **PLAIN),
    'isanet': Architecture('isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'knet': Architecture('knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py', **KNET),
    'knet-upernet': Architecture(
        'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py', **KNET
    ),
    'mae': Architecture('mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py', FEW | WINDOWS),
    'mask2former': Architecture(
        'mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py', **MASKS, **DET
    ),
    'maskformer': Architecture(
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py', **MASKS, **DET
    ),
    'mobilenet_v2': Architecture(
        'mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py'
    ),
    'mobilenet_v3': Architecture(
        'mobilenet_v3/mobilenet-v3-d8-scratch-s_lraspp_4xb4-320k_cityscapes-512x1024.py',
        size=(400, 400),  # LRASPP pools 49×49 of a map of stride 8
    ),
    'nonlocal_net': Architecture('nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'ocrnet': Architecture(
        'ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py',
        logits='decode_head.1.conv_seg',
        feature='decode_head.1.conv_seg:input',
    ),
    'pidnet': Architecture('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py'),
    'point_rend': Architecture(
        'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
        logits='decode_head.0.conv_seg#0',
        feature='decode_head.0.conv_seg#0:input',
        **OPS,
    ),
    'poolformer': Architecture(
        'poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py', **PRETRAIN
    ),
    'psanet': Architecture('psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py', **OPS),
    'pspnet': Architecture('pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    'resnest': Architecture(
        'resnest/resnest_s101-d8_fcn_4xb2-80k_cityscapes-512x1024.py', {'model.backbone.depth': 50}
    ),
    'san': Architecture(
        'san/san-vit-b16_voc12aug-640x640.py',
        {
            'model.data_preprocessor.size_divisor': 32,
            'model.text_encoder.dataset_name': 'cityscapes',
            'model.decode_head.loss_decode.0.class_weight': [1.0] * CLASSES + [0.1],
        },
        logits='',
        # of the maps as large as its masks the last one
        feature='decode_head.side_adapter_network.mask_decoder.attn_mlp.layers.2#1',
        weights=True,
        **OPS,
    ),
    'segformer': Architecture('segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'),
    'segmenter': Architecture(
        'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
        logits='',
        feature='backbone[0]',
    ),
    'segmenter-fcn': Architecture(
        'segmenter/segmenter_vit-s_fcn_8xb1-160k_ade20k-512x512.py', **PLAIN
    ),
    'segnext': Architecture('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'),
    'sem_fpn': Architecture('sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'),
    'setr-naive': Architecture(
        'setr/setr_vit-l_naive_8xb1-80k_cityscapes-768x768.py', FEW, **PLAIN
    ),
    'setr-mla': Architecture('setr/setr_vit-l_mla_8xb1-80k_cityscapes-768x768.py', FEW, **PLAIN),
    'setr-pup': Architecture('setr/setr_vit-l_pup_8xb1-80k_cityscapes-768x768.py', FEW, **PLAIN),
    'stdc': Architecture('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py'),
    'swin': Architecture(
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
    ),
    'twins-fpn': Architecture('twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py'),
    'twins-uper': Architecture('twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512.py'),
    'unet': Architecture('unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py'),
    'upernet': Architecture('upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py'),
    'vit': Architecture('vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py', FEW),
    'vpd': Architecture(
        'vpd/vpd_sd_4xb8-25k_nyu-480x480.py',
        logits=None,
        needs='ldm.util',
        what='latent-diffusion, which no package index has',
    ),
}


@dataclass(frozen=True)
class Detector:
    """One config of mmdet's zoo.

    Args:
        config: Its path in the library.
        options: What makes it small.
        logits: The tap of the finest level's scores; '' where there is no map of them.
        shared: Whether one anchor and the partner's 80 classes make these scores comparable.
    """

    config: str
    logits: str
    options: dict[str, Any] = field(default_factory=dict)
    shared: bool = True
    size: tuple[int, int] = (256, 256)
    needs: str = 'mmdet.models'
    what: str = DET['what']


LSJ = '_8xb8-amp-lsj-200e_coco.py'
R18 = {'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}
DETECTORS = {
    'gfl': Detector('gfl/gfl_r50_fpn_1x_coco.py', 'bbox_head.gfl_cls#0', R18),
    'fcos': Detector(
        f'fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou{LSJ}', 'bbox_head.conv_cls#0'
    ),
    'atss': Detector(f'atss/atss_r18_fpn{LSJ}', 'bbox_head.atss_cls#0'),
    'retinanet': Detector(
        'retinanet/retinanet_r18_fpn_1x_coco.py', 'bbox_head.retina_cls#0', shared=False
    ),
    'rtmdet': Detector('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'bbox_head.rtm_cls.0'),
    'yolox': Detector('yolox/yolox_tiny_8xb8-300e_coco.py', 'bbox_head.multi_level_conv_cls.0'),
    'faster_rcnn': Detector(f'faster_rcnn/faster-rcnn_r18_fpn{LSJ}', '', shared=False),
    'mask_rcnn': Detector(f'mask_rcnn/mask-rcnn_r18_fpn{LSJ}', '', shared=False),
    'detr': Detector('detr/detr_r18_8xb2-500e_coco.py', '', shared=False),
    'dino': Detector(
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        '',
        shared=False,
    ),
    'paa': Detector('paa/paa_r50_fpn_1x_coco.py', 'bbox_head.atss_cls#0', R18),
    'fsaf': Detector('fsaf/fsaf_r50_fpn_1x_coco.py', 'bbox_head.retina_cls#0', R18),
    'vfnet': Detector('vfnet/vfnet_r50_fpn_1x_coco.py', 'bbox_head.vfnet_cls#0', R18),
}


def lacks(one: Architecture | Detector) -> str:
    """Return what has to be installed for an architecture, '' where it can be built."""
    try:
        importlib.import_module(one.needs)
    except Exception:  # it is missing, or it does not import here
        return one.what
    return ''


def member(one: Architecture | Detector) -> dict:
    """Return an architecture as a member, small, without downloads; segmentors of 19 classes."""
    library = 'mmdet' if isinstance(one, Detector) else 'mmseg'
    path = f'{library}::{one.config}'
    options = offline_detector if isinstance(one, Detector) else offline
    return dict(cfg=path, cfg_options=options(read_config(path), one))


def with_weights(described: dict, role: str, folder: Path) -> dict:
    """Return a member with a file of random weights, a student's as its ``pretrained``."""
    model = Member.read(role, role, dict(described, allow_untrained=True)).make()
    file = folder / f'{role}.pth'
    torch.save(stand_in(model, role, torch.Generator().manual_seed(0)).state_dict(), file)
    if role == 'teacher':
        return {**described, 'checkpoint': str(file)}
    options = {**described['cfg_options'], 'model.pretrained': str(file)}
    return {**described, 'cfg_options': options}


def offline_detector(cfg: Config, one: Detector) -> dict[str, Any]:
    """Return the ``cfg_options`` that keep a detector from the network, and its images small."""
    options: dict[str, Any] = {}
    if cfg.model.backbone.get('init_cfg'):
        options['model.backbone.init_cfg'] = None
    if cfg.model.get('data_preprocessor', {}).get('batch_augments'):
        options['model.data_preprocessor.batch_augments'] = None  # they pad to 1024²
    return options | one.options


def offline(cfg: Config, one: Architecture) -> dict[str, Any]:
    """Return the ``cfg_options`` that make a config small and keep it from the network."""
    options = dict(_offline(cfg.model.to_dict(), 'model'))
    if 'size' in cfg.model.get('data_preprocessor', {}):
        options['model.data_preprocessor.size'] = one.size
    head = cfg.model.get('decode_head')
    if isinstance(head, dict) and 'Former' in head.get('type', '') and 'loss_cls' in head:
        # one more: no object
        options['model.decode_head.loss_cls.class_weight'] = [1.0] * CLASSES + [0.1]
    return options | one.options


def _offline(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        if where.endswith('init_cfg') and str(node.get('type')).startswith('Pretrained'):
            yield where, None
            return
        for key, value in node.items():
            here = f'{where}.{key}'
            if key == 'pretrained' and value is not None:
                yield here, None
            elif key == 'num_classes' and value != CLASSES and 'backbone' not in here:
                yield here, CLASSES
            else:
                yield from _offline(value, here)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _offline(value, f'{where}.{index}')
