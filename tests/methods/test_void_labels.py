"""What does not count teaches nothing, whatever number says so: presets that read labels."""

from typing import Any

import pytest
import torch
from helpers import classification
from helpers.phased import wrappers
from helpers.tiny import batch, build, segmentor
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd.distiller.objectives.objective import build_objective
from mmkd.tasks import generated_batch

BY_LABELS = ['dkd', 'nkd', 'wsld', 'ifvd', 'cirkd-memory', 'ofa', 'heteroakd', 'ksanc']


def distiller(method: Any, **head: Any) -> Any:
    torch.manual_seed(0)
    members = [segmentor(width, auxiliary=False) for width in (4, 8)]
    for member in members:
        member['decode_head'].update(head)
    return build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=members[0]),
            teacher=dict(model=members[1], allow_untrained=True),
            method=method,
        )
    )


def terms(model: Any, data: dict) -> dict[str, Tensor]:
    """Return the losses of the objectives, without those of the critic."""
    record, _ = model.observe(**model.data_preprocessor(data, True))
    found: dict[str, Tensor] = {}
    for one in model.objectives.values():
        found |= {key: value for key, value in one(record).items() if key.endswith('.loss')}
    return found


def of_one_label(label: int) -> dict:
    data = batch(2)
    for sample in data['data_samples']:
        sample.gt_sem_seg.data.fill_(label)
    return data


@pytest.mark.parametrize('method', BY_LABELS)
def test_a_void_label_is_that_of_the_students_head(method: str) -> None:
    """Of a head with ignore_index=1 a map of ones teaches what a map of 255 teaches else."""
    own = distiller(method, ignore_index=1)
    other = distiller(method)
    values = terms(own, of_one_label(1))
    usual = terms(other, of_one_label(255))
    assert values
    assert list(values) == list(usual)
    for name, value in values.items():
        torch.testing.assert_close(value, usual[name], msg=name)
    some = {name: float(value) for name, value in terms(other, of_one_label(1)).items()}
    assert any(abs(some[name] - float(value)) > 1e-3 for name, value in values.items()), some


def test_a_loss_that_says_what_is_ignored_keeps_it() -> None:
    known = dict(student=['logits'], teacher=['logits'])
    loss = dict(type='DecoupledKLLoss')
    for given, asks in ((loss, True), (dict(loss, ignore_index=7), False)):
        config = dict(loss=given, on='logits', reads=dict(labels='batch.labels'))
        one = build_objective('dkd', config, known)
        assert one.asks_what_is_ignored is asks
        assert one.loss.ignore_index == given.get('ignore_index', 255)


# ---------------------------------------------------------------------- images without labels


def test_ksanc_goes_on_where_no_label_counts() -> None:
    model = distiller('ksanc')
    losses = model.train_step(of_one_label(255), wrappers(model))
    assert float(losses['squeezed.loss']) > 0  # the distance of stages reads no label
    void = terms(model, of_one_label(255))
    assert float(void['logit.loss']) == float(void['adversarial.loss']) == 0.0


def images(method: Any) -> Any:
    torch.manual_seed(0)
    return build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=classification.classifier(4)),
            teacher=dict(model=classification.classifier(8), allow_untrained=True),
            method=method,
        )
    )


def some_images(model: Any, unlabelled: list[int]) -> dict:
    data = generated_batch(4, (32, 32), model.task)
    for place in unlabelled:
        meta = {**data['data_samples'][place].metainfo, 'labelled': False}
        data['data_samples'][place] = BaseDataElement(metainfo=meta)
    return data


@pytest.mark.parametrize('method', ['ksanc', 'crd', 'dkd', 'nkd', 'wsld'])
def test_images_without_labels_are_passed_over(method: str) -> None:
    """Alone they teach nothing by labels; beside others they change no term that reads them."""
    model = images(method).eval()
    only = terms(model, some_images(model, [0, 1, 2, 3]))
    for name in ('logit', 'adversarial') if method == 'ksanc' else (method,):
        assert float(only[f'{name}.loss']) == 0.0
    mixed = terms(model, some_images(model, [2]))
    assert all(torch.isfinite(value) for value in mixed.values())


def test_a_queue_keeps_no_image_without_a_label() -> None:
    model = images('crd').train()
    queue = model.objectives['crd'].loss.queue
    for unlabelled, filled in (([0, 1, 2, 3], 0), ([1, 3], 2)):
        terms(model, some_images(model, unlabelled))
        assert int(queue.known.sum()) == filled
