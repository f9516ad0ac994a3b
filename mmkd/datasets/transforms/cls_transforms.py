"""Transforms of small images with one label: the usual padded crop, and packing."""

from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement

from mmkd.registry import TRANSFORMS
from mmkd.utils.checks import check_choice, check_count

BORDERS = dict(reflect=cv2.BORDER_REFLECT_101, constant=cv2.BORDER_CONSTANT)


@TRANSFORMS.register_module()
class PadCrop(BaseTransform):
    """Pad all sides of ``img`` and crop a window of the old size at a random place.

    The two offsets are uniform in 0 … 2·padding, drawn from numpy's global generator.

    Args:
        padding: Pixels on every side.
        mode: 'reflect' mirrors the image without repeating its edge, 'constant' pads with 0.

    Raises:
        ValueError: Another mode or a padding that is no whole number above 0.

    >>> results = dict(img=np.full((32, 32, 3), 7, np.uint8))
    >>> image = PadCrop(padding=4)(results)['img']
    >>> image.shape, np.unique(image).tolist()
    ((32, 32, 3), [7])
    """

    def __init__(self, padding: int = 4, mode: str = 'reflect') -> None:
        check_count('padding', padding, 1)
        check_choice('mode', mode, BORDERS)
        self.padding, self.mode = padding, mode

    def transform(self, results: dict) -> dict:
        """Replace ``img``."""
        image, pad = results['img'], self.padding
        height, width = image.shape[:2]
        top, left = np.random.randint(0, 2 * pad + 1, 2)
        padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, BORDERS[self.mode])
        results['img'] = padded[top : top + height, left : left + width]
        return results


@TRANSFORMS.register_module()
class PackClsInputs(BaseTransform):
    """Pack an image and its label as a classifier takes them.

    ``inputs`` is the image (3, H, W), uint8; ``data_samples`` a ``BaseDataElement`` with
    ``gt_label`` (1,) where there is a label, and the metainfo ``img_path``, ``img_shape``,
    ``ori_shape`` and ``ood``.

    >>> packed = PackClsInputs()(dict(img=np.zeros((2, 4, 3), np.uint8), gt_label=5, ood=False))
    >>> packed['inputs'].shape, packed['data_samples'].gt_label, packed['data_samples'].img_shape
    (torch.Size([3, 2, 4]), tensor([5]), (2, 4))
    """

    def transform(self, results: dict) -> Any:
        """Return ``dict(inputs=…, data_samples=…)``."""
        image = results['img']
        sample = BaseDataElement()
        known = dict(
            img_path=results.get('img_path'),
            img_shape=image.shape[:2],
            ori_shape=results.get('ori_shape', image.shape[:2]),
            ood=results.get('ood', False),
        )
        for key, value in known.items():  # set_metainfo would copy all of them deeply
            sample.set_field(value, key, field_type='metainfo')
        if results.get('gt_label') is not None:
            sample.gt_label = torch.tensor([results['gt_label']])
        return dict(
            inputs=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            data_samples=sample,
        )
