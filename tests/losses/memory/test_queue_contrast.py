"""QueueContrastLoss: what is a key when, both terms of embeddings, maps, what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.memory_contrast import memory_contrast as slow
from torch import Tensor

from mmkd.losses import QueueContrastLoss


def draw(seed: int, *shape: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *(shape or (3, 6)), dtype=torch.float64, generator=generator).unbind()


def build(compare: str = 'nce', size: int = 7, **options: Any) -> QueueContrastLoss:
    return QueueContrastLoss(size, 0.3, compare, teacher_channels=6, **options).double()


@pytest.mark.parametrize('compare', ['kl', 'info-nce', 'nce'])
def test_keys_are_the_images_of_before_and_of_kl_those_of_this_batch_too(compare: str) -> None:
    loss, before = build(compare), torch.zeros(0, 6, dtype=torch.float64)
    for seed in range(5):
        student, teacher = draw(seed)
        value = loss(student, teacher)
        joined = torch.cat([before, F.normalize(teacher)])[-7:]
        keys = joined if compare == 'kl' else before
        expected = slow(student, teacher, keys, None, 0.3, compare)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        before = joined
        assert loss.diagnostics['filled'].item() == pytest.approx(len(before) / 7)
    assert loss.queue.pushed.tolist() == [15]


def test_maps_are_averaged_over_what_counts() -> None:
    """And an image of which nothing counts is neither compared nor remembered."""
    student, teacher = draw(0, 3, 6, 2, 4)
    weight = torch.rand(3, 2, 4, dtype=torch.float64)
    mask = torch.arange(24).view(3, 2, 4) % 3 > 0
    mask[1] = False
    shares = (weight * mask)[[0, 2]].unsqueeze(1)
    pooled = [(shares * x[[0, 2]]).sum((2, 3)) / shares.sum((2, 3)) for x in (student, teacher)]
    bad = torch.full_like(student, torch.nan)
    maps = [torch.where(mask.unsqueeze(1), x, bad) for x in (student, teacher)]
    first, second = build('kl'), build('kl')
    torch.testing.assert_close(first(*maps, mask, weight), second(*pooled))
    torch.testing.assert_close(first.queue.rows, second.queue.rows)
    assert first.queue.pushed.tolist() == [2]


def test_a_mask_and_a_weight_of_vectors() -> None:
    student, teacher = draw(0)
    weight = torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    loss = build('kl')
    expected = slow(student, teacher, F.normalize(teacher[[0, 2]]), None, 0.3, 'kl', mask, weight)
    assert loss(student, teacher, mask, weight).item() == pytest.approx(expected, rel=1e-9)


def test_embeddings_are_told_apart_on_both_sides() -> None:
    """The first term reaches the student and its layer, the second the teacher's layer."""
    loss = QueueContrastLoss(9, 0.3, 'nce', embed=4, student_channels=5, teacher_channels=6)
    loss.double()
    queues = [torch.zeros(0, 4, dtype=torch.float64)] * 2
    for seed in range(3):
        student, teacher = draw(seed, 3, 6)
        student = student[:, :5].clone().requires_grad_()
        ours, theirs = loss.student_layer(student).detach(), loss.teacher_layer(teacher).detach()
        terms = [
            slow(ours, theirs, queues[0], None, 0.3, 'nce'),
            slow(theirs, ours, queues[1], None, 0.3, 'nce'),
        ]
        value = loss(student, teacher)
        assert value.item() == pytest.approx(sum(terms), rel=1e-9, abs=1e-12)
        queues = [
            torch.cat([held, F.normalize(new)])[-9:]
            for held, new in zip(queues, (theirs, ours), strict=True)
        ]
    torch.testing.assert_close(loss.queue.rows[:-1], queues[0])
    torch.testing.assert_close(loss.student_queue.rows[:-1], queues[1])
    value.backward()
    for x in (student, loss.student_layer.weight, loss.teacher_layer.weight):
        assert x.grad.abs().max() > 0
    assert not loss.queue.rows.requires_grad


@pytest.mark.parametrize('embed', [None, 4])
def test_with_labels_keys_are_of_other_classes(embed: int | None) -> None:
    """Also after the queue has gone round; images without a label are told apart from all."""
    loss = QueueContrastLoss(7, 0.3, 'nce', embed, 6, 6).double()
    held: list[tuple] = []
    for seed in range(6):
        student, teacher = draw(seed, 4, 6)
        labels = torch.tensor([seed % 3, 1, 2, -1])
        ours = student if embed is None else loss.student_layer(student).detach()
        theirs = teacher if embed is None else loss.teacher_layer(teacher).detach()
        value = loss(student, teacher, labels=labels).item()
        expected = []
        for k, label in enumerate(labels.tolist()):
            others = [one for one in held if one[0] != label or label < 0]
            for a, b, keys in ((ours, theirs, 1), (theirs, ours, 2))[: 1 if embed is None else 2]:
                rows = torch.stack([one[keys] for one in others]) if others else ours[:0]
                expected.append(slow(a[k : k + 1], b[k : k + 1], rows, None, 0.3, 'nce'))
        assert value == pytest.approx(sum(expected) / 4, rel=1e-9, abs=1e-12)
        new = zip(labels.tolist(), F.normalize(theirs), F.normalize(ours), strict=True)
        held = [*held, *new][-7:]
    assert sorted(loss.queue.tags[:-1].tolist()) == sorted(one[0] for one in held)


