"""What a model is for, and generated labels that it can learn from."""

import pytest
import torch
from helpers.classification import classifier
from helpers.runs import need_mmdet
from helpers.tiny import segmentor
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from mmkd.models import TextDataPreprocessor
from mmkd.models.decode_heads.depth_head import DepthHead
from mmkd.noise import LabelFlip
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.tasks import (
    Classification,
    Depth,
    Detection,
    Segmentation,
    Task,
    Text,
    Unknown,
    check_same_classes,
    check_same_places,
    generated_batch,
    task_of,
)
from mmkd.tasks.detection import det_sample


def model(**parts: object) -> nn.Module:
    """A module with these attributes."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


@pytest.mark.parametrize(
    ('build', 'expected'),
    [
        (
            lambda: MODELS.build(dict(segmentor(num_classes=5), _scope_='mmseg')),
            Segmentation(5),
        ),
        (
            lambda: model(decode_head=DepthHead(0.5, 8.0, num_bins=4, in_channels=2, channels=2)),
            Depth(min_depth=0.5, max_depth=8.0),
        ),
        (
            lambda: model(decode_head=nn.ModuleList([model(), model(num_classes=3)])),
            Segmentation(3),
        ),
        (lambda: model(bbox_head=model(num_classes=7)), Detection(7)),
        (
            lambda: model(roi_head=model(bbox_head=nn.ModuleList([model(num_classes=7)]))),
            Detection(7),
        ),
        (
            lambda: type('RPN', (nn.Module,), dict(bbox_head=model(num_classes=1)))(),
            Detection(),
        ),
        (lambda: model(num_classes=4), Classification(4)),
        (lambda: model(head=model(num_classes=6)), Classification(6)),
        (lambda: model(head=model()), Classification()),
        (model, Unknown()),
        (lambda: MODELS.build(classifier(2)), Classification(3)),
        (
            lambda: model(num_classes=2, data_preprocessor=TextDataPreprocessor(1, 9)),
            Text(2, 255, 9, 1),
        ),
        (
            lambda: model(
                decode_head=nn.ModuleList([model(ignore_index=7, num_classes=4)]),
                bbox_head=model(num_classes=9),
                num_classes=6,
            ),
            Segmentation(6, 7),
        ),
        (lambda: model(decode_head=model(ignore_index=7, num_classes=4)), Segmentation(4, 7)),
    ],
)
def test_task_of(build: object, expected: Task) -> None:
    assert task_of(build()) == expected


def test_generated_depth_is_what_its_head_can_learn() -> None:
    head = DepthHead(0.5, 8.0, num_bins=4, in_channels=2, channels=2)
    task = task_of(model(decode_head=head))
    batch = generated_batch(3, (24, 32), task)
    depth = torch.stack([sample.gt_depth_map.data for sample in batch['data_samples']])
    assert depth.shape == (3, 1, 24, 32)
    assert (depth[:, :, 19] == 0).all(), 'a row without depth'
    known = depth[depth > 0]
    assert known.min() > 0.5
    assert known.max() < 8
    assert head.loss([torch.randn(3, 2, 6, 8)], batch['data_samples'], None)['loss_silog'] > 0


def test_generated_labels_repeat_with_their_seed() -> None:
    for task in (Segmentation(9), Depth(min_depth=1.0, max_depth=2.0)):
        one, again, other = (
            generated_batch(2, (16, 16), task, seed)['data_samples'][1].get(task.field).data
            for seed in (3, 3, 4)
        )
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_bins_of_depth_and_second_stages_that_do_not_correspond() -> None:
    near, far = (
        model(decode_head=DepthHead(low, high, num_bins=4, in_channels=2, channels=2))
        for low, high in ((0.5, 10.0), (1.0, 80.0))
    )
    places = {
        'student.logits': (near, 'decode_head.conv_seg'),
        'teacher.logits': (far, 'decode_head.conv_seg'),
    }
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel' compares bins of depth of other ranges: {'student.logits'"
        r": \(0.5, 10.0\), 'teacher.logits': \(1.0, 80.0\)}.*tap metres",
    ):
        check_same_places('pixel', places)
    check_same_places('pixel', {**places, 'teacher.logits': (near, 'decode_head.conv_seg')})
    check_same_places('pair', places, by_channel=False)  # affinities of positions
    check_same_places(
        'depth', {name: (one, 'decode_head.depth') for name, (one, _) in places.items()}
    )
    two = {
        f'{name}.scores': (model(), 'roi_head.bbox_head.fc_cls') for name in ('student', 'teacher')
    }
    with pytest.raises(
        ValueError,
        match=r"objective 'kl' compares the roi_head of student and teacher, which see prop"
        'osals of their own.*Mend: tap the neck or the rpn_head',
    ):
        check_same_places('kl', two)
    check_same_places('kl', {**two, 'teacher.scores': (model(), 'rpn_head.rpn_cls')})


def test_classes_that_differ() -> None:
    check_same_classes(dict(a=model(num_classes=3), b=model()), 'the students')
    with pytest.raises(
        ValueError,
        match=r"the students disagree on classes: {'a': 3, 'b': 4}. Mend: the same classes",
    ):
        check_same_classes(dict(a=model(num_classes=3), b=model(num_classes=4)), 'the students')


ALL = (
    Segmentation(5),
    Depth(min_depth=1.0, max_depth=2.0),
    Detection(5),
    Classification(5),
    Text(5, vocab_size=7),
    Unknown(),
)


@pytest.mark.parametrize('task', ALL, ids=lambda task: type(task).__name__)
def test_what_a_task_generates_it_takes(task: Task) -> None:
    """Its inputs and labels are a batch of it, of which everything is valid or masked."""
    if isinstance(task, Detection):
        need_mmdet()
    data = generated_batch(2, (32, 40), task)
    assert [sample.sample_idx for sample in data['data_samples']] == [0, 1]
    if task.sized:
        assert [x.shape for x in data['inputs']] == [(3, 32, 40)] * 2
    else:
        assert [x.shape for x in data['inputs']] == [(3, 16), (3, 12)]
        assert max(int(x[0].max()) for x in data['inputs']) < 7
    inputs = task.preprocessed((32, 40), torch.Generator().manual_seed(0))
    batch = Batch(inputs, data['data_samples'], task=task)
    assert batch.task.kind == (task.kind or 'segmentation')
    assert batch.check_labels(task.num_classes) is True
    if not isinstance(task, Detection):
        void = 0.05 if isinstance(task, Depth | Segmentation | Unknown) else 0.0
        assert (~batch.valid).float().mean().item() == pytest.approx(void, abs=0.02)
    if batch.task.gives_labels:
        assert batch.labels[batch.valid].max() < (task.num_classes or 2)
    clean = Batch(inputs, [task.sample((32, 40), torch.Generator(), masked=False)], task=task)
    assert isinstance(task, Detection) or clean.valid.all()


def panoptic() -> BaseDataElement:
    """Boxes beside a label map, as mmdet's panoptic sets have them."""
    sample = BaseDataElement(
        gt_instances=InstanceData(labels=torch.tensor([1])),
        gt_sem_seg=PixelData(data=torch.tensor([[[0, 4], [255, 2]]])),
    )
    sample.set_metainfo(dict(img_path='a.png'))
    return sample


