"""What a model is for, and generated labels that it can learn from."""

import pytest
import torch
from helpers.tiny import segmentor
from torch import nn

from mmkd.models.decode_heads.depth_head import DepthHead
from mmkd.registry import MODELS
from mmkd.tasks.base import Task, check_same_classes, check_same_places, task_of
from mmkd.tasks.generated import generated_batch


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
            Task('segmentation', 5),
        ),
        (
            lambda: model(decode_head=DepthHead(0.5, 8.0, num_bins=4, in_channels=2, channels=2)),
            Task('depth', None, (0.5, 8.0)),
        ),
        (
            lambda: model(decode_head=nn.ModuleList([model(), model(num_classes=3)])),
            Task('segmentation', 3),
        ),
        (lambda: model(bbox_head=model(num_classes=7)), Task('detection', 7)),
        (
            lambda: model(roi_head=model(bbox_head=nn.ModuleList([model(num_classes=7)]))),
            Task('detection', 7),
        ),
        (
            lambda: type('RPN', (nn.Module,), dict(bbox_head=model(num_classes=1)))(),
            Task('detection'),
        ),
        (lambda: model(num_classes=4), Task('classification', 4)),
        (lambda: model(head=model(num_classes=6)), Task('classification', 6)),
        (lambda: model(head=model()), Task('classification')),
        (model, Task('')),
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
    for kind, name in (('segmentation', 'gt_sem_seg'), ('depth', 'gt_depth_map')):
        one, again, other = (
            generated_batch(2, (16, 16), Task(kind, 9, (1.0, 2.0)), seed)['data_samples'][1]
            .get(name)
            .data
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
