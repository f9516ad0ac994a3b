"""CIFAR10: which image is in which split, the real archive, its pipeline's values and speed,
messages.
"""

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.images import CLASSES, image, write_classes
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmkd.datasets import CIFAR10, PackClsInputs, PadCrop
from mmkd.datasets.seeded import seeded_loader
from mmkd.utils.seeds import seed_everything

CONFIG = Path(__file__).resolve().parents[2] / 'configs/_base_/datasets/cifar10.py'


def dataset(root: Path, split: str = 'train', **changes: Any) -> CIFAR10:
    """Return the three colours with two validation images a class."""
    return CIFAR10(
        **dict(data_root=str(root), split=split, val_per_class=2, metainfo=dict(classes=CLASSES))
        | changes
    )


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    ('split', 'numbers'),
    [('train', range(4)), ('val', range(4, 6)), ('trainval', range(6)), ('test', range(100, 104))],
)
def test_splits(tmp_path: Path, zipped: bool, split: str, numbers: range) -> None:
    """The last two of each train class are held out; every image comes with its own label, as it
    was written.
    """
    data = dataset(write_classes(tmp_path, zipped=zipped), split)
    assert len(data) == 3 * len(numbers)
    for index, (label, number) in enumerate(
        (label, number) for label in range(3) for number in numbers
    ):
        sample = data[index]
        assert sample['gt_label'] == label
        assert sample['ood'] is False
        assert f'{CLASSES[label]}/{number % 100:04d}.png' in sample['img_path']
        np.testing.assert_array_equal(sample['img'], image(label, number))


def test_the_first_of_each_class(tmp_path: Path) -> None:
    """A small budget takes the same images from every larger one."""
    data = dataset(write_classes(tmp_path), images_per_class=2)
    assert [(int(s['gt_label']), int(s['img'][0, 0, 0])) for s in data] == [
        (c, i) for c in range(3) for i in range(2)
    ]


def test_a_transform_cannot_write_into_the_data(tmp_path: Path) -> None:
    """The image of a sample is a copy."""
    data = dataset(write_classes(tmp_path))
    data[0]['img'][:] = 0
    np.testing.assert_array_equal(data[0]['img'], image(0, 0))


def test_the_real_archive(shared: Callable[[str], Path]) -> None:
    """2,250 / 250 / 1,000 images a class, with the known mean and standard deviation of
    CIFAR-10.
    """
    root = str(shared('data/cifar10'))
    sizes = {
        split: len(CIFAR10(data_root=root, split=split))
        for split in ('train', 'val', 'trainval', 'test')
    }
    assert sizes == dict(train=22500, val=2500, trainval=25000, test=10000)
    data = CIFAR10(data_root=root, split='trainval')
    assert (
        np.bincount([data.get_data_info(i)['gt_label'] for i in range(0, 25000, 50)]).tolist()
        == [50] * 10
    )
    pixels = data.images[::10].reshape(-1, 3)[:, ::-1].astype(np.float32)
    np.testing.assert_allclose(pixels.mean(0), [125.307, 122.961, 113.858], atol=1.0)
    np.testing.assert_allclose(pixels.std(0), [62.99, 62.09, 66.70], atol=1.0)


def test_pad_crop_gives_every_window_equally_often() -> None:
    """A crop of pad 1 at 3×3 is one of nine windows of numpy's own reflected padding."""
    source = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, 2)
    padded = np.pad(source, ((1, 1), (1, 1), (0, 0)), mode='reflect')
    windows = [padded[y : y + 3, x : x + 3] for y in range(3) for x in range(3)]
    seed_everything(0)
    counts = np.zeros(9)
    for _ in range(900):
        crop = PadCrop(padding=1)(dict(img=source))['img']
        counts += [np.array_equal(crop, window) for window in windows]
    assert counts.sum() == 900
    assert counts.min() > 60  # each is expected 100 times, with a deviation of 9.4


def test_constant_padding() -> None:
    """Zeros come in from the border, and nothing else."""
    seed_everything(1)
    crops = [
        PadCrop(padding=2, mode='constant')(dict(img=np.full((4, 4, 3), 9, np.uint8)))['img']
        for _ in range(50)
    ]
    assert set(np.unique(crops).tolist()) == {0, 9}
    assert {int((crop == 9).sum()) // 3 for crop in crops} <= {
        h * w for h in (2, 3, 4) for w in (2, 3, 4)
    }


