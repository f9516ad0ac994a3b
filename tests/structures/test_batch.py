"""The batch: labels, validity, their size at a loss's map, and labels that cannot be."""

import pytest
import torch
from helpers import tiny
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmkd.structures.batch import Batch, read_batch, resize_labels


def sample(labels: list, **metainfo: object) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([labels])), metainfo=metainfo)


def batch(*labels: list, ignore_index: int = 255, **metainfo: object) -> Batch:
    return Batch(
        torch.zeros(len(labels), 3, 2, 2), [sample(one, **metainfo) for one in labels], ignore_index
    )


def test_labels_and_valid_by_value() -> None:
    got = batch([[0, 255], [3, 1]], [[255, 255], [2, 255]])
    assert got.labels.tolist() == [[[0, 255], [3, 1]], [[255, 255], [2, 255]]]
    assert got.valid.tolist() == [[[True, False], [True, True]], [[False, False], [True, False]]]
    assert batch([[0, 255], [3, 1]], ignore_index=3).valid.tolist() == [
        [[True, True], [False, True]]
    ]


def test_labels_of_classification() -> None:
    samples = [
        BaseDataElement(gt_label=torch.tensor([2])),
        BaseDataElement(gt_label=torch.tensor([0])),
    ]
    got = Batch(torch.zeros(2, 3, 4, 4), samples)
    assert got.labels.tolist() == [2, 0]
    assert got.valid.tolist() == [True, True]
    assert read_batch(got, 'labels', torch.zeros(2, 5)).tolist() == [2, 0]
    assert read_batch(got, 'valid', torch.zeros(2, 5, 4, 4)).tolist() == [True, True]


@pytest.mark.bad_input
@pytest.mark.parametrize('samples', [None, [], [SegDataSample()], [sample([[1]]), SegDataSample()]])
def test_no_labels(samples: list | None) -> None:
    with pytest.raises(
        ValueError, match="hold neither 'gt_sem_seg' nor 'gt_label'. Mend: load annotations"
    ):
        _ = Batch(torch.zeros(1, 3, 1, 1), samples).labels


@pytest.mark.bad_input
def test_of_depth_the_known_is_valid_and_there_are_no_labels() -> None:
    depth = torch.tensor([[[2.0, 0.0], [float('nan'), float('inf')]], [[1.0, 3.0], [-1.0, 5.0]]])
    got = Batch(
        torch.zeros(2, 3, 2, 2),
        [SegDataSample(gt_depth_map=PixelData(data=one[None])) for one in depth],
    )
    assert got.valid.tolist() == [[[True, False], [False, False]], [[True, True], [False, True]]]
    with pytest.raises(
        ValueError,
        match='batch.labels: these samples hold depth, no class .*batch.valid of a depth',
    ):
        _ = got.labels


@pytest.mark.bad_input
def test_labels_of_boxes() -> None:
    def boxes(*labels: int, path: str = 'a.jpg') -> BaseDataElement:
        sample = BaseDataElement(
            gt_instances=InstanceData(labels=torch.tensor(labels, dtype=torch.long))
        )
        sample.set_metainfo(dict(img_path=path))
        return sample

    Batch(torch.zeros(2, 3, 2, 2), [boxes(0, 2), boxes()]).check_labels(3)
    Batch(torch.zeros(1, 3, 2, 2), [boxes()]).check_labels(3)
    with pytest.raises(
        ValueError,
        match=r'boxes have the labels \[3, 7\], but the student has 3 classes \(0 … 2\) '
        r'\(from b.jpg, d.jpg\). Mend: num_classes of the head, or metainfo',
    ):
        Batch(
            torch.zeros(4, 3, 2, 2),
            [boxes(1), boxes(7, 0, path='b.jpg'), boxes(path='c.jpg'), boxes(3, path='d.jpg')],
        ).check_labels(3)
    with pytest.raises(
        ValueError, match='batch.labels: these samples hold boxes, no class of a pixel'
    ):
        _ = Batch(torch.zeros(1, 3, 2, 2), [boxes(0)]).labels


