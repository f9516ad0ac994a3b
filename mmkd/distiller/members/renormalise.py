"""One data preprocessor for all members, and images as one of other mean and std expects."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd.utils.pixels import flips_channels, pad_value, pixel_statistics


class Renormalise:
    """Turn images normalised for one data preprocessor into those that another expects.

    A teacher trained with another mean, standard deviation or channel order sees
    ``(x·std + mean − mean_t)/std_t``; padded positions are set to the target's padding value again.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> a, b = ImgDataPreprocessor(mean=[0.], std=[2.]), ImgDataPreprocessor(mean=[1.], std=[1.])
    >>> Renormalise(a, b)(torch.ones(1, 1, 1, 1)).item()
    1.0

    Args:
        source: The preprocessor that made the inputs.
        target: The preprocessor of the member that will see them.
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        self.flip = flips_channels(source) != flips_channels(target)
        self.pad_value = pad_value(target)
        mean, std = pixel_statistics(source)
        mean_t, std_t = pixel_statistics(target)
        if self.flip:
            mean, std = mean.flip(0), std.flip(0)
        self.scale, self.shift = std / std_t, (mean - mean_t) / std_t
        self.changes = (
            self.flip
            or self.pad_value != pad_value(source)
            or not (
                torch.allclose(self.scale, torch.ones(1))
                and torch.allclose(self.shift, torch.zeros(1))
            )
        )

    def __call__(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        """Return the inputs (N, C, H, W) as the target expects them."""
        if not self.changes:
            return inputs
        x = inputs.flip(1) if self.flip else inputs
        x = x * self.scale.to(x) + self.shift.to(x)
        for i, sample in enumerate(data_samples or []):
            h, w = sample.metainfo.get('img_shape', x.shape[2:])[:2]
            x[i, :, h:], x[i, :, :, w:] = self.pad_value, self.pad_value
        return x


def shared_preprocessor(given: Any, students: Mapping[str, nn.Module], scope: str) -> nn.Module:
    """Return the data preprocessor that was given, or the first student's own.

    Args:
        given: A config, a module, or None.
        students: They see one batch.
        scope: Of the first student's types.

    Raises:
        TypeError: Neither a config nor a module was given.
        ValueError: None was given, and the students' own differ.
    """
    if given is None:
        own = {name: getattr(one, 'data_preprocessor', None) for name, one in students.items()}
        _refuse_others(own)
        given = next(iter(own.values()), None)
    if isinstance(given, nn.Module):
        return given
    if given is not None and not isinstance(given, dict):
        raise TypeError(
            f'data_preprocessor must be a dictionary or a module, got {given!r}. Mend: leave it '
            "out for the student's own, or dict(type='SegDataPreProcessor', …)"
        )
    config = given or dict(type='BaseDataPreprocessor')
    return ROOT_MODELS.build({'_scope_': scope, **config})


def _refuse_others(own: Mapping[str, Any]) -> None:
    first = next(iter(own), '')
    for name, other in own.items():
        both = own[first] is not None and other is not None
        if both and Renormalise(own[first], other).changes:
            raise ValueError(
                f'the students {first!r} and {name!r} have data preprocessors of different mean, '
                'std, padding value or channel order, but see one batch. Mend: '
                'data_preprocessor=dict(...) for all of them'
            )