def test_the_maps_of_a_panoptic_set_are_labels_and_its_boxes_are_checked() -> None:
    got = Batch(torch.zeros(1, 3, 2, 2), [panoptic()], task=Detection(3))
    assert got.labels.tolist() == [[[0, 4], [255, 2]]]
    assert got.valid.tolist() == [[[True, True], [False, True]]]
    assert got.check_labels(3), 'the label 4 is none of a box'
    with pytest.raises(ValueError, match=r'boxes have the labels \[1\].*from a.png'):
        got.check_labels(1)
    flipped = LabelFlip(rate=0.99, num_classes=5).on_batch(got)
    assert flipped.data_samples[0].gt_sem_seg.data.shape == (1, 2, 2)
    assert flipped.data_samples[0].gt_sem_seg.data[0, 1, 0] == 255
    assert (flipped.labels != got.labels).any()
    maps = Batch(torch.zeros(1, 3, 2, 2), [panoptic()], task=Segmentation(3))
    with pytest.raises(ValueError, match=r'labels hold the ids \[4\]'):
        maps.check_labels(3)


@pytest.mark.parametrize('kind', ['tensor', 'HorizontalBoxes'])
def test_boxes_and_masks_go_with_images_that_are_resized(kind: str) -> None:
    need_mmdet()
    from mmdet.structures.bbox import HorizontalBoxes

    boxes = torch.tensor([[1.0, 2.0, 5.0, 6.0]])
    given = HorizontalBoxes(boxes) if kind == 'HorizontalBoxes' else boxes
    sample = det_sample(boxes, torch.tensor([0]), (8, 6), masked=True)
    sample.gt_instances.bboxes = given
    sample.set_metainfo(dict(scale_factor=(2.0, 2.0), ori_shape=(4, 3), img_path='a.png'))
    (got,) = Detection(3).resized([sample], (8, 6), (24, 12))
    new = got.gt_instances.bboxes
    assert getattr(new, 'tensor', new).tolist() == [[2.0, 6.0, 10.0, 18.0]]  # 2 times as wide
    assert got.gt_instances.masks.masks[0, 6:18, 2:10].all()
    assert got.gt_instances.masks.masks.sum() == 12 * 8
    assert got.img_shape == got.pad_shape == got.batch_input_shape == (24, 12)
    assert got.scale_factor == (4.0, 6.0)  # of the original image, width before height
    assert (got.ori_shape, got.img_path) == ((4, 3), 'a.png')
    assert boxes.tolist() == [[1.0, 2.0, 5.0, 6.0]], 'the sample that was given stays'
    assert sample.img_shape == (8, 6)
    assert Detection(3).resized(None, (8, 6), (24, 12)) is None
    assert Segmentation(3).resized([sample], (8, 6), (24, 12)) == [sample]


