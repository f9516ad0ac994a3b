"""Batches of nothing but void: counted, worth nothing, and the end of a run only where they go
on.
"""

import copy
import logging
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmkd.distiller.void_batches import MANY, VoidBatches
from mmkd.models.classifiers.image_classifier import answer
from mmkd.structures.batch import Batch


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged as a warning."""
    lines: list[str] = []

    def log(text: str, logger: str, level: int) -> None:
        assert (logger, level) == ('current', logging.WARNING)
        lines.append(text)

    monkeypatch.setattr('mmkd.distiller.void_batches.print_log', log)
    return lines


def void(**metainfo: str) -> Batch:
    labels = PixelData(data=torch.full((1, 2, 2), 255))
    return Batch(torch.zeros(1, 3, 2, 2), [SegDataSample(gt_sem_seg=labels, metainfo=metainfo)])


def test_the_first_and_each_doubling_are_warned_of(said: list[str]) -> None:
    count = VoidBatches()
    for number in range(1, 101):
        count.note(void(seg_map_path=f'{number}.png'), valid=False)
        count.note(void(), valid=True)
    assert count.total == 100
    assert [line.split(' no valid position')[0] for line in said] == [
        'mmkd: a batch has',
        *(f'mmkd: {number} batches so far have' for number in (2, 4, 8, 16, 32, 64)),
    ]
    assert all(
        f'(from {number}.png)' in line
        for number, line in zip((1, 2, 4, 8, 16, 32, 64), said, strict=True)
    )


@pytest.mark.bad_input
def test_many_in_a_row_end_the_run(said: list[str]) -> None:
    count = VoidBatches()
    for _ in range(MANY - 1):
        count.note(void(), valid=False)
    count.note(void(), valid=True)
    for _ in range(MANY - 1):
        count.note(void(), valid=False)
    with pytest.raises(
        ValueError,
        match=r'^50 batches in a row have no valid position. The last one: no valid position'
        r': every label of this batch is the ignore index 255 \(from a.png\). Mend',
    ):
        count.note(void(img_path='a.png'), valid=False)


def test_a_void_step_is_worth_what_plain_mmseg_gives(said: list[str]) -> None:
    masked = tiny.objectives(pair=None)
    masked['pixel']['reads'] = dict(mask='batch.valid')
    model = tiny.build(tiny.distiller(objectives=masked))
    plain = copy.deepcopy(model.student)
    data = model.data_preprocessor(tiny.batch(ignore=1.1), True)
    losses, expected = model(**data, mode='loss'), plain(**data, mode='loss')
    assert losses['decode.loss_ce'] == expected['decode.loss_ce'] == 0
    assert losses['aux.loss_ce'] == expected['aux.loss_ce'] == 0
    assert losses['pixel.loss'] == 0
    before = [p.clone() for p in model.student.parameters()]
    logs = model.train_step(tiny.batch(ignore=1.1), tiny.sgd(model))
    assert logs['loss'] == 0
    assert all(
        torch.equal(p, old) for p, old in zip(model.student.parameters(), before, strict=True)
    )
    assert model.void_batches.total == 2
    assert '(from labels_0.png, labels_1.png)' in said[0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('changes', 'reads'),
    [({}, {}), (dict(task_weight=0), dict(mask='batch.valid')), (dict(task_weight=0), {})],
)
def test_where_nothing_reads_labels_none_are_missed(
    said: list[str], changes: dict, reads: dict
) -> None:
    terms = tiny.objectives(pair=None)
    terms['pixel']['reads'] = reads
    model = tiny.build(tiny.distiller(objectives=terms, **changes))
    data = model.data_preprocessor(tiny.batch(ignore=1.1), True)
    losses = model(**data, mode='loss')
    counts = not changes or bool(reads)
    assert (model.void_batches.total, len(said)) == (counts, counts)
    assert (losses['pixel.loss'] == 0) == bool(reads)
    model.void_batches.row = MANY - 1
    if counts:
        with pytest.raises(ValueError, match='50 batches in a row have no valid position'):
            model(**data, mode='loss')
    else:
        model(**data, mode='loss')


def test_a_classifier_without_a_label_that_counts_is_worth_0() -> None:
    logits = torch.randn(3, 4, requires_grad=True)

    def samples(*labels: int) -> list[Any]:
        return [BaseDataElement(gt_label=torch.tensor([label])) for label in labels]

    nothing = answer(logits, samples(-100, -100, -100), 'loss')['loss_cls']
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0
    assert (gradient == 0).all()
    some = answer(logits, samples(1, -100, 3), 'loss')['loss_cls']
    by_hand = -sum(logits.log_softmax(1)[i, label] for i, label in ((0, 1), (2, 3))) / 2
    torch.testing.assert_close(some, by_hand)
    torch.testing.assert_close(
        some, torch.nn.functional.cross_entropy(logits, torch.tensor([1, -100, 3]))
    )


def test_depth_that_nobody_knows_is_void_too() -> None:
    unknown = SegDataSample(
        gt_depth_map=PixelData(data=torch.zeros(1, 2, 2)), metainfo=dict(depth_map_path='a.png')
    )
    batch = Batch(torch.zeros(1, 3, 2, 2), [unknown])
    assert not batch.valid.any()
    assert batch.tell_void() == (
        'no valid position: no depth of this batch is known (from a.png). Mend: look at the depth '
        'files, and at depth_rescale_factor'
    )
