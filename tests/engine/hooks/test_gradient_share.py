"""GradientShareHook: its number by hand, and that a run with it is the run without it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import SGD, model_of, run_config
from helpers.tiny import batch, build, distiller, objectives, segmentor

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.engine.hooks.gradient_share import GradientShareHook, left_as_it_was, shares_of
from mmkd.utils.checkpoints import load_checkpoint_file


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    # without dropout two forwards of one batch are one
    student = dict(model=segmentor(4, dropout=0.0, auxiliary=False))
    return build(distiller(student=student, **changes))


def test_the_share_is_the_ratio_of_two_gradients_at_what_is_read() -> None:
    distilled = model(objectives=objectives(pair=None), task_weight=0.5)
    data = batch(2)
    share = shares_of(distilled, data)['pixel']
    prepared = distilled.data_preprocessor(data, True)
    record, task = distilled.observe(**prepared)
    logits = record['student']['logits'].detach().requires_grad_()
    head = distilled.student.decode_head
    of_task = 0.5 * head.loss_by_feat(logits, prepared['data_samples'])['loss_ce']
    student, teacher = (
        torch.log_softmax(x, 1) for x in (logits, record['teacher']['logits'].detach())
    )
    of_objective = 10.0 * (teacher.exp() * (teacher - student)).sum(1).mean()
    norms = [torch.autograd.grad(loss, logits)[0].norm() for loss in (of_objective, of_task)]
    assert share == pytest.approx(float(norms[0] / norms[1]), rel=1e-4)


def test_a_weight_multiplies_the_share_and_a_task_weight_divides_it() -> None:
    one = shares_of(model(), batch(2))
    other = model(task_weight=0.25)
    other.objectives['pixel'].weight *= 3
    found = shares_of(other, batch(2))
    assert found['pixel'] == pytest.approx(12 * one['pixel'], rel=1e-5)
    assert found['pair'] == pytest.approx(4 * one['pair'], rel=1e-5)
    other.objectives['pixel'].weight = 0.0
    assert shares_of(other, batch(2))['pixel'] == 0.0


def test_what_a_gate_passes_on_counts_at_the_peers() -> None:
    """By hand: a gate begins as the mean, so each of two peers gets half of its gradient."""
    torch.manual_seed(0)
    peers = {
        name: dict(model=segmentor(4, dropout=0.0, auxiliary=False, size=32))
        for name in ('one', 'two')
    }
    distilled = build(dict(type='mmkd.Distiller', students=peers, method='one'))
    data = batch(2, 32)
    share = shares_of(distilled, data)['ensemble']
    prepared = distilled.data_preprocessor(data, True)
    record, _ = distilled.observe(**prepared)
    own, read = 0.0, []
    for name in peers:
        read.append(record[name]['logits'].detach().requires_grad_())
        head = distilled.students[name].decode_head
        own += head.loss_by_feat(read[-1], prepared['data_samples'])['loss_ce']
    mean = sum(read) / 2
    record['gate']['logits'] = mean
    learned = distilled.objectives['ensemble'](record)['ensemble.loss']
    norms = [
        torch.stack([one.square().sum() for one in torch.autograd.grad(loss, read)]).sum().sqrt()
        for loss in (learned, own)
    ]
    assert share == pytest.approx(float(norms[0] / norms[1]), rel=1e-4)


def test_without_a_task_there_is_no_share() -> None:
    assert shares_of(model(task_weight=0.0), batch(2)) == dict(pixel=None, pair=None)


def test_every_backward_is_run_where_there_is_no_share_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other ranks wait in a loss that gathers the batch, whatever this one's own losses are."""
    passed: list[str] = []
    distilled = model(task_weight=0.0)
    for name, objective in distilled.objectives.items():
        own = objective.forward

        def watched(record: Any, own: Any = own, name: str = name) -> dict:
            losses = own(record)
            losses[f'{name}.loss'].register_hook(lambda slope: passed.append(name))
            return losses

        monkeypatch.setattr(objective, 'forward', watched)
    assert shares_of(distilled, batch(2)) == dict(pixel=None, pair=None)
    assert sorted(passed) == ['pair', 'pixel']


def test_a_forward_leaves_nothing_behind() -> None:
    distilled = build(distiller())
    before = {name: one.clone() for name, one in distilled.named_buffers()}
    state = torch.get_rng_state()
    with left_as_it_was(distilled):
        shares_of(distilled, batch(2))
        moved = [name for name, one in distilled.named_buffers() if not one.equal(before[name])]
    assert any(name.endswith('running_mean') for name in moved)
    assert all(one.equal(before[name]) for name, one in distilled.named_buffers())
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize('critic', [False, True])
def test_a_run_with_the_hook_is_the_run_without_it(critic: bool, tmp_path: Path) -> None:
    weights = []
    for name in ('without', 'with'):
        cfg = run_config(tmp_path, model_of(critic), name=name)
        if not critic:
            cfg.optim_wrapper = SGD
        if name == 'with':
            cfg.custom_hooks.append(dict(type='mmkd.GradientShareHook', every=2))
        build_runner(prepare_config(cfg)).train()
        weights.append(load_checkpoint_file(tmp_path / name / 'iter_4.pth')['state_dict'])
    assert all(value.equal(weights[1][key]) for key, value in weights[0].items())
    shares = json.loads((tmp_path / 'with/shares.json').read_text())
    assert set(shares) == {'pixel', 'pair', *['holistic'] * critic}
    assert all(share > 0 for share in shares.values())
    lines = next(tmp_path.glob('with/*/vis_data/scalars.json')).read_text().splitlines()
    logged = [json.loads(line).get('pixel.gradient_share') for line in lines]
    assert any(value is not None for value in logged)


def test_the_mean_is_that_of_the_whole_run_and_the_last_share_is_logged(tmp_path: Path) -> None:
    def run(name: str, iters: int, **more: Any) -> dict[str, float]:
        cfg = run_config(tmp_path, model_of(False), name=name, max_iters=iters, interval=2)
        cfg.optim_wrapper = SGD
        cfg.custom_hooks.append(dict(type='mmkd.GradientShareHook', every=1))
        cfg.update(more)
        build_runner(prepare_config(cfg)).train()
        return json.loads((tmp_path / name / 'shares.json').read_text())

    whole = run('whole', 4)
    run('parts', 2)
    parts = run('parts', 4, resume=True)
    assert parts == pytest.approx(whole, rel=1e-6)
    lines = next(tmp_path.glob('whole/*/vis_data/scalars.json')).read_text().splitlines()
    logged = [json.loads(line).get('pixel.gradient_share') for line in lines if '"loss"' in line]
    assert None not in logged


@pytest.mark.parametrize('every', [0, 1.5, True])
def test_every_is_a_count(every: Any) -> None:
    with pytest.raises(ValueError, match='every must be a whole number of at least 1'):
        GradientShareHook(every=every)
