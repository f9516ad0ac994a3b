"""Levels: which objectives are active, when a level ends, and a run that is resumed within one."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.peers import afd
from helpers.runs import run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import batch, build, distiller, segmentor
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmkd.engine.hooks import ScheduleHook
from mmkd.engine.schedules import Progressive, Stacked
from mmkd.engine.schedules.level_weights import LevelWeights, forget_silence
from mmkd.engine.schedules.levels import LevelPlan, LevelState, build_levels
from mmkd.tasks import Classification, generated_batch

NAMES = [['layer1'], ['layer2'], ['soft']]


def test_active_objectives() -> None:
    one, more = Progressive(levels=NAMES), Stacked(levels=NAMES)
    assert [one.active(level) for level in range(3)] == [{'layer1'}, {'layer2'}, {'soft'}]
    assert [more.active(level) for level in range(3)] == [
        {'layer1'},
        {'layer1', 'layer2'},
        {'soft'},
    ]
    assert Stacked([['a', 'b'], ['c'], ['d'], ['e', 'f']]).active(2) == {'a', 'b', 'c', 'd'}
    for level in (-1, 3):
        with pytest.raises(IndexError, match=f'level {level} of 3, counted from 0'):
            one.active(level)


def walk(plan: LevelPlan, values: list[float]) -> list[int]:
    """Return the level of every iteration."""
    state, levels = LevelState(), []
    for step, value in enumerate(values):
        levels.append(state.level)
        state, _ = plan.advance(state, step, value if plan.watched(state.level) else None)
    return levels


def test_a_level_ends_after_its_iterations() -> None:
    plan = build_levels(dict(type='progressive', levels=NAMES, length=[2, 3]))
    assert walk(plan, [9.0] * 8) == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_level_ends_when_the_mean_of_a_window_is_small() -> None:
    """Windows of two: (.5, .1) is not below .2, (.1, .2) is; the second level is cut off by its
    length.
    """
    plan = build_levels(
        dict(
            type='stacked',
            levels=[['cos1'], ['att2', 'cos2'], ['soft']],
            length=5,
            threshold=0.2,
            window=2,
        )
    )
    assert (
        walk(plan, [0.5, 0.1, 0.1, 0.2, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9])
        == [0] * 4 + [1] * 5 + [2] * 2
    )
    assert [plan.watched(level) for level in range(3)] == [['cos1'], ['cos2'], []]


def test_a_wildcard_watches_no_task() -> None:
    """The students' own losses in a level before the last are no objective, so no loss of that name
    is logged.
    """
    plan = LevelPlan(Progressive([['cos1', 'task'], ['soft']]), [5], watch='*', threshold=0.2)
    assert plan.watched(0) == ['cos1']


def test_a_state_that_was_saved_in_mid_window_goes_on() -> None:
    plan = LevelPlan(Progressive([['cos1'], ['soft']]), [99], threshold=0.3, window=3)
    state = LevelState()
    for step, value in enumerate([0.4, 0.3]):
        state, why = plan.advance(state, step, value)
    assert (state.level, state.count, why) == (0, 2, '')
    assert plan.advance(state, 2, 0.1) == (
        LevelState(1, 3),
        'the mean of cos1 over 3 iterations, 0.2667, is below 0.3',
    )
    assert plan.advance(state, 2, 0.3)[0] == LevelState(0, 0)
    again = LevelPlan(Progressive([['cos1'], ['soft']]), [3])
    assert again.advance(LevelState(0, 0), 2, None) == (
        LevelState(1, 3),
        'its 3 iterations are over',
    )


# ---------------------------------------------------------------- runs


def levels(**changes: Any) -> dict:
    return dict(
        type='stacked', levels=[['cos_low'], ['cos_high'], ['soft', 'task']], length=4, **changes
    )


def model() -> dict:
    """Return a Distiller whose two stages are compared by their mean states, and whose logits by
    KL.
    """
    cosine = dict(type='HiddenCosineLoss', token='mean', loss_weight=0.5)
    read = {
        name: dict(loss=cosine, on=name, weight=2.0, connectors=dict(student='auto'))
        for name in ('low', 'high')
    }
    return distiller(
        student=dict(model=segmentor(4, num_classes=3, size=32)),
        teacher=dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True),
        taps=dict(
            low='backbone:output[1]', high='backbone:output[3]', logits='decode_head.conv_seg'
        ),
        objectives=dict(
            cos_low=read['low'],
            cos_high=read['high'],
            soft=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=3.0),
        ),
    )


def run(folder: Path, max_iters: int, name: str, resume: bool = False, **changes: Any) -> Any:
    cfg = run_config(folder, model(), max_iters=max_iters, interval=2, val_interval=99, name=name)
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(dict(type='mmkd.ScheduleHook', levels=levels(**changes)))
    return train(cfg, resume)


def history(key: str) -> list[float]:
    return MessageHub.get_current_instance().log_scalars[f'train/{key}'].data[0].tolist()


def test_a_run_learns_level_by_level(tmp_path: Path) -> None:
    runner = run(tmp_path, 10, 'whole')
    assert history('level') == [0] * 4 + [1] * 4 + [2] * 2
    zero = {
        key: [value == 0 for value in history(key)]
        for key in ('cos_low.loss', 'cos_high.loss', 'soft.loss', 'decode.loss_ce')
    }
    assert zero == {
        'cos_low.loss': [False] * 8 + [True] * 2,
        'cos_high.loss': [True] * 4 + [False] * 4 + [True] * 2,
        'soft.loss': [True] * 8 + [False] * 2,
        'decode.loss_ce': [True] * 8 + [False] * 2,
    }
    weights = {name: objective.weight for name, objective in runner.model.objectives.items()}
    assert (weights, runner.model.task_weight) == (
        {'cos_low': 0.0, 'cos_high': 0.0, 'soft': 3.0},
        1.0,
    )


def test_a_second_training_of_one_model_has_the_full_weights() -> None:
    """What a level left at 0 is not the weight of the config; one that was changed since is."""
    made = build(model())
    names = ['cos_low', 'cos_high', 'soft', 'task']
    LevelWeights(made, names).learn_from({'cos_low'})
    assert (made.objectives['soft'].weight, made.task_weight) == (0.0, 0.0)
    LevelWeights(made, names).learn_from({'soft', 'task'})
    assert (made.objectives['soft'].weight, made.task_weight) == (3.0, 1.0)
    assert made.objectives['cos_low'].weight == 0.0
    made.objectives['cos_low'].weight = 5.0
    LevelWeights(made, names).learn_from({'cos_low'})
    assert made.objectives['cos_low'].weight == 5.0


def test_resume_goes_on_within_the_level(tmp_path: Path) -> None:
    """6 iterations and 4 more equal 10, bit for bit, though the level began at 4 and its window is
    half full.
    """
    kwargs = dict(threshold=1e-6, window=3)
    whole = run(tmp_path, 10, 'whole', **kwargs)
    reached = history('level')
    run(tmp_path, 6, 'parts', **kwargs)
    saved = checkpoint(run(tmp_path, 6, 'look', **kwargs), 'iter_6.pth')['mmkd_levels']
    assert (saved['level'], saved['begin'], saved['count']) == (1, 4, 2)
    parts = run(tmp_path, 10, 'parts', resume=True, **kwargs)
    assert history('level') == reached == [0] * 4 + [1] * 4 + [2] * 2
    one, other = checkpoint(whole, 'iter_10.pth'), checkpoint(parts, 'iter_10.pth')
    for key in ('state_dict', 'optimizer', 'mmkd_levels'):
        assert differences(one[key], other[key]) == [], key


def test_the_threshold_is_of_the_loss_without_its_weights(tmp_path: Path) -> None:
    """A cosine distance is at most 2: weight 2 · loss_weight .5 leave it as it is, and 2.1 is
    always above.
    """
    run(tmp_path, 6, 'whole', threshold=2.1, window=2)
    assert history('level') == [0, 0, 1, 1, 2, 2]


def test_the_log_says_when_and_why(tmp_path: Path) -> None:
    runner = run(tmp_path, 6, 'whole', threshold=2.1, window=2)
    runner.logger.handlers[0].flush()
    cfg = run_config(
        tmp_path, model(), max_iters=5, interval=9, val_interval=99, name='told', log_level='INFO'
    )
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(dict(type='mmkd.ScheduleHook', levels=levels()))
    text = next(Path(train(cfg).work_dir).rglob('*.log')).read_text()
    assert "level 0 of 3 (counted from 0) learns from ['cos_low']" in text
    assert 'level 0 ends after iteration 4, because its 4 iterations are over' in text
    assert "level 1 of 3 (counted from 0) learns from ['cos_high', 'cos_low']" in text


def test_levels_that_a_training_never_reaches_are_told(tmp_path: Path) -> None:
    cfg = run_config(
        tmp_path, model(), max_iters=8, interval=9, val_interval=99, name='told', log_level='INFO'
    )
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(dict(type='mmkd.ScheduleHook', levels=levels()))
    text = next(Path(train(cfg).work_dir).rglob('*.log')).read_text()
    assert (
        'the last level may begin as late as iteration 8, but training ends at 8. Mend: a shorter '
        'length' in text
    )


def test_a_checkpoint_of_other_levels_is_refused() -> None:
    hook, runner = ScheduleHook(levels=levels()), SimpleNamespace(_resume=True)
    with pytest.raises(ValueError, match='knows of no levels: its run had none. Mend: load_from=…'):
        hook.after_load_checkpoint(runner, {})
    with pytest.raises(
        ValueError,
        match='stands in level 3, but there are 3 .counted from 0.. Mend: the levels that',
    ):
        hook.after_load_checkpoint(
            runner, dict(mmkd_levels=dict(level=3, begin=0, total=0.0, count=0))
        )
    runner._resume = False
    hook.after_load_checkpoint(runner, {})
    assert hook.state == LevelState()


def test_adam_begins_anew_with_what_had_no_gradient() -> None:
    """After 50 steps of zeros its bias correction is over: a first gradient would move a weight by
    1.65 times lr.
    """
    silent, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    wrapper = OptimWrapper(torch.optim.Adam([silent, other], lr=0.1))
    for _ in range(50):
        silent.grad, other.grad = torch.zeros(3), torch.ones(3)
        wrapper.optimizer.step()
    moved = other.clone()
    for forget, expected in (
        (False, 0.1 * 0.1 / (1 - 0.9**51) / math.sqrt(0.001 / (1 - 0.999**51))),
        (True, 0.1),
    ):
        with torch.no_grad():
            silent.zero_()
        saved = copy.deepcopy(wrapper.optimizer.state_dict())
        if forget:
            forget_silence(wrapper.optimizer)
            assert list(wrapper.optimizer.state) == [other]
        silent.grad, other.grad = torch.ones(3), torch.ones(3)
        wrapper.optimizer.step()
        torch.testing.assert_close(silent.detach(), torch.full((3,), -expected), rtol=1e-3, atol=0)
        wrapper.optimizer.load_state_dict(saved)
    assert not torch.equal(moved, other)


def test_a_mute_objective_with_a_connector_is_not_computed_and_its_weights_get_zeros() -> None:
    """Infinite features would make 0 · loss NaN and end the training."""
    instance = build(model())
    objective = instance.objectives['cos_low']
    objective.weight, objective.loss = 0.0, None  # would fail
    losses = instance(
        **instance.data_preprocessor(batch(size=32, num_classes=3), True), mode='loss'
    )
    assert losses['cos_low.loss'] == 0 < losses['cos_high.loss']
    sum(v for k, v in losses.items() if k.endswith('.loss')).backward()
    assert all((p.grad == 0).all() for p in objective.parameters())
    assert any(p.grad.any() for p in instance.objectives['cos_high'].parameters())


def test_a_mute_objective_without_parameters_is_not_computed() -> None:
    model = build(distiller())
    model.objectives['pixel'].weight = 0.0
    model.objectives['pixel'].loss = None  # would fail
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert losses['pixel.loss'] == 0 < losses['pair.loss']


def test_a_phase_of_nothing_but_mute_objectives_goes_on() -> None:
    """A map loss that warms up from 0 in a phase of its own: its optimizer steps with a gradient of
    zeros.
    """
    config = afd(2)
    for k in range(2):
        config['objectives'][f'map{k}'] = dict(
            loss=dict(type='FeatureL1Loss'),
            reads=dict(student=f'peer{k}.feat', teacher=f'peer{1 - k}.feat'),
        )
    config['phases'].pop()
    model = build(config)
    optim = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='mmkd.PhaseOptimWrapperConstructor',
            optim_wrapper_cfg={
                name: dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
                for name in ('logit', 'feature')
            },
        )
    )(model)
    for k in range(2):
        model.objectives[f'map{k}'].weight = 0.0
    before = [p.clone() for p in model.students.parameters()]
    logs = model.train_step(generated_batch(4, (32, 32), Classification(3)), optim)
    assert logs['map0.loss'] == 0 < logs['logit0.loss']
    assert not all(
        torch.equal(a, b) for a, b in zip(before, model.students.parameters(), strict=True)
    )


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        (
            dict(type='stack', levels=NAMES, length=1),
            ValueError,
            "type of levels must be one of .*'stacked'",
        ),
        (dict(type='stacked', levels=NAMES), TypeError, r"levels also need \['length'\]"),
        (
            dict(type='stacked', levels=NAMES, length=1, treshold=1),
            TypeError,
            "treshold.*did you mean 'threshold'",
        ),
        (
            dict(type='stacked', levels=[['a']], length=1),
            ValueError,
            'levels must be two or more lists of names',
        ),
        (
            dict(type='stacked', levels=['a', 'b'], length=1),
            ValueError,
            'levels must be two or more lists of names',
        ),
        (
            dict(type='stacked', levels=[['a'], []], length=1),
            ValueError,
            'levels must be two or more lists of names',
        ),
        (
            dict(type='stacked', levels=[['a'], ['a', 'b']], length=1),
            ValueError,
            r"levels name \['a'\] twice",
        ),
        (
            dict(type='stacked', levels=NAMES, length=[1]),
            ValueError,
            r'for each of the 2 levels before the last, got \[1',
        ),
        (dict(type='stacked', levels=NAMES, length=0), ValueError, 'length of a level'),
        (
            dict(type='stacked', levels=NAMES, length=1, threshold=0.1),
            ValueError,
            r"watch='cos\*' matches nothing in \['layer1'\]",
        ),
        (
            dict(type='stacked', levels=NAMES, length=1, threshold=0.0, watch='*'),
            ValueError,
            'threshold of levels',
        ),
        (dict(type='stacked', levels=NAMES, length=1, window=0), ValueError, 'window of levels'),
    ],
)
def test_bad_levels(config: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_levels(config)


def test_levels_that_name_no_objective_or_a_scheduled_one(tmp_path: Path) -> None:
    cfg = run_config(tmp_path, model(), max_iters=2)
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(
        dict(type='mmkd.ScheduleHook', levels=levels() | dict(levels=[['cos_lo'], ['soft']]))
    )
    with pytest.raises(KeyError, match="names no objective; did you mean 'cos_low'"):
        train(cfg)
    with pytest.raises(ValueError, match="'soft.weight' is scheduled, and a level sets it too"):
        ScheduleHook(
            [dict(target='soft.weight', type='linear', start=0.0, end=1.0, length=3)], levels()
        )
