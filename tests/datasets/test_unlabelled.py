"""Images without labels: of folders, of data sets, beside labelled ones; no label leaks."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny_run import PIPELINE, segmentation_data, segmentation_set
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope

from mmkd.datasets import DigitScenes, UnlabelledImages, WithUnlabelled
from mmkd.datasets.seeded import SeededDataset
from mmkd.datasets.unlabelled import places_of, without_annotations
from mmkd.registry import DATASETS

SCENES = dict(type='mmkd.DigitScenes', num_scenes=3, pipeline=[dict(type='PackSegInputs')])


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ('b.png', 'below/a.JPG', 'below/deeper/c.jpeg'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((24, 24, 3), 40, np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_a_folder_is_read_with_all_below_it(folder: Path):
    images = UnlabelledImages(str(folder), pipeline=PIPELINE)
    paths = [images.get_data_info(i)['img_path'] for i in range(len(images))]
    assert [str(Path(path).relative_to(folder)) for path in paths] == [
        'b.png',
        'below/a.JPG',
        'below/deeper/c.jpeg',
    ]
    packed = images[1]
    assert packed['inputs'].shape == (3, 16, 16)
    sample = packed['data_samples']
    assert sample.labelled is False
    assert sample.img_path == paths[1]
    assert list(sample.keys()) == []


def test_links_to_folders_are_followed_once(folder: Path, tmp_path_factory) -> None:
    """One that leads back up, and two that lead to one place, end."""
    linked = tmp_path_factory.mktemp('linked')
    (linked / 'a').symlink_to(folder)
    (linked / 'b').symlink_to(folder)
    (folder / 'below/up').symlink_to(linked)
    images = UnlabelledImages(str(linked), pipeline=PIPELINE)
    paths = [images.get_data_info(i)['img_path'] for i in range(len(images))]
    assert [str(Path(path).relative_to(linked)) for path in paths] == [
        'a/b.png',
        'a/below/a.JPG',
        'a/below/deeper/c.jpeg',
    ]


def test_scenes_lose_their_labels():
    """A twin of the labelled scenes: the images are theirs."""
    labelled = DigitScenes(num_scenes=3, seed=1, pipeline=[dict(type='PackSegInputs')])
    images = UnlabelledImages(
        dataset=dict(type='mmkd.DigitScenes', num_scenes=3, seed=1),
        pipeline=[dict(type='PackSegInputs')],
    )
    for own, other in zip(images, labelled, strict=True):
        assert own['inputs'].equal(other['inputs'])
        assert 'gt_sem_seg' not in own['data_samples']
        assert own['data_samples'].metainfo['labelled'] is False
        assert own['data_samples'].img_path == other['data_samples'].img_path


def test_label_files_are_never_opened(tmp_path: Path):
    data = segmentation_data(tmp_path)
    own = dict(
        type='BaseSegDataset',
        data_root=str(data),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=PIPELINE,
    )
    for path in (data / 'ann').iterdir():
        path.write_text('broken')
    images = UnlabelledImages(dataset=own, pipeline=PIPELINE, indices=[1, 4])
    assert len(images) == 2
    assert images[1]['data_samples'].img_path.endswith('4.png')
    assert 'seg_map_path' not in images[1]['data_samples'].metainfo


def test_a_pipeline_without_packing_says_it_too(folder: Path):
    images = UnlabelledImages(str(folder), pipeline=[dict(type='LoadImageFromFile')])
    assert images[0]['labelled'] is False


def test_steps_of_annotations_are_left_out():
    class LoadAnnotations:
        """A step that is built already."""

    crop = dict(type='RandomCrop', crop_size=(8, 8), cat_max_ratio=0.75)
    flip = dict(type='RandomFlip', prob=0.5)
    load = dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)
    steps = [
        dict(type='LoadImageFromFile'),
        load,
        LoadAnnotations(),
        dict(type='LoadDepthAnnotation'),
        dict(type='FilterAnnotations'),
        dict(type='GenerateEdge'),
        dict(type='RandomApply', transforms=[crop, load]),
        dict(type='RandomChoice', transforms=[[crop, load], [flip]]),
        dict(type='RandomChoice', transforms=[]),
    ]
    blind = {**crop, 'cat_max_ratio': 1.0}
    assert without_annotations(steps) == [
        dict(type='LoadImageFromFile'),
        dict(type='RandomApply', transforms=[blind]),
        dict(type='RandomChoice', transforms=[[blind], [flip]]),
        dict(type='RandomChoice', transforms=[]),
    ]
    assert crop['cat_max_ratio'] == 0.75


def test_both_in_one_data_set(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    data = segmentation_data(tmp_path_factory.mktemp('data'), 4)
    labelled = segmentation_set(data)
    mixed = WithUnlabelled(labelled, dict(data_root=str(folder), pipeline=PIPELINE))
    assert len(mixed) == 7
    assert mixed.metainfo == labelled.metainfo
    assert places_of(mixed) == ([0, 1, 2, 3], [4, 5, 6])
    assert ['gt_sem_seg' in mixed[i]['data_samples'] for i in (3, 4)] == [True, False]


def test_the_pipeline_of_the_labelled_set_is_taken():
    mixed = DATASETS.build(
        dict(type='mmkd.WithUnlabelled', dataset=SCENES, unlabelled=dict(dataset=SCENES))
    )
    assert mixed[0]['inputs'].equal(mixed[3]['inputs'])
    assert mixed[3]['data_samples'].labelled is False


@pytest.mark.parametrize('kind', ['RepeatDataset', 'ConcatDataset'])
def test_data_sets_inside_of_wrappers(kind: str):
    """mmseg wraps DRIVE and STARE in a RepeatDataset."""
    wrapped = {
        'RepeatDataset': dict(type=kind, times=2, dataset=SCENES),
        'ConcatDataset': dict(type=kind, datasets=[SCENES] * 2),
    }[kind]
    mixed = DATASETS.build(
        dict(type='mmkd.WithUnlabelled', dataset=wrapped, unlabelled=dict(dataset=wrapped))
    )
    assert places_of(mixed) == (list(range(6)), list(range(6, 12)))
    assert mixed[1]['inputs'].equal(mixed[7]['inputs'])
    assert mixed[4]['inputs'].equal(mixed[10]['inputs'])
    assert 'gt_sem_seg' not in mixed[7]['data_samples']


def test_wrappers_are_looked_into():
    images = UnlabelledImages(dataset=SCENES)
    scenes = DATASETS.build(SCENES)
    both = dict(type='mmkd.WithUnlabelled', dataset=SCENES, unlabelled=dict(dataset=SCENES))
    repeated = RepeatDataset(both, 2)
    assert places_of(repeated) == ([0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11])
    assert places_of(SeededDataset(repeated, 0)) == places_of(repeated)
    assert places_of(ConcatDataset([images, images])) == ([], [*range(6)])
    assert places_of(WithUnlabelled(ConcatDataset([scenes, scenes]), images))[0] == [*range(6)]
    assert places_of(scenes) == ([0, 1, 2], [])


def test_a_sample_that_a_step_leaves_out_is_fetched_again(folder: Path):
    images = UnlabelledImages(str(folder), pipeline=[lambda results: None])
    assert images.prepare_data(0) is None


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(data_root='no/such'), FileNotFoundError, "there is no folder 'no/such'"),
        ({}, ValueError, 'exactly one of data_root'),
        (dict(data_root='.', dataset=SCENES), ValueError, 'exactly one of data_root'),
        (dict(dataset=SCENES, suffixes='.png'), TypeError, 'suffixes of UnlabelledImages must be'),
        (dict(dataset=SCENES, pipline=[]), TypeError, "'pipline'; did you mean 'pipeline'"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        UnlabelledImages(**arguments)


@pytest.mark.bad_input
def test_an_empty_folder(tmp_path: Path):
    (tmp_path / 'a.txt').write_text('x')
    text = f'found no image in {str(tmp_path)!r}, nor in folders below it (suffixes: .jpg, .jpeg'
    with pytest.raises(FileNotFoundError, match=re.escape(text)):
        UnlabelledImages(str(tmp_path))


@pytest.mark.bad_input
def test_labelled_images_as_unlabelled():
    with pytest.raises(
        ValueError, match=r'unlabelled of WithUnlabelled is a DigitScenes, which has labels. Mend'
    ):
        WithUnlabelled(SCENES, SCENES)