def test_a_perfect_student_of_a_queue_that_holds_the_training_set() -> None:
    """Without labels its own vectors of an epoch ago are among the keys, with labels none is."""
    torch.manual_seed(0)
    scenes, found = torch.eye(32), {}
    for labels in (None, torch.arange(32)):
        loss = QueueContrastLoss(64, compare='info-nce', teacher_channels=32)
        for _ in range(3):
            for some in torch.randperm(32).view(-1, 8):
                own = None if labels is None else labels[some]
                found[labels is None] = loss(scenes[some], scenes[some], labels=own).item()
    assert found[True] > math.log(2)
    assert found[False] < 1e-3


def test_training_by_it_pairs_images_up() -> None:
    """A linear student of the same scenes as the teacher finds each of them among all others."""
    torch.manual_seed(0)
    scenes, mix = torch.randn(64, 8), torch.randn(2, 8, 8)
    loss = QueueContrastLoss(32, 0.1, 'nce', embed=6, student_channels=8, teacher_channels=8)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)

    def found() -> float:
        ours, theirs = loss.student_layer(scenes @ mix[0]), loss.teacher_layer(scenes @ mix[1])
        best = (F.normalize(ours) @ F.normalize(theirs).T).argmax(1)
        return (best == torch.arange(64)).float().mean().item()

    assert found() < 0.15
    for _ in range(200):
        some = scenes[torch.randperm(64)[:16]]
        optimizer.zero_grad()
        loss(some @ mix[0], some @ mix[1]).backward()
        optimizer.step()
    assert found() > 0.8


def test_it_is_built_for_what_it_is_given() -> None:
    student, teacher = draw(0)
    plain = QueueContrastLoss(7)
    assert plain.build(student, teacher) == 'queue of 7 vectors'
    assert plain.build(student, teacher) == ''
    assert set(plain.state_dict()) == {'queue.rows', 'queue.tags', 'queue.pushed'}
    both = QueueContrastLoss(7, embed=4)
    assert both.build(student[:, :5], teacher) == 'queue of 7 vectors, layers 5 and 6 -> 4'
    assert both.student_queue.rows.shape == both.queue.rows.shape == (8, 4)


def test_in_eval_mode_nothing_is_remembered() -> None:
    for compare in ('kl', 'nce'):
        loss = build(compare).eval()
        assert loss(*draw(0)).item() == 0
        assert not loss.queue.pushed.any()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(size=0), 'size must be a whole number of at least 1'),
        (dict(tau=-1.0), 'tau must be a finite number above 0'),
        (dict(compare='ce'), 'compare must be one of'),
        (dict(embed=0), 'embed must be a whole number'),
        (dict(embed=4, compare='kl'), "embed=4 trains a layer of the teacher's.*Mend"),
        (dict(student_channels=0), 'student_channels must be'),
        (dict(teacher_channels=1.5), 'teacher_channels must be'),
    ],
    ids=str,
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueueContrastLoss(**options)


@pytest.mark.bad_input
def test_bad_tensors() -> None:
    student, teacher = draw(0)
    with pytest.raises(RuntimeError, match='the memory is not built'):
        QueueContrastLoss()(student, teacher)
    with pytest.raises(ValueError, match='contrast with a queue needs maps'):
        build()(student[:, :5], teacher)
    with pytest.raises(ValueError, match="memory 'queue' was made for a teacher of 6"):
        build()(student[:, :5], teacher[:, :5])
    with pytest.raises(TypeError, match='mask must be a bool'):
        build()(student, teacher, torch.ones(3))
    both = QueueContrastLoss(7, embed=4, student_channels=5, teacher_channels=6)
    for pair, role in (((student, teacher), 'student'), ((student[:, :5],) * 2, 'teacher')):
        with pytest.raises(ValueError, match=rf'layer of the {role} was made for.*Mend'):
            both(*pair)
    with pytest.raises(ValueError, match="compare='kl' is the likeness to all keys.*Mend: leave"):
        build('kl')(student, teacher, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r'contrast with a queue needs labels \(3,\)'):
        build()(student, teacher, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match='labels of an integer dtype'):
        build()(student, teacher, labels=torch.zeros(3))
    # maps of other batches
    with pytest.raises(ValueError, match='contrast with a queue needs maps'):
        build()(student, teacher[:2])