def test_the_samples_say_more_than_a_model_that_they_do_not_suit() -> None:
    """A dense model that mmkd takes for a classifier: its label maps are checked all the same."""
    labels = BaseDataElement(gt_sem_seg=PixelData(data=torch.tensor([[[0, 4]]])))
    got = Batch(torch.zeros(1, 3, 1, 2), [labels], task=Classification(3))
    with pytest.raises(ValueError, match=r'labels hold the ids \[4\], but the student has 3 cl'):
        got.check_labels(3)
    assert Batch(torch.zeros(1, 3, 1, 2), [BaseDataElement()], task=Classification(3)).check_labels(
        3
    )


@pytest.mark.bad_input
def test_a_task_says_what_it_must() -> None:
    class Bare(Task):
        pass

    with pytest.raises(NotImplementedError, match='Bare does not say how its models are known'):
        Bare.of(model())
    with pytest.raises(NotImplementedError, match='Bare does not say how its labels look. Mend'):
        Bare().sample((8, 8), torch.Generator())
    batch = Batch(torch.zeros(1, 3, 2, 2), [BaseDataElement(metainfo=dict(img_path='a.png'))])
    assert Bare().tell_void(batch).startswith('no valid position: nothing of this batch counts (fr')
    assert Bare().count(batch) == {}
    assert Bare().tell(Bare().count(batch)) == ([], [])


def test_only_a_text_minds_another_vocabulary() -> None:
    other = TextDataPreprocessor(pad_token=1, vocab_size=9)
    Text(2, vocab_size=9, pad_token=1).refuse_other(other, 'teacher')
    Segmentation(2).refuse_other(other, 'teacher')
    for task, its in ((Text(2), other), (Text(2), nn.Identity())):
        with pytest.raises(ValueError, match=r'teacher has another vocabulary and padding than'):
            task.refuse_other(its, 'teacher')
    assert task_of(model(num_classes=4), other) == Text(4, 255, 9, 1)
    assert not task_of(model(), other).known
