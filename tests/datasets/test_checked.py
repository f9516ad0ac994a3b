"""Broken files are named, whichever data set and process reads them; empty data sets say where they
looked.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.runs import loader, write_images
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

import mmkd  # noqa: F401  mends mmengine's data sets
from mmkd.datasets.checked import SampleError, strange_id
from mmkd.registry import DATASETS
from mmkd.utils.explain import explain


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path, 2)
    return tmp_path


def dataset(data: Path, **changes: Any) -> Any:
    return DATASETS.build(Config({**loader(data, train=False)['dataset'], **changes})._cfg_dict)


def refusal(data: Path, **changes: Any) -> str:
    """Return what the second sample says, as it is shown to users."""
    samples = dataset(data, **changes)
    assert samples[0]['inputs'].shape == (3, 40, 40), 'the first one is sound'
    with pytest.raises(SampleError) as raised:
        samples[1]
    return explain(raised.value)


def spoil(path: Path, content: Any) -> Path:
    path.write_bytes(content) if isinstance(content, bytes) else cv2.imwrite(str(path), content)
    return path


def wide(largest: int) -> np.ndarray:
    values = np.zeros((40, 40), np.uint16)
    values[3, 4] = largest
    return values


# ---------------------------------------------------------------- each kind of broken file


@pytest.mark.parametrize(
    ('content', 'reason'),
    [(b'no png', 'cannot identify image file'), (b'', r'it is empty \(0 bytes\)')],
)
def test_a_label_that_is_no_image(data: Path, content: bytes, reason: str) -> None:
    file = spoil(data / 'ann/1.png', content)
    assert refusal(data) == (
        f'{file} cannot be read by LoadAnnotations: {reason}. Mend: replace the file, or take it '
        'out of the data set'
    ).replace('\\', '')


def test_a_label_cut_short(data: Path) -> None:
    file = data / 'ann/1.png'
    spoil(file, file.read_bytes()[:60])
    assert refusal(data).startswith(
        f'{file} cannot be read by LoadAnnotations: image file is truncated. Mend: '
    )


@pytest.mark.parametrize(
    ('content', 'reason'), [(b'', 'it is empty (0 bytes)'), (b'no png', 'failed to load image')]
)
def test_a_broken_image(data: Path, content: bytes, reason: str) -> None:
    file = spoil(data / 'img/1.png', content)
    text = refusal(data)
    assert text.startswith(f'{file} cannot be read by LoadImageFromFile: {reason}')
    assert 'ann/1.png' not in text, 'the label is not to blame'


def test_an_image_that_is_not_there(data: Path) -> None:
    (data / 'names.txt').write_text('0\n7\n')
    text = refusal(data, ann_file='names.txt')
    assert text.startswith(
        f'{data}/img/7.png cannot be read by LoadImageFromFile: [Errno 2] No such file'
    )


def test_a_label_of_three_channels(data: Path) -> None:
    file = spoil(data / 'ann/1.png', np.zeros((40, 40, 3), np.uint8))
    assert refusal(data) == (
        f'{file} has the shape (40, 40, 3), but a map holds one value for each pixel of its image '
        f'{data}/img/1.png (40, 40). Mend: one channel, of class ids and not of colours; or take '
        'the file out of the data set'
    )


@pytest.mark.bad_input
def test_a_label_of_another_size(data: Path) -> None:
    file = spoil(data / 'ann/1.png', np.zeros((60, 50), np.uint8))
    assert refusal(data).startswith(
        f'{file} has the size (60, 50) (height, width), but its image {data}/img/1.png (40, 40). '
        'Mend: '
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(20, 20)),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    with pytest.raises(
        SampleError, match=r'1\.png has the size \(60, 50\)'
    ):  # the image as it was, not as it is
        dataset(data, pipeline=pipeline)[1]
    assert dataset(data, pipeline=pipeline)[0]['inputs'].shape == (3, 20, 20)


@pytest.mark.parametrize(('largest', 'cut'), [(256, 0), (300, 44), (65535, 255)])
def test_ids_beyond_8_bits(data: Path, largest: int, cut: int) -> None:
    file = spoil(data / 'ann/1.png', wide(largest))
    assert refusal(data) == (
        f'{file} holds the id {largest}, but labels are read as 8 bits, which would make it {cut}. '
        'Mend: write ids of 0 to 255, 255 where nothing counts'
    )


def test_wide_labels_of_small_ids_are_sound(data: Path) -> None:
    spoil(data / 'ann/1.png', wide(200))
    assert dataset(data)[1]['data_samples'].gt_sem_seg.data.max() == 200


def test_strange_id(tmp_path: Path) -> None:
    for suffix in ('png', 'tif'):
        assert strange_id(str(spoil(tmp_path / f'wide.{suffix}', wide(300)))) == 300
        assert (
            strange_id(str(spoil(tmp_path / f'narrow.{suffix}', wide(7).astype(np.uint8)))) is None
        )
    palette = Image.fromarray(np.full((4, 4), 3, np.uint8), mode='P')
    palette.putpalette([0, 0, 0] * 256)
    palette.save(tmp_path / 'palette.png')
    assert strange_id(str(tmp_path / 'palette.png')) is None
    assert strange_id('s3://bucket/1.png') is None


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('values', 'told'), [([0, 1.5], 1.5), ([0, -1], -1), ([2, np.inf], np.inf), ([7, 8], None)]
)
def test_ids_of_a_float_file(tmp_path: Path, values: list, told: float | None) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / 'label.tif')
    assert strange_id(str(tmp_path / 'label.tif')) == told


@pytest.mark.bad_input
def test_depth_maps(data: Path) -> None:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3),
        dict(type='PackSegInputs'),
    ]
    layout = dict(
        type='NYUDataset',
        pipeline=pipeline,
        img_suffix='.png',
        depth_map_suffix='.png',
        data_prefix=dict(img_path='img', depth_map_path='ann'),
    )

    def build() -> Any:
        return DATASETS.build(dict(data_root=str(data), **layout))

    assert build()[1]['data_samples'].gt_depth_map.data.shape == (1, 40, 40)
    file = spoil(data / 'ann/1.png', np.zeros((60, 50), np.uint16))
    with pytest.raises(
        SampleError, match=r'ann/1\.png has the size \(60, 50\) .height, width., but its image'
    ):
        build()[1]
    spoil(file, wide(5000))  # millimetres of 16 bits are what depth maps are made of
    assert build()[1]['data_samples'].gt_depth_map.data.max() == pytest.approx(5)
    spoil(file, b'')
    with pytest.raises(
        SampleError, match=r'ann/1\.png cannot be read by LoadDepthAnnotation: it is empty'
    ):
        build()[1]


# ---------------------------------------------------------------- other steps, other processes


class Step:
    """A step of a user's."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, data: dict) -> dict:
        raise self.error


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('error', 'kind', 'text'),
    [
        (
            ValueError('crop_size must be smaller'),
            SampleError,
            'Step: crop_size must be smaller (from ',
        ),
        (
            IndexError('list index out of range'),
            IndexError,
            'Step: IndexError: list index out of range (from ',
        ),
        (KeyError('gt_seg_map'), KeyError, 'Step: KeyError: gt_seg_map (from '),
        (UnicodeDecodeError('utf-8', b'x', 0, 1, 'no text'), SampleError, "Step: 'utf-8' codec"),
    ],
)
def test_a_step_that_fails_names_the_sample(
    data: Path, error: Exception, kind: type, text: str
) -> None:
    """A bug keeps its kind, so that its traceback is shown."""
    samples = dataset(data)
    samples.pipeline.transforms.insert(2, Step(error))
    with pytest.raises(kind) as raised:
        samples[1]
    assert explain(raised.value).startswith(text)
    assert f'{data}/img/1.png, {data}/ann/1.png' in explain(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.bad_input
def test_the_name_comes_out_of_a_worker(data: Path) -> None:
    file = spoil(data / 'ann/1.png', b'no png')
    batches = Runner.build_dataloader(loader(data, train=False, workers=1), seed=0)
    with pytest.raises(SampleError) as raised:
        next(iter(batches))
    assert explain(raised.value).startswith(
        f'{file} cannot be read by LoadAnnotations: cannot identify image file.'
    )


@pytest.mark.slow
def test_samples_without_files_are_left_alone() -> None:
    scenes = DATASETS.build(
        dict(type='mmkd.DigitScenes', num_scenes=1, pipeline=[dict(type='PackSegInputs')])
    )
    assert scenes[0]['inputs'].shape == (3, 64, 64)


# ---------------------------------------------------------------- nothing at all


@pytest.mark.bad_input
@pytest.mark.parametrize('serialize', [True, False])
def test_no_samples(data: Path, serialize: bool) -> None:
    with pytest.raises(ValueError, match='has no samples') as raised:
        dataset(data, img_suffix='.jpg', serialize_data=serialize)
    text = str(raised.value)
    assert text.startswith('the data set BaseSegDataset has no samples (data_root=')
    for part in (
        f"'img_path': '{data}/img'",
        "img_suffix='.jpg'",
        "seg_map_suffix='.png'",
        'Mend: data_root',
    ):
        assert part in text


@pytest.mark.bad_input
def test_an_own_data_set_without_samples() -> None:
    class Nothing(BaseDataset):
        def load_data_list(self) -> list[dict]:
            return []

    with pytest.raises(
        ValueError, match=r'Nothing has no samples .data_prefix=.*. Mend: data_root'
    ):
        Nothing()
