"""Any images as out-of-distribution samples: resized, without labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from mmkd.datasets.arguments import check_arguments
from mmkd.registry import DATASETS
from mmkd.utils.checks import check_count

OWN = ('data_root', 'pattern', 'size', 'limit', 'dataset')


@DATASETS.register_module()
class ImageFiles(BaseDataset):
    """Images of a folder or of another data set, resized and marked ``ood=True``, without labels.

    What a model that was trained on something else should be unsure about. To mix them with a
    labelled set use mmengine's ``ConcatDataset``, and give both the same ``metainfo``.

    Args:
        data_root: Folder of the images.
        pattern: Which files of it, as in ``pathlib.Path.glob``; taken in the order of their paths.
        size: (height, width) to which each image is resized, by area averaging.
        limit: Take so many images, evenly spaced; None takes all.
        dataset: In place of ``data_root``: the config of a data set whose pipeline leaves ``img``
            (BGR), such as ``dict(type='mmkd.DigitScenes', split='test', num_scenes=100)``.
        **kwargs: As in mmengine's BaseDataset: ``pipeline``, ``metainfo``, ``indices``,
            ``test_mode``, ``lazy_init``, ``serialize_data``, ``max_refetch``.

    Raises:
        FileNotFoundError: No file matches.
        ValueError: Both or neither of ``data_root`` and ``dataset``; a size or limit that is no
            number above 0; fewer images than ``limit``; a file that does not decode; a data set
            whose samples have no ``img``.
        TypeError: An unknown argument, with the nearest match.

    >>> scenes = ImageFiles(dataset=dict(type='mmkd.DigitScenes', num_scenes=2))
    >>> len(scenes), scenes[0]['img'].shape, scenes[0]['ood']
    (2, (32, 32, 3), True)
    """

    def __init__(
        self,
        data_root: str | None = None,
        pattern: str = '**/*.jpg',
        size: tuple[int, int] = (32, 32),
        limit: int | None = None,
        dataset: dict | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(kwargs, OWN, 'ImageFiles')
        if (data_root is None) == (dataset is None):
            raise ValueError(
                'ImageFiles needs exactly one of data_root (a folder) and dataset (the config of a '
                f'data set), got data_root={data_root!r}, dataset={dataset!r}'
            )
        for side in size:
            check_count('size', side, 1)
        check_count('limit', 1 if limit is None else limit, 1)
        self.pattern, self.size, self.limit = pattern, tuple(size), limit
        self.source: Any = None if dataset is None else DATASETS.build(dataset)
        super().__init__(data_root=str(data_root or ''), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Decode and resize every image; return an entry an image."""
        read = self._read_files() if self.source is None else self._read_source()
        entries, images = [], []
        for number, (path, image) in enumerate(read):
            images.append(cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA))
            entries.append(dict(img_path=path, image=number, ood=True, ori_shape=image.shape[:2]))
        self.images = np.stack(images)
        return entries

    def _read_files(self) -> Iterator[tuple[str, np.ndarray]]:
        paths = sorted(Path(self.data_root).glob(self.pattern))
        if not paths:
            raise FileNotFoundError(
                f'ImageFiles found no {self.pattern} in {self.data_root!r}: put the images there, '
                'or set data_root or pattern'
            )
        for index in self._chosen(len(paths)):
            image = cv2.imread(str(paths[index]))
            if image is None:
                raise ValueError(
                    f'{paths[index]} is no image that OpenCV decodes. Mend: a narrower pattern'
                )
            yield str(paths[index]), image

    def _read_source(self) -> Iterator[tuple[str, np.ndarray]]:
        for index in self._chosen(len(self.source)):
            sample = self.source[index]
            if 'img' not in sample:
                raise ValueError(
                    "ImageFiles: the samples of dataset have no 'img' (they have "
                    f'{sorted(sample)}). Mend: a pipeline that ends before packing, such as '
                    "[dict(type='LoadImageFromFile')]"
                )
            yield str(sample.get('img_path', index)), sample['img']

    def _chosen(self, total: int) -> list[int]:
        limit = self.limit or total
        if limit > total:
            raise ValueError(
                f'limit={limit}, but there are {total} images. Mend: limit={total} at most'
            )
        return [number * total // limit for number in range(limit)]

    def get_data_info(self, idx: int) -> dict:
        """Return the entry with a copy of its image: transforms may write into it."""
        info = super().get_data_info(idx)
        return dict(info, img=self.images[info['image']].copy(), img_shape=self.size)
