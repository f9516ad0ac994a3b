"""Whole runs of mmengine's Runner with the hooks of configs/_base_/runtime.py, on a few small
images.
"""

import copy
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import ADAM, SGD, model_of, run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import segmentor
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import Tensor

from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.work_dir import LOCK


def scalars(runner: Runner) -> list[dict]:
    """Return what was logged of each iteration."""
    (file,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    return [line for line in map(json.loads, file.read_text().splitlines()) if 'loss' in line]


@HOOKS.register_module(force=True)
class Note(Hook):
    """Calls ``note(runner)`` after each iteration, before anything is saved."""

    priority = 'VERY_HIGH'

    def __init__(self, note: Callable[[Runner], None]) -> None:
        self.note = note

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.note(runner)


def noting(cfg: Any, note: Callable[[Runner], None], resume: bool = False) -> Runner:
    """Train with a look at each iteration."""
    from mmkd.apis.launch import build_runner
    from mmkd.apis.prepare import prepare_config

    cfg.resume = resume
    runner = build_runner(prepare_config(cfg))
    runner.register_hook(Note(note))
    runner.train()
    return runner


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_is_exact(tmp_path: Path, workers: int) -> None:
    """8 iterations equal 4 and, in a new run, 4 more, bit for bit; WGAN-GP, dropout, BatchNorm,
    augmentation, Adam.
    """

    def config(max_iters: int, name: str) -> Any:
        cfg = run_config(tmp_path, workers=workers, max_iters=max_iters, interval=4, name=name)
        if workers == 2:  # and averaged weights, clipping and accumulation
            cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
            cfg.optim_wrapper.student.update(accumulative_counts=2, clip_grad=dict(max_norm=1.0))
            cfg.optim_wrapper.critic.update(accumulative_counts=4)
        return cfg

    whole = train(config(8, 'whole'))
    train(config(4, 'parts'))
    parts = train(config(8, 'parts'), resume=True)
    assert parts.iter == 8
    one, other = checkpoint(whole, 'iter_8.pth'), checkpoint(parts, 'iter_8.pth')
    assert any('.critic.' in key for key in one['state_dict'])
    assert set(one['optimizer']) == {'student', 'critic'}
    assert differences(one['state_dict'], other['state_dict']) == []
    assert differences(one['optimizer'], other['optimizer']) == []
    assert differences(one['param_schedulers'], other['param_schedulers']) == []
    if workers == 2:
        assert differences(one['ema_state_dict'], other['ema_state_dict']) == []
    middle = checkpoint(whole, 'iter_4.pth')
    assert differences(middle['state_dict'], checkpoint(parts, 'iter_4.pth')['state_dict']) == []
    assert differences(middle['state_dict'], one['state_dict'])  # it did train on


def test_a_run_whose_weights_have_rates_of_their_own_goes_on(tmp_path: Path) -> None:
    """mmengine notes what custom_keys say among the settings of an optimizer, which has no such."""

    def config(max_iters: int) -> Any:
        cfg = run_config(tmp_path, max_iters=max_iters)
        own = dict(type='AdamW', lr=1e-3, weight_decay=0.01)
        keys = dict(custom_keys=dict(backbone=dict(lr_mult=0.2, decay_mult=0.0)))
        cfg.optim_wrapper.student = dict(type='OptimWrapper', optimizer=own, paramwise_cfg=keys)
        return cfg

    train(config(2))
    noted = checkpoint(train(config(4), resume=True), 'iter_4.pth')['optimizer']['student']
    assert {'lr_mult', 'decay_mult'} <= set(noted['param_groups'][0])


class WithOptions(torch.optim.AdamW):
    """An optimizer whose signature does not name what it knows."""

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)


