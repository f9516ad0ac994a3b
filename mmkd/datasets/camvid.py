"""CamVid with 11 classes: 367 / 101 / 233 real driving frames of 480×360."""

import os
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmkd.registry import DATASETS


@DATASETS.register_module()
class CamVid(BaseSegDataset):
    """CamVid in the usual 11-class split of 367 / 101 / 233 frames, as an mmseg data set.

    Images are ``NAME.jpg``, labels ``NAME.png`` of the same name with ids 0…10 and 255 for void.
    Two other encodings of CamVid are about: one writes void as 11 (map it to 255 first: a label
    outside 0…10 that is not 255 is no class) and one has 32 colour-coded classes.

    Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009.

    Args:
        img_suffix: Suffix of the images.
        seg_map_suffix: Suffix of the label maps.
        **kwargs: What ``BaseSegDataset`` takes: ``data_root``, ``data_prefix``, ``ann_file``,
            ``pipeline``, …

    Raises:
        FileNotFoundError: no image of that suffix where ``data_prefix`` points.

    >>> CamVid.METAINFO['classes'][9], CamVid.METAINFO['palette'][9]
    ('pedestrian', [64, 64, 0])
    """

    METAINFO = {
        'classes': (
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign_symbol',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        'palette': [
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [0, 0, 192],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    }

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the frames by name; of an empty folder mmseg would only speak of concatenation."""
        folder = self.data_prefix['img_path']
        found = super().load_data_list() if self.ann_file or os.path.isdir(folder) else []
        if not found:
            raise FileNotFoundError(
                f'CamVid found no *{self.img_suffix} in {folder!r}: lay the data out as '
                '<data_root>/{img_dir,ann_dir}/{train,val,test}/NAME.{jpg,png}, or set data_root'
            )
        return found
