"""A backbone without a head: it teaches its features, or learns those of another."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd.registry import MODELS, build_part
from mmkd.utils.checks import check_choice


@MODELS.register_module()
class FeatureModel(BaseModel):
    """A backbone as a member: no head, no labels, no losses of its own.

    As a teacher it is any backbone whose features are worth to be learned; as a student what learns
    them, on images without labels. Taps are the points ``'auto:stages[-1]'``, or ``backbone[0]``
    and the like. A student of it is exported with weights ``backbone.…``, as a segmentor or
    detector has them.

    A teacher begins with the weights that its backbone says it has (``pretrained=``, or
    ``init_cfg=dict(type='Pretrained', …)``), and needs no checkpoint beside them.

    Args:
        backbone: A config or a module that returns a map or a tuple of maps. Bare type names are
            looked up in mmkd first, then in mmseg.
        data_preprocessor: Mean and standard deviation of what the backbone was trained on. None:
            those that the backbone says itself, as :class:`mmkd.HFVisionBackbone` does.
        init_cfg: mmengine's initialisation.

    Raises:
        KeyError: A backbone that is not registered, with its nearest match.
        ValueError: Nothing says mean and standard deviation; a mode that it does not have.

    >>> import torch
    >>> model = FeatureModel(dict(type='CIFARResNet', depth=8), dict(type='ImgDataPreprocessor'))
    >>> model(torch.zeros(1, 3, 32, 32))[-1].shape, model(torch.zeros(1, 3, 32, 32), mode='loss')
    (torch.Size([1, 64, 8, 8]), {})
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if isinstance(backbone, dict):
            scope = 'mmkd' if backbone.get('type') in MODELS.module_dict else 'mmseg'
            backbone = {'_scope_': scope, **backbone}
        built = build_part(backbone, 'backbone of FeatureModel')
        super().__init__(data_preprocessor or _preprocessor(built), init_cfg)
        self.backbone = built

    @classmethod
    def brings_weights(cls, config: Mapping[str, Any]) -> bool:
        """Return whether the backbone of a config says where its weights are."""
        backbone = config.get('backbone')
        if not isinstance(backbone, Mapping):
            return False
        first = backbone.get('init_cfg')
        pretrained = isinstance(first, Mapping) and first.get('type') == 'Pretrained'
        return bool(backbone.get('pretrained')) or pretrained

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return the maps, or of ``mode='loss'`` no losses: those of objectives are all there are.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: Not looked at.
            mode: 'tensor' or 'loss'.
        """
        check_choice('mode of a FeatureModel, which has no head to predict', mode, MODES)
        maps = self.backbone(inputs)
        return {} if mode == 'loss' else maps


MODES = ('tensor', 'loss')


def _preprocessor(backbone: nn.Module) -> dict[str, Any]:
    """Return the data preprocessor that a backbone says it needs; images are read as BGR, 0…255."""
    mean, std = getattr(backbone, 'mean', None), getattr(backbone, 'std', None)
    if mean is None or std is None:
        raise ValueError(
            f'nothing says on which mean and std the {type(backbone).__name__} was trained, and '
            'under others its features mean little. Mend: data_preprocessor=dict('
            "type='ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, "
            '57.375], bgr_to_rgb=True), or mean= and std= of HFVisionBackbone'
        )
    return dict(
        type='ImgDataPreprocessor',
        mean=[255 * m for m in mean],
        std=[255 * s for s in std],
        bgr_to_rgb=True,
    )
