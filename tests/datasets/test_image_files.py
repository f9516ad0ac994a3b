"""ImageFiles: resized pixels by hand, other data sets as source, mixing with labelled images,
messages.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.images import CLASSES, write_classes
from mmengine.dataset import ConcatDataset

from mmkd.datasets import CIFAR10, DigitScenes, ImageFiles

PACK = [dict(type='mmkd.PackClsInputs')]


def folder(root: Path, number: int = 5) -> Path:
    """Write images of 4×6 in which every pixel is ten times the image's number, half of them in a
    subfolder.
    """
    for index in range(number):
        path = root / ('a' if index % 2 else '.') / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 6, 3), 10 * index, np.uint8))
    return root


def test_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Below any subfolder; marked as out of distribution, and without a label."""
    data = ImageFiles(str(folder(tmp_path)), pattern='**/*.png', size=(8, 12), pipeline=PACK)
    assert [int(sample['inputs'][0, 0, 0]) for sample in data] == [0, 20, 40, 10, 30]
    sample = data[1]['data_samples']
    assert data[1]['inputs'].shape == (3, 8, 12)
    assert sample.metainfo['ood'] is True
    assert sample.metainfo['ori_shape'] == (4, 6)
    assert 'gt_label' not in sample


def test_pixels_are_averaged(tmp_path: Path) -> None:
    """A 4×4 image at 2×2 is the mean of each quarter."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 4
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    expected = pixels.reshape(2, 2, 2, 2, 3).astype(float).mean((1, 3))
    data = ImageFiles(str(tmp_path), pattern='*.png', size=(2, 2))
    np.testing.assert_allclose(data[0]['img'], expected, atol=0.5)


def test_limit_is_spread_evenly(tmp_path: Path) -> None:
    """Three of five: numbers 0, 1 and 3 of the sorted paths."""
    data = ImageFiles(str(folder(tmp_path)), pattern='**/*.png', limit=3)
    assert [int(sample['img'][0, 0, 0]) for sample in data] == [0, 20, 10]


def test_another_data_set_as_source() -> None:
    """The scenes of digits, at half their size: the mean of each 2×2 block."""
    source: dict[str, Any] = dict(type='mmkd.DigitScenes', split='test', num_scenes=3)
    data = ImageFiles(dataset=source)
    scene = DigitScenes(split='test', num_scenes=3).scene(2)[0]
    expected = scene.reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert len(data) == 3
    np.testing.assert_allclose(data[2]['img'], expected, atol=0.51)
    data[2]['img'][:] = 0
    assert data[2]['img'].max() > 0


def test_mixed_with_labelled_images(tmp_path: Path) -> None:
    """mmengine's ConcatDataset takes both where they have one metainfo."""
    meta = dict(classes=CLASSES)
    labelled = CIFAR10(str(write_classes(tmp_path)), split='test', metainfo=meta, pipeline=PACK)
    both = ConcatDataset(
        [
            labelled,
            ImageFiles(
                dataset=dict(type='mmkd.DigitScenes', num_scenes=2),
                size=(16, 16),
                metainfo=meta,
                pipeline=PACK,
            ),
        ]
    )
    assert [sample['data_samples'].ood for sample in both] == [False] * 12 + [True] * 2
    assert {tuple(sample['inputs'].shape) for sample in both} == {(3, 16, 16)}


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(), ValueError, 'exactly one of data_root .* and dataset'),
        (
            dict(data_root='.', dataset=dict(type='mmkd.DigitScenes')),
            ValueError,
            'exactly one of data_root',
        ),
        (
            dict(data_root='/nowhere'),
            FileNotFoundError,
            r'no \*\*/\*.jpg in .*put the images there',
        ),
        (
            dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=2), limit=3),
            ValueError,
            'limit=3, but there are 2 images',
        ),
        (
            dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=2), limit=0),
            ValueError,
            'limit must be .*got 0',
        ),
        (
            dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=2), size=(0, 4)),
            ValueError,
            'size must be .*got 0',
        ),
        (
            dict(
                dataset=dict(
                    type='mmkd.DigitScenes',
                    num_scenes=2,
                    pipeline=[dict(type='mmkd.PackClsInputs')],
                )
            ),
            ValueError,
            "have no 'img'.*Mend: a pipeline that ends before packing",
        ),
        (dict(data_root='.', limits=3), TypeError, "did you mean 'limit'"),
    ],
)
def test_mistakes(options: dict, error: type[Exception], message: str) -> None:
    """Each names the argument, what was got and the mend."""
    with pytest.raises(error, match=message):
        ImageFiles(**options)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / 'a.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'a\.jpg is no image.*Mend'):
        ImageFiles(str(tmp_path))
