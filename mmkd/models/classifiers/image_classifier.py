"""The thin image classifier: any mm backbone, global average pooling, one linear layer."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, ModuleDict
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.registry import MODELS, build_part
from mmkd.structures.batch import IGNORED_IMAGE
from mmkd.utils.checks import check_choice, check_count

# Mean and standard deviation of CIFAR-10's training pixels, RGB in 0…255; the data sets give BGR.
CIFAR10_PREPROCESSOR = dict(
    type='ImgDataPreprocessor',
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    bgr_to_rgb=True,
)


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Classify images by the mean of a backbone's last map, as mmpretrain does, without it.

    Paths for taps: ``head.fc`` (logits), ``head.fc:input`` (pooled features), ``backbone.layer3``
    and the like.

    Args:
        backbone: A config or a module. Bare type names are looked up in mmkd first, then in mmseg;
            of a tuple of maps the last one is taken.
        num_classes: Number of classes C.
        in_channels: Channels of the backbone's last map.
        data_preprocessor: By default CIFAR-10's mean and standard deviation, from BGR to RGB.
        init_cfg: mmengine's initialisation.

    Raises:
        KeyError: A backbone that is not registered, with its nearest match.
        ValueError: The backbone's last map has other channels; labels are missing; an unknown mode.

    >>> model = ImageClassifier(dict(type='CIFARResNet', depth=8), num_classes=10, in_channels=64)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        num_classes: int,
        in_channels: int,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        check_count('num_classes', num_classes, 2)
        check_count('in_channels', in_channels, 1)
        super().__init__(data_preprocessor or CIFAR10_PREPROCESSOR, init_cfg)
        if isinstance(backbone, dict):
            scope = 'mmkd' if backbone.get('type') in MODELS.module_dict else 'mmseg'
            backbone = {'_scope_': scope, **backbone}
        self.num_classes = num_classes
        self.backbone = build_part(backbone, 'backbone of ImageClassifier')
        self.head = ModuleDict(
            dict(fc=nn.Linear(in_channels, num_classes)),
            init_cfg=dict(type='Normal', layer='Linear', std=0.01),
        )

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return logits (N, C), ``dict(loss_cls=cross-entropy)``, or data samples with predictions.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: With ``gt_label`` where ``mode='loss'``.
            mode: 'tensor', 'loss' or 'predict', which sets ``pred_score`` (C,), ``pred_logits``
                (C,) and ``pred_label`` (1,) of every sample.
        """
        return answer(self.head['fc'](self._pool(inputs)), data_samples, mode)

    def _last_map(self, inputs: Tensor) -> Tensor:
        maps = self.backbone(inputs)
        return maps[-1] if isinstance(maps, list | tuple) else maps

    def _pool(self, inputs: Tensor) -> Tensor:
        x = self._last_map(inputs)
        if x.shape[1] != self.head['fc'].in_features:
            raise ValueError(
                f'in_channels={self.head["fc"].in_features}, but the last map of the backbone has '
                f'{x.shape[1]} channels (shape {tuple(x.shape)}). Mend: in_channels={x.shape[1]}'
            )
        return x.mean((2, 3)) if x.dim() == 4 else x


def answer(logits: Tensor, data_samples: list | None, mode: str) -> Any:
    """Return what a classifier does in a mode: logits, a loss, or samples with predictions.

    >>> answer(torch.tensor([[0., 2.]]), None, 'predict')[0].pred_label
    tensor([1])
    """
    check_choice('mode', mode, ('tensor', 'loss', 'predict'))
    if mode == 'tensor':
        return logits
    if mode == 'loss':
        labels = _labels(data_samples).to(logits.device)
        # Not torch's mean, which is NaN where no label of the batch counts.
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED_IMAGE, reduction='sum')
        return dict(loss_cls=total / (labels != IGNORED_IMAGE).sum().clamp(min=1))
    samples = data_samples or [BaseDataElement() for _ in logits]
    best = logits.argmax(1, keepdim=True)
    for sample, own, score, label in zip(samples, logits, logits.softmax(1), best, strict=True):
        sample.set_data(dict(pred_logits=own, pred_score=score, pred_label=label))
    return samples


def _labels(data_samples: list | None) -> Tensor:
    if not data_samples or not all('gt_label' in sample for sample in data_samples):
        raise ValueError(
            "mode='loss' needs data samples with 'gt_label'. Mend: end the training pipeline with "
            "dict(type='mmkd.PackClsInputs'), or PackTextInputs, on a data set that has labels"
        )
    return torch.cat([torch.as_tensor(sample.gt_label).view(1) for sample in data_samples])