@pytest.mark.parametrize(('height', 'width'), [(8, 8), (4, 4), (3, 5), (1, 1), (16, 24)])
def test_resize_takes_the_nearest(height: int, width: int) -> None:
    """Slow loop: position (i, j) of the map takes label (⌊i·8/h⌋, ⌊j·8/w⌋); nothing is mixed."""
    labels = torch.randint(0, 256, (2, 8, 8))
    got = resize_labels(labels, (height, width))
    expected = [
        [
            [labels[n, i * 8 // height, j * 8 // width].item() for j in range(width)]
            for i in range(height)
        ]
        for n in range(2)
    ]
    assert got.dtype == torch.int64
    assert got.tolist() == expected
    mask = resize_labels(labels > 100, (height, width))
    assert mask.dtype == torch.bool
    assert torch.equal(mask, got > 100)


def test_read_batch_resizes_what_has_places() -> None:
    got = batch([[1, 255], [255, 255]])
    got.inputs = torch.ones(1, 3, 2, 2)
    like = torch.zeros(1, 7, 4, 2)
    assert read_batch(got, 'labels', like).tolist() == [
        [[1, 255], [1, 255], [255, 255], [255, 255]]
    ]
    assert read_batch(got, 'valid', like).tolist() == [
        [[True, False], [True, False], [False, False], [False, False]]
    ]
    assert read_batch(got, 'valid', torch.zeros(1, 7, 1, 1)).tolist() == [[[True]]]
    assert read_batch(got, 'labels', None).tolist() == [[[1, 255], [255, 255]]]
    assert read_batch(got, 'inputs', like) is got.inputs
    assert read_batch(got, 'data_samples', like) is got.data_samples


@pytest.mark.bad_input
@pytest.mark.parametrize('shape', [(1, 7), (1, 7, 4)])
def test_labels_of_places_for_a_tensor_without(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=rf'have places \(1, 2, 2\), but the student tensor that they go with has '
        rf'{len(shape) - 2} spatial axes. Mend: tap a map',
    ):
        read_batch(batch([[1, 2], [3, 4]]), 'valid', torch.zeros(shape))


@pytest.mark.bad_input
@pytest.mark.parametrize('wrong', [11, 254, -1])
def test_labels_out_of_range(wrong: int) -> None:
    got = batch([[0, wrong], [10, 255]], seg_map_path='scenes/a_labels.png')
    with pytest.raises(
        ValueError,
        match=rf'labels hold the ids \[{wrong}\], but the student has 11 classes \(0 … 10; '
        r'255 is ignored\) \(from scenes/a_labels.png\). Mend: reduce_zero_label',
    ):
        got.check_labels(11)


@pytest.mark.bad_input
def test_labels_out_of_range_name_their_own_files() -> None:
    fine, wrong = [[0, 1], [255, 2]], [[0, 1], [255, 99]]
    labels = (fine, fine, wrong, fine, wrong, wrong, fine)
    got = batch(*labels)
    for number, one in enumerate(got.data_samples):
        one.set_metainfo(dict(seg_map_path=f'{number}.png'))
    with pytest.raises(ValueError, match=r'ids \[99\].*\(from 2.png, 4.png and 1 more\). Mend'):
        got.check_labels(11)
    images = [
        BaseDataElement(gt_label=torch.tensor([i]), metainfo=dict(img_path=f'{i}.jpg'))
        for i in (0, 7, 2, -100)
    ]
    with pytest.raises(ValueError, match=r'ids \[7\].*\(from 7.jpg\). Mend'):
        Batch(torch.zeros(4, 3, 2, 2), images).check_labels(3)


def test_labels_in_range_pass() -> None:
    assert batch([[0, 10], [255, 255]]).check_labels(11) is True
    assert batch([[0, 11], [5, 3]], ignore_index=11).check_labels(11) is True


def test_nothing_but_void() -> None:
    got = batch([[255, 255], [255, 255]], [[255, 255], [255, 255]], img_path='scenes/a.jpg')
    assert got.check_labels(11) is False
    assert got.tell_void() == (
        'no valid position: every label of this batch is the ignore index 255 (from scenes/a.jpg). '
        'Mend: check ignore_index, reduce_zero_label and the label files; a larger crop or '
        'RandomCrop(cat_max_ratio=0.75) avoids crops of nothing but void'
    )


def test_generated_batches_are_repeatable() -> None:
    first, again, other = (
        tiny.batch(seed=seed, ignore=0.25)['data_samples'][0].gt_sem_seg.data for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.2 < (first == 255).float().mean() < 0.3
