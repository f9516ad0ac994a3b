"""Tiny segmentors, batches and Distillers that the tests share."""
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

NUM_CLASSES = 11
SIZE = 64


def preprocessor(size: int = SIZE, mean: float = 100., std: float = 50., bgr_to_rgb: bool = True,
                 **overrides: Any) -> dict:
    """Return a SegDataPreProcessor config."""
    return dict(type='SegDataPreProcessor', mean=[mean] * 3, std=[std] * 3, bgr_to_rgb=bgr_to_rgb, size=(size, size),
                pad_val=0, seg_pad_val=255) | overrides


def segmentor(channels: int = 8, num_classes: int = NUM_CLASSES, dropout: float = 0.1, norm: str = 'BN',
              head: str = 'PSPHead', auxiliary: bool = True, size: int = SIZE, **overrides: Any) -> dict:
    """Return a PSPNet-like model dict of ResNet-18 at output stride 8; ``channels`` is the width of its first stage.

    The head is ``channels * 2`` wide: tap ``decode_head.bottleneck`` of a PSPHead, ``decode_head.convs`` of an FCNHead.
    ``overrides`` replace whole top-level keys of the dict.
    """
    norm_cfg = dict(type=norm, requires_grad=True)
    shared = dict(num_classes=num_classes, norm_cfg=norm_cfg, align_corners=False)
    extra = dict(pool_scales=(1, 2)) if head == 'PSPHead' else dict(num_convs=1, concat_input=False)
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=preprocessor(size),
        backbone=dict(type='ResNetV1c', depth=18, base_channels=channels, stem_channels=channels, num_stages=4,
                      out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=norm_cfg,
                      norm_eval=False, contract_dilation=True),
        decode_head=dict(type=head, in_channels=8 * channels, in_index=3, channels=2 * channels, dropout_ratio=dropout,
                         loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0), **extra, **shared),
        train_cfg=dict(), test_cfg=dict(mode='whole'))
    if auxiliary:
        model['auxiliary_head'] = dict(type='FCNHead', in_channels=4 * channels, in_index=2, channels=channels,
                                       num_convs=1, concat_input=False, dropout_ratio=dropout,
                                       loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4), **shared)
    return model | overrides


def batch(n: int = 2, size: int = SIZE, num_classes: int = NUM_CLASSES, seed: int = 0, ignore: float = 0.) -> dict:
    """Return generated data for ``train_step``: uint8 images and labels, a share ``ignore`` of which is 255."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator) for _ in range(n)]
    samples = []
    for i in range(n):
        labels = torch.randint(0, num_classes, (1, size, size), generator=generator)
        labels[torch.rand(1, size, size, generator=generator) < ignore] = 255
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(
            img_shape=(size, size), ori_shape=(size, size), img_path=f'image_{i}.png', seg_map_path=f'labels_{i}.png')))
    return dict(inputs=images, data_samples=samples)


def objectives(**overrides: Any) -> dict:
    """Return pixel-wise and pair-wise objectives; an override of None removes one."""
    both = dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.),
                pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=10.)) | overrides
    return {name: value for name, value in both.items() if value is not None}


def holistic(weight: float = 0.1, **loss: Any) -> dict:
    """Return an adversarial objective with a small critic."""
    critic = dict(type='HolisticCritic', channels=(8, 16))
    return dict(loss=dict(type='AdversarialLoss', activation='softmax', critic=critic) | loss, on='logits',
                reads=dict(image='batch.inputs'), weight=weight)


def distiller(**overrides: Any) -> dict:
    """Return the config of a Distiller: student 4 wide, untrained teacher 8 wide, pixel-wise and pair-wise objectives.

    ``overrides`` replace top-level keys.
    """
    return dict(type='mmkd.Distiller', student=dict(model=segmentor(4)),
                teacher=dict(model=segmentor(8), allow_untrained=True),
                taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
                objectives=objectives()) | overrides


def build(cfg: dict) -> Any:
    """Build a Distiller (or any model) by its config, as a Runner would, in train mode."""
    model = MODELS.build(cfg)
    model.init_weights()
    return model.train()


def sgd(model: nn.Module, lr: float = 0.01, **kwargs: Any) -> OptimWrapper:
    """Return a plain SGD wrapper over all parameters of the model."""
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **kwargs)
