"""Rise and fall of weights: options of every method, and what becomes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.runs import model_of, run_config, train
from helpers.tiny import build, distiller
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmkd.apis.methods import expand_config
from mmkd.engine.hooks import ScheduleHook
from mmkd.engine.schedules import build_schedule
from mmkd.methods import Pair, Plan, expand, find_method, known_methods, options_of
from mmkd.methods.expand import common_options, plan_of
from mmkd.methods.facts import _plans
from mmkd.methods.ramps import ramp
from mmkd.registry import METHODS

RUN = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=160))
PAIR = Pair(iterations=160, method='cwd')


def pair(method: Any, **overrides: Any) -> dict:
    """Return a Distiller of two tiny segmentors whose method says what it learns from."""
    nothing: dict = dict(taps=None, objectives=None)
    config = distiller(**(nothing | dict(method=method) | overrides))
    return {key: one for key, one in config.items() if one is not None}


def points(hooks: list[dict]) -> dict[str, list]:
    schedules = [one for hook in hooks for one in hook.get('schedules', ())]
    return {one['target']: one['points'] for one in schedules if one['type'] == 'piecewise'}


# ---------------------------------------------------------------------- the points


@pytest.mark.parametrize(
    ('warm_up', 'decay', 'expected'),
    [
        (None, None, []),
        (0, None, []),
        (0.0, None, []),
        (8, None, [(0, 0.0), (8, 1.0)]),
        (0.05, None, [(0, 0.0), (8, 1.0)]),
        (None, (0.5, 1.0), [(0, 1.0), (80, 1.0), (160, 0.0)]),
        (None, (0, 40), [(0, 1.0), (40, 0.0)]),
        (8, [8, 12], [(0, 0.0), (8, 1.0), (12, 0.0)]),
        (0.05, (100, 1.0), [(0, 0.0), (8, 1.0), (100, 1.0), (160, 0.0)]),
        (None, (0.501, 0.502), [(0, 1.0), (80, 1.0), (81, 0.0)]),  # less than an iteration apart
    ],
)
def test_whole_numbers_are_iterations_and_others_shares(
    warm_up: Any, decay: Any, expected: list
) -> None:
    assert ramp(PAIR, warm_up, decay) == expected


def test_the_weight_is_numpys_interpolation_of_the_shares() -> None:
    config = Config(dict(RUN, model=pair(dict(type='cwd', warm_up=0.1, decay=(0.5, 0.75)))))
    expand_config(config)
    (hook,) = config.custom_hooks
    schedule = ScheduleHook(hook.schedules).schedules['cwd.weight']
    steps = np.arange(200)
    expected = 3 * np.interp(steps, [0, 16, 80, 120], [0, 1, 1, 0])
    assert [schedule(int(step)) for step in steps] == pytest.approx(expected.tolist())
    assert schedule(16) == schedule(80) == 3.0, 'exactly the weight of the method between'
    assert schedule(0) == schedule(120) == schedule(159) == 0.0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(warm_up=-1), "method 'cwd': warm_up takes whole numbers .*got -1. Mend: warm_up=20"),
        (dict(warm_up=2000.0), 'warm_up takes .*got 2000.0'),
        (dict(warm_up=True), 'warm_up takes .*got True'),
        (dict(warm_up=float('nan')), 'warm_up takes .*got nan'),
        (dict(warm_up='1'), "warm_up takes .*got '1'"),
        (dict(decay=0.5), 'decay must be two numbers.* got 0.5. Mend: decay='),
        (dict(decay='ab'), 'decay must be two numbers'),
        (dict(decay=(1, 2, 3)), 'decay must be two numbers'),
        (dict(decay=(0.5, None)), 'decay takes .*got None'),
        (dict(decay=(0.7, 0.5)), 'decay must end after it begins'),
        (dict(decay=(5, 5)), 'decay must end after it begins'),
        (dict(decay=(0.5, 1)), 'decay must end after it begins'),  # 1 is an iteration
        (dict(warm_up=90, decay=(0.5, 1.0)), 'rises until iteration 90 and would fall from 80 on'),
        (dict(warmup=2), "unknown key 'warmup'; did you mean 'warm_up'"),
    ],
)
def test_bad_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        expand(pair(dict(type='cwd', **options)), RUN)


@pytest.mark.bad_input
@pytest.mark.parametrize('run', [None, dict(train_cfg=dict(by_epoch=True, max_epochs=3))])
def test_a_share_of_a_run_of_unknown_length_names_the_mend(run: Any) -> None:
    with pytest.raises(ValueError, match='a share of the run, .*Mend: a whole number of iter'):
        expand(pair(dict(type='cwd', warm_up=0.1)), run)
    _, additions = expand(pair(dict(type='cwd', warm_up=7)), run)
    assert points(additions.hooks) == {'cwd.weight': [(0, 0.0), (7, 3.0)]}


# ---------------------------------------------------------------------- every method


def test_no_method_has_options_of_these_names() -> None:
    for name, function in known_methods().items():
        assert common_options(function)[:2] == ['warm_up', 'decay'], name


@pytest.mark.parametrize('name', known_methods())
def test_every_method_rises_and_falls_or_says_why_not(name: str) -> None:
    _, plan = next(iter(_plans(name)))
    asked = dict(warm_up=10, decay=(0.5, 0.75))
    example = _example(name)
    if any(hook.get('levels') for hook in plan.hooks):
        with pytest.raises(ValueError, match='sets the weights of .* itself .*Mend: leave them'):
            plan_of(name, asked, example)
        return
    made = plan_of(name, asked, example)
    assert set(made.ramps) == set(made.objectives)
    assert {tuple(one) for one in made.ramps.values()} == {
        ((0, 0.0), (10, 1.0), (150, 1.0), (225, 0.0))
    }
    assert plan_of(name, dict(warm_up=None, decay=None), example).ramps == {}


def _example(name: str) -> Pair:
    """Return the pair of the first task that a method serves."""
    seen: list[Pair] = []
    function = find_method(name)

    def watch(pair: Pair, **options: Any) -> Plan:
        seen.append(pair)
        return function(pair, **options)

    watch.needs = function.needs  # type: ignore[attr-defined]
    METHODS.module_dict[name] = watch
    try:
        next(iter(_plans(name)))
    finally:
        METHODS.module_dict[name] = function
    return seen[0]


def own_method(function: Callable[..., Plan]) -> Callable[..., Plan]:
    METHODS.register_module(name='mine')(function)
    return function


def test_a_method_of_ones_own_has_the_options_unless_it_means_them_itself() -> None:
    def mine(pair: Pair, weight: float = 2.0) -> Plan:
        loss = dict(type='PixelWiseKLLoss')
        return Plan(
            objectives=dict(
                a=dict(loss=loss, on='logits', weight=weight), b=dict(loss=loss, on='logits')
            ),
            taps=dict(logits='auto'),
            decay=(0.5, 1.0),
        )

    def with_own(pair: Pair, warm_up: str = 'slow') -> Plan:
        assert warm_up == 'fast'
        return Plan(
            objectives=dict(a=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
            taps=dict(logits='auto'),
        )

    try:
        own_method(mine)
        _, additions = expand(pair(dict(type='mine', warm_up=0.5)), RUN)
        assert points(additions.hooks) == {
            'a.weight': [(0, 0.0), (80, 2.0), (160, 0.0)],
            'b.weight': [(0, 0.0), (80, 1.0), (160, 0.0)],
        }
        METHODS.module_dict['mine'] = with_own
        assert common_options(with_own) == ['decay', 'task_weight']
        _, additions = expand(pair(dict(type='mine', warm_up='fast', decay=(0, 4))), RUN)
        assert points(additions.hooks) == {'a.weight': [(0, 1.0), (4, 0.0)]}
    finally:
        METHODS.module_dict.pop('mine')


def test_defaults_of_cgd_and_dkd_are_their_authors() -> None:
    """2 000, 110 000 and 120 000 of 160 000 iterations; 20 of 240 epochs, of images alone."""
    run = dict(train_cfg=dict(max_iters=160_000))
    _, additions = expand(pair('cgd'), run)
    expected = [(0, 0.0), (2_000, 0.75), (110_000, 0.75), (120_000, 0.0)]
    assert points(additions.hooks) == {'cgd.weight': expected}
    _, additions = expand(pair('cgd'))
    assert additions.hooks == []
    assert 'the length of the run is not known' in additions.told[0]
    off, additions = expand(pair(dict(type='cgd', warm_up=0, decay=None)))
    assert (additions.hooks, additions.told) == ([], [])
    assert off['objectives']['cgd']['weight'] == 0.75
    images = dict(_plans('dkd'))
    assert images['segmentation'].ramps == {}
    assert images['classification'].ramps == {'dkd': [(0, 0.0), (25, 1.0)]}  # of 300


# ---------------------------------------------------------------------- what stands beside


def test_a_weight_of_the_config_is_what_rises() -> None:
    method = dict(type='cwd', warm_up=4)
    made, additions = expand(pair(method, objectives=dict(cwd=dict(weight=7.0))), RUN)
    assert points(additions.hooks) == {'cwd.weight': [(0, 0.0), (4, 7.0)]}
    assert made['objectives']['cwd']['weight'] == 7.0


def test_an_objective_of_the_config_in_its_place_does_not_rise() -> None:
    mine = dict(loss=dict(type='LogitMSELoss'), on='logits')
    _, additions = expand(pair(dict(type='cwd', warm_up=4), objectives=dict(cwd=mine)), RUN)
    assert additions.hooks == []


def test_a_schedule_or_a_level_of_the_config_wins() -> None:
    linear = dict(target='cwd.weight', type='linear', start=1.0, end=2.0, length=3)
    level = dict(type='progressive', levels=[['cwd'], ['task']], length=5)
    for own in (dict(schedules=[linear]), dict(levels=level)):
        hook = dict(type='mmkd.ScheduleHook', **own)
        config = Config(dict(RUN, custom_hooks=[hook], model=pair(dict(type='cwd', warm_up=4))))
        expand_config(config)
        assert [one.to_dict() for one in config.custom_hooks] == [hook]


def test_renamed_objectives_rise_under_their_new_names() -> None:
    methods = [dict(type='kd'), dict(type='skd-pi', pixel=3.0, warm_up=4)]
    made, additions = expand(pair(methods), RUN)
    (new,) = set(made['objectives']) - {'pixel'}
    assert points(additions.hooks) == {f'{new}.weight': [(0, 0.0), (4, 3.0)]}


@pytest.mark.bad_input
def test_nothing_left_to_learn_is_refused() -> None:
    falling = dict(type='cwd', decay=(0.5, 0.75))
    with pytest.raises(ValueError, match='nothing is learned any more. Mend: decay=None'):
        expand(pair(falling, task_weight=0), RUN)
    expand(pair([falling, 'kd'], task_weight=0), RUN)  # kd stays


def test_the_expansion_prints_the_schedule() -> None:
    config = Config(dict(RUN, model=pair(dict(type='cwd', warm_up=4))))
    from mmkd.apis.methods import _expand

    text = _expand(config)[0]
    names: dict[str, Any] = {}
    exec(text.partition('\n')[2], names)  # without the sentence before it
    assert names['custom_hooks'][0]['schedules'][0]['points'] == [(0, 0.0), (4, 3.0)]
    assert build_schedule(dict(type='piecewise', points=[(0, 0.0), (4, 3.0)]))(2) == 1.5


def test_the_command_line_says_the_options() -> None:
    from mmkd.apis.pairing import read_method

    asked = read_method('cwd:warm_up=0.1,decay=(0.5,1.0)')
    assert asked == dict(type='cwd', warm_up=0.1, decay=(0.5, 1.0))
    _, additions = expand(pair(asked), RUN)
    expected = [(0, 0.0), (16, 3.0), (80, 3.0), (160, 0.0)]
    assert points(additions.hooks) == {'cwd.weight': expected}
    assert not {'warm_up', 'decay'} & options_of(find_method('cwd')).keys()


# ---------------------------------------------------------------------- a weight of 0 costs nothing


def test_a_loss_of_weight_0_is_not_computed() -> None:
    """Nor are its connectors run; each weight of theirs gets a gradient of 0."""
    model: Any = build(pair(dict(type='cwd', on='feature')))
    objective = model.objectives['cwd']
    calls: list[str] = []
    objective.loss.register_forward_hook(lambda *_: calls.append('loss'))
    objective.connectors['student'].register_forward_hook(lambda *_: calls.append('connector'))
    batch = model.data_preprocessor(tiny.batch(), True)
    assert model(**batch, mode='loss')['cwd.loss'].item() > 0
    assert calls == ['connector', 'loss']
    calls.clear()
    objective.weight = 0.0
    silent = model(**batch, mode='loss')['cwd.loss']
    assert (calls, silent.item()) == ([], 0.0)
    silent.backward()
    own = [p for p in objective.parameters() if p.requires_grad]
    assert own
    assert all(p.grad is not None and not p.grad.any() for p in own), 'DDP waits for all of them'


@pytest.mark.parametrize('at', [2, 4])
def test_a_run_resumed_on_the_rise_and_on_the_fall_is_the_whole_one(
    whole: Any, tmp_path: Path, at: int
) -> None:
    """With augmented images and momentum: the student's weights are equal bit for bit."""
    saved = Path(whole.work_dir) / f'iter_{at}.pth'
    cfg = run_config(tmp_path, max_iters=6, model=falling(), name='b', load_from=str(saved))
    resumed = train(cfg, resume=True)
    assert resumed.iter == 6
    pairs = zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True)
    assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []
    assert resumed.model.objectives['cwd'].weight == whole.model.objectives['cwd'].weight


def falling() -> dict:
    """Return a Distiller whose weight is 0, 1/3, 2/3, 1, 2/3, 1/3 of 3."""
    method = dict(type='cwd', warm_up=3, decay=(0.5, 1.0))
    return model_of(critic=False, taps=None, objectives=None, method=method)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train once in one go."""
    folder = tmp_path_factory.mktemp('whole')
    runner = train(run_config(folder, max_iters=6, model=falling(), name='a'))
    logged = MessageHub.get_current_instance().log_scalars['train/cwd.weight'].data[0]
    assert logged.tolist() == pytest.approx([0, 1, 2, 3, 2, 1])
    return runner