@pytest.mark.parametrize(
    ('optimizer', 'schedule'),
    [
        (
            dict(type='AdamW', lr=1e-3),
            dict(type='LinearMomentum', start_factor=0.5, begin=0, end=4, by_epoch=False),
        ),
        (
            dict(type='SGD', lr=0.01, momentum=0.9),
            dict(type='OneCycleLR', eta_max=0.01, total_steps=6, by_epoch=False),
        ),
        (dict(type=f'{__name__}.WithOptions', lr=1e-3), None),
    ],
    ids=['momentum', 'one cycle', 'options'],
)
def test_schedules_and_optimizers_of_all_kinds_go_on(
    optimizer: dict, schedule: dict | None, tmp_path: Path
) -> None:
    """A schedule of the momentum writes it for Adam too; OneCycleLR holds a function."""

    def config(name: str) -> Any:
        cfg = run_config(tmp_path, max_iters=6, interval=4, name=name)
        cfg.optim_wrapper.student.optimizer = optimizer
        cfg.param_scheduler = None if schedule is None else [schedule]
        return cfg

    def stop(runner: Runner) -> None:
        if runner.iter == 4:
            raise KeyboardInterrupt

    whole = train(config('whole'))
    with pytest.raises(KeyboardInterrupt):
        noting(config('parts'), stop)
    parts = train(config('parts'), resume=True)
    one, other = checkpoint(whole, 'iter_6.pth'), checkpoint(parts, 'iter_6.pth')
    assert differences(one['state_dict'], other['state_dict']) == []
    assert load_checkpoint_file(str(Path(parts.work_dir) / 'iter_6.pth')).keys() == other.keys()


def test_a_checkpoint_that_is_not_read_again_is_told_at_the_first_one(tmp_path: Path) -> None:
    """And not at the end of the run; what is read is not told."""

    def logged(name: str, kept: Any) -> str:
        cfg = run_config(tmp_path, max_iters=6, interval=2, name=name, log_level='WARNING')
        noting(cfg, lambda runner: runner.message_hub.update_info('window', kept))
        (log,) = (tmp_path / name).glob('*/*.log')
        return log.read_text()

    assert 'is not read again' not in logged('plain', 3)
    said = logged('strange', range(3))
    assert said.count('is not read again') == 1
    assert 'iter_2.pth was written, and is not read again, so that this run could not be' in said


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    """mmengine's hook forgets what it has counted, and a resumed run would end later."""

    def config(max_iters: int) -> Any:
        cfg = run_config(tmp_path, max_iters=max_iters, interval=2, val_interval=2)
        stop = dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=100.0, patience=2)
        cfg.custom_hooks.append(stop)
        return cfg

    train(config(4))  # the first validation is the best, the second one is waited for
    resumed = train(config(12), resume=True)
    assert resumed.iter == 6


# ---------------------------------------------------------------- what checkpoints hold


def test_a_run_leaves_the_teacher_out_and_as_it_was(tmp_path: Path) -> None:
    before: dict[str, Tensor] = {}

    def note(runner: Runner) -> None:
        if not before:
            before.update({k: v.clone() for k, v in runner.model.teacher.state_dict().items()})

    cfg = run_config(tmp_path, custom_hooks=[dict(type='mmkd.ExportStudentHook')], max_iters=2)
    runner = noting(cfg, note)
    model, saved = runner.model, checkpoint(runner, 'iter_2.pth')
    assert differences(before, dict(model.teacher.state_dict())) == []
    assert not model.teacher.training
    student = sum(v.numel() for v in model.student.state_dict().values())
    critic = sum(v.numel() for v in model.objectives.state_dict().values())
    assert {key.split('.')[0] for key in saved['state_dict']} == {'students', 'objectives'}
    assert sum(v.numel() for v in saved['state_dict'].values()) == student + critic
    held = sum(
        v.numel()
        for part in saved['optimizer'].values()
        for state in part['state'].values()
        for v in state.values()
    )
    learned = {
        k: sum(
            p.numel() for n, p in model.named_parameters() if ('.critic.' in n) == (k == 'critic')
        )
        for k in ('student', 'critic')
    }
    steps = len(
        saved['optimizer']['critic']['state']
    )  # Adam counts its steps in one number a parameter
    assert held == learned['student'] + 2 * learned['critic'] + steps