def test_packing() -> None:
    """Channels first, label and metainfo in the data sample; an image without label has none."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    packed = PackClsInputs()(
        dict(img=pixels, gt_label=3, img_path='a.png', ori_shape=(5, 6), ood=False)
    )
    np.testing.assert_array_equal(packed['inputs'].numpy(), np.moveaxis(pixels, 2, 0))
    sample = packed['data_samples']
    assert sample.gt_label.tolist() == [3]
    assert sample.metainfo == dict(img_path='a.png', img_shape=(2, 4), ori_shape=(5, 6), ood=False)
    assert 'gt_label' not in PackClsInputs()(dict(img=pixels, ood=True))['data_samples']


def test_the_configs_batches_depend_on_seed_and_position_alone(tmp_path: Path) -> None:
    """Random crops and flips of the base config draw from the global generators; a batch takes
    under 40 ms of CPU.
    """
    write_classes(tmp_path, train=50)
    config = Config.fromfile(CONFIG).train_dataloader
    config.update(num_workers=0, persistent_workers=False)
    config.dataset.update(data_root=str(tmp_path), val_per_class=2, metainfo=dict(classes=CLASSES))
    with DefaultScope.overwrite_default_scope('mmseg'):
        loaders = [
            seeded_loader(Runner.build_dataloader(config, seed=0), seed) for seed in (0, 0, 1)
        ]
    first, again, other = (next(iter(loader)) for loader in loaders)
    assert first['inputs'].shape == (128, 3, 16, 16)
    assert (first['inputs'] == again['inputs']).all()
    assert not (first['inputs'] == other['inputs']).all()
    stream, times = iter(loaders[0]), []
    for _ in range(8):
        start = time.process_time()  # others may use the processor meanwhile
        next(stream)
        times.append(time.process_time() - start)
    assert min(times) < 0.04


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(split='training'), ValueError, "split must be one of.*did you mean 'train'"),
        (dict(images_per_class=0), ValueError, 'images_per_class must be .*got 0'),
        (
            dict(images_per_class=5),
            ValueError,
            "images_per_class=5, but class 'red' has 4 images.*Mend: .*=4",
        ),
        (
            dict(val_per_class=6),
            ValueError,
            "val_per_class=6 leaves no training image of class 'red', which has 6",
        ),
        (dict(val_per_class=-1), ValueError, 'val_per_class must be .*got -1'),
        (dict(piepline=[]), TypeError, "did you mean 'pipeline'"),
        (
            dict(metainfo=dict(classes=('red', 'pink'))),
            FileNotFoundError,
            "no image of class 'pink'.*train/pink/NAME.jpg",
        ),
        (
            dict(data_root='/nowhere'),
            FileNotFoundError,
            'neither /nowhere/train.zip nor .*Mend: put train.zip there',
        ),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict, error: type[Exception], message: str) -> None:
    """Each names the argument, what was got and the mend."""
    with pytest.raises(error, match=message):
        dataset(write_classes(tmp_path), **changes)


def test_an_archive_of_the_whole_set(tmp_path: Path) -> None:
    """Images of the test are not among those of the training, nor what a system puts beside."""
    root = write_classes(tmp_path / 'apart')
    whole = tmp_path / 'whole'
    whole.mkdir()
    with zipfile.ZipFile(whole / 'train.zip', 'w') as archive:
        for part in ('train', 'test'):
            with zipfile.ZipFile(root / f'{part}.zip') as own:
                for name in own.namelist():
                    archive.writestr(f'cifar10/{name}', own.read(name))
                    folder, file = Path(name).parent, Path(name).name
                    archive.writestr(f'__MACOSX/cifar10/{folder}/._{file}', b'system')
    found = [entry['img_path'] for entry in dataset(whole, 'trainval').load_data_list()]
    expected = [entry['img_path'] for entry in dataset(root, 'trainval').load_data_list()]
    inside = [path.partition('cifar10/')[2] for path in found]
    assert inside == [path.partition('train.zip/')[2] for path in expected]


def test_broken_files(tmp_path: Path) -> None:
    """A file that is no image, and images of two sizes."""
    with zipfile.ZipFile(write_classes(tmp_path / 'a') / 'train.zip', 'a') as archive:
        archive.writestr('train/red/9999.png', b'no image')
    with pytest.raises(ValueError, match=r'train.zip/train/red/9999.png is no image'):
        dataset(tmp_path / 'a')
    with zipfile.ZipFile(write_classes(tmp_path / 'e') / 'train.zip', 'a') as archive:
        archive.writestr('train/red/9999.png', b'')
    with pytest.raises(ValueError, match=r'train.zip/train/red/9999.png is no image'):
        dataset(tmp_path / 'e')
    root = write_classes(tmp_path / 'b', zipped=False)
    cv2.imwrite(str(root / 'train/red/9999.png'), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match='must have one size, got'):
        dataset(root)


@pytest.mark.parametrize('kept', [0, 100, -30])
def test_an_archive_cut_short_is_named(tmp_path: Path, kept: int) -> None:
    path = write_classes(tmp_path) / 'train.zip'
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r'train\.zip is broken or no zip file .*Mend: copy it again'
    ):
        dataset(tmp_path)


def test_an_archive_with_a_flipped_byte_is_named(tmp_path: Path) -> None:
    path = write_classes(tmp_path) / 'train.zip'
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF  # within the first image
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'train\.zip is broken or no zip file .Bad CRC-32'):
        dataset(tmp_path)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(padding=0), 'padding must be .*got 0'),
        (dict(mode='refelct'), "did you mean 'reflect'"),
    ],
)
def test_mistakes_of_pad_crop(options: dict, message: str) -> None:
    """Each names the argument."""
    with pytest.raises(ValueError, match=message):
        PadCrop(**options)
