"""NaN or Inf stops training by name, and the checkpoint before it stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import Line, make_runner

from mmkd.engine.hooks.nan_stop import non_finite

NAN, INF = float('nan'), float('inf')


def train(
    work_dir: Path, losses: dict[int, Any], hook: str = 'mmkd.SafeCheckpointHook', **kwargs: Any
) -> Any:
    runner = make_runner(
        work_dir,
        dict(type=hook, by_epoch=False, interval=1),
        model=Line(losses),
        custom_hooks=[dict(type='mmkd.NaNStopHook')],
        **kwargs,
    )
    return runner.train()


@pytest.mark.parametrize(
    ('bad', 'named'),
    [
        ({'pixel.loss': torch.tensor(NAN)}, r"objective 'pixel' \(pixel\.loss = nan\) at"),
        (
            {'holistic.critic_loss': torch.tensor(-INF), 'pair.loss': torch.tensor(1.0)},
            r"objective 'holistic' \(holistic\.critic_loss = inf\) at",
        ),
        (
            {'pixel.loss': torch.tensor(NAN), 'pair.loss': torch.tensor(INF)},
            r"objective 'pixel' \(pixel\.loss = nan\), objective 'pair' \(pair\.loss = inf\) at",
        ),
        ({'decode.loss_dice': torch.tensor(NAN)}, r'NaN or Inf: decode\.loss_dice = nan at'),
        ({'aux': torch.tensor([1.0, NAN])}, r'NaN or Inf: aux = nan at'),
    ],
)
def test_names_the_objective_and_what_stays(bad: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=named) as info:
        train(tmp_path, {3: bad})
    message = str(info.value)
    assert ' at iteration 3. ' in message
    assert (
        f'{tmp_path}/iter_2.pth stays as the last good checkpoint (--resume goes on from it)'
        in message
    )
    assert 'Lower the learning rate or the weight' in message
    # the total 'loss' is NaN because a part is; naming it would say nothing
    assert '(loss' not in message
    assert ' loss =' not in message
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')


def test_the_total_is_named_where_it_alone_is_bad(tmp_path: Path) -> None:
    big = {'decode.loss_a': torch.tensor(3e38), 'decode.loss_b': torch.tensor(3e38)}
    with pytest.raises(
        FloatingPointError, match=r'Inf: loss = inf at iteration 1\. No checkpoint had been written'
    ):
        train(tmp_path, {1: big})


def test_runs_before_mmengines_own_checkpoint_hook_too(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match='iter_1'):
        train(tmp_path, {2: {'pixel.loss': torch.tensor(NAN)}}, hook='CheckpointHook')
    assert [file.name for file in tmp_path.glob('*.pth')] == ['iter_1.pth']


@pytest.mark.parametrize('hook', ['mmkd.SafeCheckpointHook', 'CheckpointHook'])
def test_finite_loss_with_a_nan_gradient_is_not_saved(hook: str, tmp_path: Path) -> None:
    # d sqrt(x)/dx at 0 is inf, times 0: the loss is 0, the gradient NaN, and so is the weight after
    # the step
    with pytest.raises(
        FloatingPointError,
        match=r'became NaN or Inf before iteration 3 ended \(first: weight\); '
        r'this checkpoint is not written\. .*iter_2\.pth stays',
    ):
        train(
            tmp_path,
            {3: lambda weight: {'pixel.loss': (weight - weight).square().sum().sqrt()}},
            hook=hook,
        )
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']


def test_buffers_may_hold_inf_but_not_nan(tmp_path: Path) -> None:
    model = Line()
    assert model.mask.isinf().any()
    runner = make_runner(
        tmp_path,
        dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=6),
        model=model,
        custom_hooks=[dict(type='mmkd.NaNStopHook')],
    )
    runner.train()
    assert (tmp_path / 'iter_6.pth').is_file()
    model.mask[0] = NAN
    with pytest.raises(FloatingPointError, match='first: mask'):
        runner.save_checkpoint(str(tmp_path), 'again.pth')


def test_changes_nothing_in_a_good_run(tmp_path: Path) -> None:
    with_hook = train(tmp_path / 'a', {}).weight
    without = make_runner(tmp_path / 'b').train().weight
    assert torch.equal(with_hook, without)


def test_finds_every_bad_value_of_any_kind() -> None:
    values = {
        'a': torch.tensor(1.0),
        'b': torch.tensor(INF, dtype=torch.bfloat16),
        'c': torch.tensor([[NAN, INF], [0, 1]]),
        'd': NAN,
        'e': 1,
        'f': 'text',
        'g': torch.tensor(3),
        'h': torch.tensor(1e300, dtype=torch.float64),
        'i': -INF,
        'j': torch.empty(0),
        'k': None,
        'l': torch.tensor(NAN, dtype=torch.float64),
    }
    found = non_finite(values)
    assert list(found) == ['b', 'c', 'd', 'i', 'l']
    assert [str(value) for value in found.values()] == ['inf', 'nan', 'nan', 'inf', 'nan']
    assert non_finite({}) == {}


def test_one_synchronisation_for_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for name in ('tolist', 'item', '__bool__', '__float__'):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, o=original, n=name: (read.append(n), o(self))[1]
        )
    assert non_finite({str(number): torch.tensor(float(number)) for number in range(10)}) == {}
    assert read == ['tolist']


def test_what_stays_lies_in_out_dir_where_one_is_given(tmp_path: Path) -> None:
    hook = dict(
        type='mmkd.SafeCheckpointHook', by_epoch=False, interval=1, out_dir=str(tmp_path / 'out')
    )
    with pytest.raises(
        FloatingPointError,
        match=rf'{tmp_path}/out/run/iter_2\.pth stays as the last good checkpoint',
    ):
        make_runner(
            tmp_path / 'run',
            hook,
            model=Line({3: {'aux': torch.tensor(NAN)}}),
            custom_hooks=[dict(type='mmkd.NaNStopHook')],
        ).train()
