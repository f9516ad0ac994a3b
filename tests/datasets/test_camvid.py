"""CamVid: what it reads is what lies on the disk, in the order and with the names of the usual
11-class split.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmkd.datasets import CamVid
from mmkd.registry import DATASETS

CONFIG = Path(__file__).resolve().parents[2] / 'configs/_base_/datasets/camvid.py'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two frames with known pixels."""
    for folder in ('img_dir/train', 'ann_dir/train'):
        (tmp_path / folder).mkdir(parents=True)
    for name, value in (('b', 10), ('a', 3)):
        cv2.imwrite(
            str(tmp_path / f'img_dir/train/{name}.jpg'),
            np.full((6, 8, 3), (200, 100, 50), np.uint8),
        )
        labels = np.full((6, 8), value, np.uint8)
        labels[0] = 255
        cv2.imwrite(str(tmp_path / f'ann_dir/train/{name}.png'), labels)
    return tmp_path


def build(root: Path, split: str = 'train', **changes: object) -> CamVid:
    return DATASETS.build(
        dict(
            type='mmkd.CamVid',
            data_root=str(root),
            data_prefix=dict(img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
            **changes,
        )
    )


def test_labels_and_images_are_read_as_they_are(root: Path) -> None:
    first, second = build(root)
    assert [Path(s['img_path']).name for s in (first, second)] == ['a.jpg', 'b.jpg']
    np.testing.assert_array_equal(np.unique(first['gt_seg_map']), [3, 255])
    np.testing.assert_array_equal(np.unique(second['gt_seg_map']), [10, 255])
    assert first['gt_seg_map'][1, 0] == 3, 'label 0 is a class: nothing is shifted'
    np.testing.assert_allclose(first['img'].mean((0, 1)), [200, 100, 50], atol=2)


def test_other_suffixes(root: Path) -> None:
    for path in root.rglob('*/train/*.jpg'):
        path.rename(path.with_suffix('.jpeg'))
    assert len(build(root, img_suffix='.jpeg')) == 2
    with pytest.raises(
        FileNotFoundError, match=r"no \*\.jpg in .*img_dir/train': lay the data out as"
    ):
        build(root)


def test_a_missing_folder_names_the_layout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'<data_root>/\{img_dir,ann_dir\}'):
        build(tmp_path)


def test_classes_and_palette() -> None:
    classes, palette = CamVid.METAINFO['classes'], CamVid.METAINFO['palette']
    assert len(classes) == len(set(classes)) == len(set(map(tuple, palette))) == 11
    assert dict(zip(classes, map(tuple, palette), strict=True))['road'] == (128, 64, 128)
    assert (classes.index('sky'), classes.index('bicyclist')) == (0, 10)


@pytest.mark.parametrize(
    ('split', 'count', 'road', 'void'),
    [('train', 367, 0.3166, 0.0395), ('val', 101, 0.2895, 0.0170), ('test', 233, 0.2581, 0.0383)],
)
def test_the_real_split(
    shared: Callable[[str], Path], split: str, count: int, road: float, void: float
) -> None:
    """Counts and class shares are those that the data's own description gives."""
    data = build(shared('data/camvid'), split, lazy_init=False)
    assert len(data) == count
    paths = [data.get_data_info(i)['seg_map_path'] for i in range(len(data))]
    labels = np.stack([cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths])
    assert labels.shape == (count, 360, 480)
    assert np.mean(labels == data.metainfo['classes'].index('road')) == pytest.approx(
        road, abs=6e-5
    )
    assert np.mean(labels == 255) == pytest.approx(void, abs=6e-5)
    assert np.all((labels < 11) | (labels == 255))


def test_the_students_mean_and_std_are_those_of_the_images(shared: Callable[[str], Path]) -> None:
    data = build(shared('data/camvid'))
    images = [
        cv2.imread(data.get_data_info(i)['img_path'])[..., ::-1] for i in range(0, len(data), 8)
    ]
    counts = sum(
        np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
        for image in images
    )
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256)
    mean = share @ value
    std = (share @ value**2 - mean**2) ** 0.5
    norm = Config.fromfile(
        CONFIG.parents[1] / 'models/camvid_pspnet-r18.py'
    ).model.data_preprocessor
    # the config's come from other frames than these: the difference is a hundredth of a standard
    # deviation
    np.testing.assert_allclose(mean, norm.mean, atol=1.1)
    np.testing.assert_allclose(std, norm.std, atol=0.6)


def test_the_config_reads_the_three_splits(shared: Callable[[str], Path]) -> None:
    cfg = Config.fromfile(CONFIG)
    root = shared('data/camvid')
    for loader, count in (
        (cfg.train_dataloader, 367),
        (cfg.val_dataloader, 101),
        (cfg.test_dataloader, 233),
    ):
        loader.dataset.pipeline = []
        assert len(DATASETS.build({**loader.dataset, 'data_root': str(root)})) == count