def test_ema_averages_the_students_and_copies_no_teacher(tmp_path: Path) -> None:
    """The exported student is the average of the weights after each iteration, by hand."""
    momentum, seen = 0.3, []
    cfg = run_config(tmp_path, max_iters=4, interval=4)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=momentum))
    runner = noting(
        cfg,
        lambda runner: seen.append(
            {name: p.detach().clone() for name, p in runner.model.student.named_parameters()}
        ),
    )
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model.module
    assert ema.teacher is runner.model.teacher
    assert ema.student is not runner.model.student
    average = copy.deepcopy(seen[0])
    for weights in seen[1:]:
        average = {n: (1 - momentum) * average[n] + momentum * w for n, w in weights.items()}
    student = torch.load(Path(runner.work_dir) / 'student/iter_4.pth', weights_only=False)[
        'state_dict'
    ]
    saved = checkpoint(runner, 'iter_4.pth')
    for name, value in average.items():
        torch.testing.assert_close(student[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(student[name], saved['state_dict'][f'students.student.{name}'])
        assert torch.equal(
            seen[-1][name], saved['ema_state_dict'][f'module.students.student.{name}']
        )
    assert not torch.equal(
        student['decode_head.conv_seg.weight'], seen[-1]['decode_head.conv_seg.weight']
    )
    assert not any('teacher' in key for key in [*saved['state_dict'], *saved['ema_state_dict']])


@pytest.mark.parametrize('built', [False, True])
def test_a_copy_shares_the_teacher_however_it_was_given(built: bool) -> None:
    teacher: Any = dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True)
    if built:
        teacher = MODELS.build({**teacher['model'], '_scope_': 'mmseg'})
    model = MODELS.build(model_of(teacher=teacher))
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    assert (
        twin.runs['teacher'].member.model is model.runs['teacher'].member.model
    )  # the description may hold it too
    assert twin.student is not model.student
    assert twin.runs['student'].taps.model is twin.student


# ---------------------------------------------------------------- optimizers


def test_logs_of_two_optimizers(tmp_path: Path) -> None:
    """Learning rates and gradient norms by name; the critic, which has no schedule, keeps its
    rate.
    """
    clip = dict(clip_grad=dict(max_norm=1.0))
    runner = train(
        run_config(
            tmp_path,
            max_iters=4,
            interval=-1,
            val_interval=9,
            param_scheduler=dict(
                _delete_=True,
                student=[dict(type='PolyLR', power=1.0, eta_min=0, begin=0, end=9, by_epoch=False)],
            ),
            optim_wrapper=dict(student=dict(SGD, **clip), critic=dict(ADAM, **clip)),
        )
    )
    lines = scalars(runner)
    assert [line['student.lr'] for line in lines] == pytest.approx(
        [0.05, 0.05 * 7 / 8, 0.05 * 6 / 8, 0.05 * 5 / 8]
    )
    assert [line['critic.lr'] for line in lines] == pytest.approx([1e-3] * 4)
    for line in lines:
        assert line['student.grad_norm'] > 0
        assert line['critic.grad_norm'] > 0
        assert 'grad_norm' not in line
        total = sum(v for k, v in line.items() if k.endswith('.loss') or '.loss_' in k)
        assert line['loss'] == pytest.approx(total, rel=1e-4)
        assert line['holistic.critic_loss'] > 0


def test_a_phased_schedule_serves_a_run_without_critic(tmp_path: Path) -> None:
    runner = train(
        run_config(
            tmp_path,
            model_of(critic=False),
            max_iters=2,
            interval=2,
            val_interval=9,
            param_scheduler=dict(
                _delete_=True,
                student=[dict(type='PolyLR', power=1.0, eta_min=0, begin=0, end=9, by_epoch=False)],
                critic=[],
            ),
        )
    )
    assert type(runner.optim_wrapper).__name__ == 'OptimWrapper'
    assert [line['lr'] for line in scalars(runner)] == pytest.approx([0.05, 0.05 * 7 / 8])
    assert set(checkpoint(runner, 'iter_2.pth')['optimizer']) == {'state', 'param_groups'}


def test_a_plain_model_trains_by_the_same_schedule(tmp_path: Path) -> None:
    """The baseline of a table: every hook of the runtime leaves it alone."""
    runner = train(run_config(tmp_path, segmentor(4, num_classes=3, size=32), max_iters=2))
    assert type(runner.model).__name__ == 'EncoderDecoder'
    assert not (Path(runner.work_dir) / 'student').exists()
    assert (Path(runner.work_dir) / 'iter_2.pth').is_file()


def test_a_critic_under_a_single_optimizer(tmp_path: Path) -> None:
    cfg = run_config(tmp_path, optim_wrapper=dict(_delete_=True, **SGD), max_iters=2)
    with pytest.raises(
        ValueError,
        match="objective 'holistic' has a critic, but there is one optimizer and nothing "
        'would train it. Mend: optim_wrapper=dict',
    ):
        train(cfg)


def test_accumulation_steps_as_often_as_it_should(tmp_path: Path) -> None:
    """5 iterations by 2 are three steps, the last of one iteration alone; the Runner tells every
    wrapper.
    """
    steps = {'student': [], 'critic': []}

    def note(runner: Runner) -> None:
        if runner.iter == 0:
            for name, wrapper in runner.optim_wrapper.items():
                wrapper.optimizer.register_step_post_hook(
                    lambda *a, name=name: steps[name].append(runner.iter + 1)
                )

    cfg = run_config(
        tmp_path,
        max_iters=5,
        interval=-1,
        val_interval=9,
        optim_wrapper=dict(student=dict(accumulative_counts=2), critic=dict(accumulative_counts=2)),
    )
    noting(cfg, note)
    assert steps == {'student': [2, 4, 5], 'critic': [2, 4, 5]}


# ---------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        ('weight', "objective 'pair' .pair.loss = nan"),
        ('critic', "objective 'holistic' .holistic.critic_loss = nan"),
    ],
)
def test_nan_stops_with_the_objectives_name(tmp_path: Path, spoil: str, message: str) -> None:
    cfg = run_config(tmp_path, max_iters=6, interval=2, val_interval=9)

    def note(runner: Runner) -> None:
        if (
            runner.iter == 3 and spoil == 'weight'
        ):  # after the fourth iteration; its checkpoint is still good
            runner.model.objectives.pair.weight = float('nan')
        if runner.iter == 3 and spoil == 'critic':
            runner.model.objectives.holistic.loss.gradient_penalty = float('nan')

    with pytest.raises(
        FloatingPointError, match=rf'{message}.*at iteration 5. .*iter_4.pth stays as the last good'
    ):
        noting(cfg, note)
    work = Path(cfg.work_dir)
    assert sorted(p.name for p in work.glob('*.pth')) == ['iter_2.pth', 'iter_4.pth']
    assert sorted(p.name for p in work.glob('student/*')) == [
        'config.py',
        'iter_2.pth',
        'iter_4.pth',
    ]
    state = torch.load(work / 'iter_4.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())


class Disk:
    """A disk that fails at its n-th file, from ``start`` on: the student, its config, the
    checkpoint.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int) -> None:
        self.error, self.at, self.files, self.armed = error, at, 0, False
        self.sync = os.fsync
        monkeypatch.setattr('mmkd.utils.atomic.os.fsync', self.fsync)

    def fsync(self, handle: int) -> None:
        if self.armed and Path(f'/proc/self/fd/{handle}').resolve().suffix == '.part':
            self.files += 1
            if self.files == self.at:
                raise self.error
        self.sync(handle)


def contents(work: Path) -> dict[str, bytes]:
    files = [
        p
        for p in [*work.glob('*'), *work.glob('student/*')]
        if p.is_file() and p.name not in ('runtime.py', LOCK)
    ]
    return {str(p.relative_to(work)): p.read_bytes() for p in files}


@pytest.mark.fault
@pytest.mark.parametrize(
    'at',
    [
        pytest.param(1, id='config', marks=pytest.mark.slow),
        pytest.param(2, id='student', marks=pytest.mark.slow),
        pytest.param(3, id='checkpoint'),
        pytest.param(4, id='last_checkpoint', marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    'error',
    [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()],
    ids=['full disk', 'Ctrl-C'],
)
def test_what_stops_a_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int
) -> None:
    """Whichever file was being written: checkpoint, student and last_checkpoint of before are what
    they were.
    """
    cfg = run_config(tmp_path, max_iters=4, interval=2, keep=1, val_interval=9)
    disk, work, before = Disk(monkeypatch, error, at), Path(cfg.work_dir), {}

    def note(runner: Runner) -> None:
        if runner.iter == 3:
            before.update(contents(work))
            disk.armed = True

    message = r'at iteration 4 \(No space left.*iter_2.pth stays and is good; free some space'
    with pytest.raises(type(error), match=message if isinstance(error, OSError) else None):
        noting(cfg, note)
    after = contents(work)
    assert set(before) == {
        'iter_2.pth',
        'last_checkpoint',
        'student/iter_2.pth',
        'student/config.py',
    }
    assert {name: after[name] for name in before} == before
    assert not any(name.endswith('.part') for name in after)
    assert after['last_checkpoint'].decode().endswith('iter_2.pth')
    disk.armed = False
    resumed = train(
        run_config(tmp_path, max_iters=4, interval=2, keep=1, val_interval=9), resume=True
    )
    assert resumed.iter == 4
    assert sorted(contents(work)) == [
        'iter_4.pth',
        'last_checkpoint',
        'run.json',
        'student/config.py',
        'student/iter_4.pth',
    ]
