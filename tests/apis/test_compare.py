"""``mmkd compare``: its runs, its records, its numbers, and what it refuses."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.comparisons import (
    ALONE,
    ITERS,
    PAIR,
    Forks,
    comparison,
    of_logs,
    options,
    told,
    untrained_teacher,
    validations,
)
from mmengine.config import Config
from scipy import stats

from mmkd.__main__ import main
from mmkd.apis import prepare
from mmkd.apis.commands.compare import FACTORS
from mmkd.apis.compare import jobs, plot, records
from mmkd.apis.compare.jobs import Ended, Job, Slots, run_jobs
from mmkd.apis.compare.plot import over_seconds
from mmkd.apis.compare.records import (
    check_run,
    read_note,
    write_config,
)
from mmkd.apis.compare.rows import Difference, closed, paired
from mmkd.apis.compare.settings import (
    digest_of_run,
    multiply_weights,
    read_pair_config,
    run_config,
    set_length,
)
from mmkd.apis.compare.specs import Spec, read_spec, read_specs
from mmkd.apis.compare.tuning import is_test_set, read_tuned
from mmkd.apis.settings import optim_wrappers
from mmkd.utils.config_file import read_config

RECORD = dict(
    iterations=20, seconds=1.0, cpu_seconds=1.0, device='CPU', torch='2', mmkd='0', ended='now'
)  # of a training


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Forks:
    """Run commands as forks."""
    found = Forks()
    monkeypatch.setattr(jobs, 'start', found)
    monkeypatch.setattr(jobs, 'PAUSE', 0.02)
    return found


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return weights of a teacher that has learned nothing."""
    return untrained_teacher(tmp_path_factory.mktemp('teacher'))


# ---------------------------------------------------------------------- from runs to the table


def test_the_table_says_what_the_logs_say(teacher: str, tmp_path: Path, forks: Forks) -> None:
    work = comparison(teacher, tmp_path, 'alone', 'kd', 'cwd:weight=2', seeds=(0, 1), jobs=2)
    done, said = told(work)
    assert done
    found = json.loads((tmp_path / 'compare.json').read_text())
    alone, kd, cwd = found['rows']
    logs = {
        name: [of_logs(tmp_path / name / f'seed_{seed}') for seed in (0, 1)]
        for name in ('alone', 'kd', 'cwd_weight_2')
    }
    for row, name in ((alone, 'alone'), (kd, 'kd'), (cwd, 'cwd_weight_2')):
        tests = [test for test, _ in logs[name]]
        assert row['test'] == pytest.approx(tests)
        assert row['mean'] == pytest.approx(sum(tests) / 2)
        assert row['sd'] == pytest.approx(abs(tests[0] - tests[1]) / math.sqrt(2))
        assert row['validation'] == pytest.approx(sum(val for _, val in logs[name]) / 2)
        assert row['iterations'] == [ITERS]
        assert row['processor_seconds'] > 0
        assert row['peak_memory_mib'] > 0
    gains = [cwd['test'][i] - kd['test'][i] for i in (0, 1)]
    assert cwd['to_kd']['values'] == pytest.approx(gains)
    assert cwd['to_kd']['mean'] == pytest.approx(statistics.fmean(gains))
    assert cwd['to_kd']['exceeds'] is None
    assert alone['to_alone'] is None
    assert kd['to_kd'] is None
    tested = [p for p in (tmp_path / 'teacher/test').glob('*/*.json') if p.stem == p.parent.name]
    assert found['teacher'] == json.loads(tested[0].read_text())['mIoU']
    known = {row['method']: row['validation'] for row in found['rows']}
    assert known[found['best']] == max(known.values())
    text = (tmp_path / 'compare.md').read_text()
    places = 2 if max(max(row['test']) for row in found['rows']) >= 2 else 3
    assert f'| cwd:weight=2 | {cwd["mean"]:.{places}f} ± {cwd["sd"]:.{places}f} |' in text
    assert '(2 seeds)' in text
    assert 'cwd:weight=2' in said
    for name in ('compare', 'compare_rows'):
        assert (tmp_path / f'{name}.png').read_bytes().startswith(b'\x89PNG')
        assert '<svg' in (tmp_path / f'{name}.svg').read_text()[:500]
    best = Config.fromfile(tmp_path / 'best.py').to_dict()
    name = found['best'].replace(':', '_').replace('=', '_')
    run = Config.fromfile(tmp_path / name / 'seed_0.py').to_dict()
    assert run.pop('work_dir') == str(tmp_path / name / 'seed_0')
    assert best == run, 'it trains as that run did, in a folder of its own'
    one = replace(work, seeds=(1,))
    for every_seed, seeds in ((False, [1]), (True, [0, 1])):
        assert told(one, table_only=True, every_seed=every_seed)[0]
        rows = json.loads((tmp_path / 'compare.json').read_text())['rows']
        assert [row['seeds'] for row in rows] == [seeds] * len(rows)


def test_what_is_on_record_is_not_run_again_and_a_half_run_goes_on(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    work = comparison(teacher, tmp_path)
    assert told(work)[0]
    assert sorted(forks.of('train')) == ['alone/seed_0', 'kd/seed_0']
    before = (tmp_path / 'compare.md').read_text()
    forks.commands.clear()
    done, said = told(work)
    assert done
    assert forks.commands == []
    assert '2 of 2 runs are on record already' in said
    assert (tmp_path / 'compare.md').read_text() == before

    for name in ('result.json', 'trained.json', 'run.json', 'iter_4.pth'):
        (tmp_path / 'kd/seed_0' / name).unlink()
    (tmp_path / 'kd/seed_0/last_checkpoint').write_text('iter_2.pth')
    note = json.loads((tmp_path / 'alone/seed_0/result.json').read_text())
    (tmp_path / 'alone/seed_0/result.json').unlink()  # it died while it was tested
    forks.commands.clear()
    assert told(work)[0]
    assert [command[0] for command in forks.commands if '/alone/' in command[1]] == ['test']
    assert [command for command in forks.commands if command[0] == 'train'] == [
        ['train', str(tmp_path / 'kd/seed_0.py'), '--resume']
    ]
    again = json.loads((tmp_path / 'alone/seed_0/result.json').read_text())
    assert again == note
    assert json.loads((tmp_path / 'kd/seed_0/result.json').read_text())['resumed']
    table = (tmp_path / 'compare.md').read_text().splitlines()
    assert table[3].split('|')[2] == before.splitlines()[3].split('|')[2], 'resumed exactly'

    text = (tmp_path / 'compare.md').read_text()
    for file in tmp_path.glob('compare.*'):
        file.unlink()
    forks.commands.clear()
    changed = ['--cfg-options', *(f'{key}={one}' for key, one in options(teacher).items())]
    assert main(['compare', PAIR, '--table-only', '--work-dir', str(tmp_path), *changed]) == 0
    assert forks.commands == []
    assert (tmp_path / 'compare.md').read_text() == text
    there = ['compare', PAIR, '--table-only', '--work-dir', str(tmp_path), *changed]
    with pytest.raises(SystemExit):  # there is no record of this seed
        main([*there, '--seeds', '7'])
    assert main([*there, '--seeds', '0']) == 0


def test_a_run_that_dies_is_told_and_the_rest_goes_on(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    forks.dies = lambda command: command[0] == 'train' and '/kd/' in command[1]
    work = comparison(teacher, tmp_path, 'kd', 'alone', shares_every=2)
    done, said = told(work)
    assert not done
    log = tmp_path / 'kd/seed_0/train.txt'
    assert f'kd, seed 0 died: exit code 3; its log is {log}\n    the reason why' in said
    assert 'alone, seed 0: test mIoU' in said
    found = json.loads((tmp_path / 'compare.json').read_text())
    assert [row['method'] for row in found['rows']] == ['alone']
    assert found['missing'] == ['kd, seed 0']
    forks.dies = lambda command: False
    forks.commands.clear()
    assert told(work)[0]
    assert forks.of('train') == ['kd/seed_0'], 'what died is run again, and nothing else'

    shares = json.loads((tmp_path / 'kd/seed_0/shares.json').read_text())
    row = json.loads((tmp_path / 'compare.json').read_text())['rows'][0]
    assert row['gradient_shares'] == shares
    table = (tmp_path / 'compare.md').read_text().splitlines()
    assert table[0].endswith('| gradient share |')
    assert table[2].endswith(f'| pixel {shares["pixel"]:.2g} |')
    assert table[3].endswith('| – |')


def test_weights_are_tuned_on_the_validation_set_alone(
    teacher: str, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = comparison(teacher, tmp_path, 'kd', seeds=(3, 4), tuned=('kd',), factors=(0.5, 40.0))
    done, said = told(work)
    assert done
    kd = tmp_path / 'kd'
    tune = json.loads((kd / 'tune.json').read_text())
    factor = tune['factor']
    other = {0.5: '40', 40.0: '0_5'}[factor]
    assert tune['values'][f'{factor:g}'] == max(tune['values'].values())
    assert tune['values'][other.replace('_', '.')] == validations(kd / f'tune/factor_{other}')[-1]
    assert not (kd / f'tune/factor_{other}/test').exists(), 'nothing that was tried was tested'
    assert (tune['set'], tune['seed'], tune['metric']) == ('validation', 3, 'mIoU')
    order = [Path(command[1]).stem for command in forks.commands if 'teacher' not in command[1]]
    assert sorted(order[:2]) == ['factor_0_5', 'factor_40']
    assert order.count('seed_3') == 1, 'its training is that of the best factor: it is tested alone'
    assert order.count('seed_4') == 2
    results = [json.loads((kd / f'seed_{seed}/result.json').read_text()) for seed in (3, 4)]
    assert [one['factor'] for one in results] == [factor, factor]
    assert results[0]['validation']['last']['mIoU'] == tune['values'][f'{factor:g}']
    for seed in (3, 4):
        weight = Config.fromfile(kd / f'seed_{seed}.py').model.objectives.pixel.weight
        plain = run_config(read_pair_config(PAIR, options(teacher)), read_spec('kd'), seed, ITERS)
        assert weight == plain.model.objectives.pixel.weight * factor
    assert f'× {factor:g}' in (tmp_path / 'compare.md').read_text()
    page = (tmp_path / 'compare.md').read_text()
    assert 'never on the test set: kd × ' in page
    found = re.search(r'Validation by weights, at that seed: kd (.+) × 0.5, (.+) × 40\.', page)
    assert found is not None
    values = [tune['values']['0.5'], tune['values']['40']]
    assert [float(one) for one in found.groups()] == pytest.approx(values, abs=6e-4)
    side = {0.5: 'smallest', 40.0: 'largest'}[factor]
    assert f'Best at the {side} weights that were tried: kd.' in page
    row = json.loads((tmp_path / 'compare.json').read_text())['rows'][0]
    assert row['tried'] == tune['values']
    forks.commands.clear()
    assert told(work)[0]
    assert forks.commands == []
    # another factor beside those: the best of the first two, which is seed 3 now, is not run again,
    # and makes way where the other one is better
    monkeypatch.setattr('mmkd.apis.compare.comparison.choose', lambda values, metric: 1e-6)
    more = comparison(
        teacher, tmp_path, 'kd', seeds=(3,), tuned=('kd',), factors=(0.5, 40.0, 1e-6)
    )  # fmt: skip
    assert told(more)[0]
    assert (kd / f'tune/factor_{factor:g}'.replace('.', '_') / 'trained.json').exists()
    assert json.loads((kd / 'seed_3/result.json').read_text())['factor'] == 1e-6
    weight = Config.fromfile(kd / 'seed_3.py').model.objectives.pixel.weight
    assert weight == plain.model.objectives.pixel.weight * 1e-6
    assert forks.of('train') == ['tune/factor_1e-06']
    assert set(json.loads((kd / 'tune.json').read_text())['values']) == {'0.5', '40', '1e-06'}


@pytest.mark.slow
def test_seconds_become_iterations_by_a_measured_step(
    teacher: str, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd.apis.compare.comparison.PROBED', 6)
    work = comparison(teacher, tmp_path, 'alone', 'kd', iters=None, seconds=0.25)
    assert told(work)[0]
    for name in ('alone', 'kd'):
        probe = json.loads((tmp_path / name / 'probe/trained.json').read_text())
        assert probe['iterations'] == 6
        assert probe['validation']['last'] == {}
        fits = max(1, math.floor(250 / probe['step_processor_ms']))
        result = json.loads((tmp_path / name / 'seed_0/result.json').read_text())
        assert result['iterations'] == fits
        decay = Config.fromfile(tmp_path / name / 'seed_0.py').param_scheduler[1]
        assert decay.begin == max(1, round(4 * fits / 8)), 'half of it, as of the pair'
        assert decay.end == max(fits, decay.begin + 1)
    forks.commands.clear()
    assert told(work)[0]
    assert forks.commands == [], 'a step is measured once'


@pytest.mark.slow
def test_the_command_runs_in_processes_of_its_own(teacher: str, tmp_path: Path) -> None:
    arguments = ['--methods', 'kd', '--iters', '2', '--jobs', '2', '--work-dir']
    changed = ['--cfg-options', *(f'{key}={one}' for key, one in options(teacher).items())]
    assert main(['compare', PAIR, *arguments, str(tmp_path), *changed]) == 0
    found = json.loads((tmp_path / 'compare.json').read_text())
    assert [row['method'] for row in found['rows']] == ['kd']
    assert [record['threads'] for record in found['records']] == [1]
    assert [record['jobs'] for record in found['records']] == [2]


# ---------------------------------------------------------------------- how runs end


def some_job(folder: Path) -> Job:
    return Job('sleeps', folder / 'run', Config(dict(a=1)), 'digest')


@pytest.mark.parametrize(
    ('stubborn', 'number'),
    [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGHUP)],
)
def test_processes_end_with_the_comparison(
    stubborn: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen] = []
    trap = "trap '' INT; " * stubborn

    def heeding() -> None:
        """Heed SIGINT, which what a script starts in the background ignores."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def start(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> Any:
        # not a loop in bash, which goes on where the signal comes between two of its commands
        command = ['/bin/bash', '-c', f'{trap}echo ready; exec sleep 60']
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=heeding
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        return process

    monkeypatch.setattr(jobs, 'start', start)
    monkeypatch.setattr(jobs, 'PATIENCE', 0.3 if stubborn else 20.0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this process may be under nohup
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([some_job(tmp_path)], Slots(1)))
    assert len(started) == 1
    assert started[0].poll() == -(signal.SIGKILL if stubborn else signal.SIGINT)
    assert signal.getsignal(number) == before


def test_so_many_runs_go_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, 'PAUSE', 0.0)
    at_work: set[int] = set()
    most = 0

    class Counted:
        def __init__(self, job: Job, environment: dict[str, str]) -> None:
            nonlocal most
            self.job, self.left, self.process = job, 3, None
            at_work.add(id(self))
            most = max(most, len(at_work))
            assert environment['OMP_NUM_THREADS'] == '1'

        def begin(self) -> None:
            pass

        def is_over(self) -> bool:
            self.left -= 1
            return self.left == 0

        def ended(self, number: int) -> Ended:
            at_work.discard(id(self))
            return Ended(self.job, {})

    monkeypatch.setattr(jobs, '_Process', Counted)
    slots = Slots(2)
    slots.devices = []
    work = [some_job(tmp_path / str(i)) for i in range(5)]
    assert len(list(run_jobs(work, slots))) == 5
    assert most == 2


def test_a_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(3)
    slots.devices = ['4', '6']
    seen = [slots.environment(slot)['CUDA_VISIBLE_DEVICES'] for slot in range(3)]
    assert seen == ['4', '6', '4']


# ---------------------------------------------------------------------- the settings of a run


def test_the_student_alone_is_the_baseline(teacher: str) -> None:
    cfg = run_config(read_pair_config(PAIR), read_spec('alone'), seed=5)
    baseline = read_config(ALONE)
    assert cfg.model.to_dict() == baseline.model.to_dict()
    assert cfg.randomness.seed == 5
    for key in ('train_dataloader', 'test_dataloader', 'optim_wrapper', 'train_evaluator'):
        assert cfg.get(key) == baseline.get(key)


def test_methods_differ_by_their_own_parts_alone(teacher: str) -> None:
    pair = read_pair_config(PAIR, options(teacher))
    one, other = (run_config(pair, read_spec(text), 0, ITERS).to_dict() for text in ('kd', 'cwd'))
    assert {key for key in one if one[key] != other.get(key)} == {'model'}
    assert set(one['model']['objectives']) == {'pixel'}
    assert set(other['model']['objectives']) == {'cwd'}
    both = run_config(pair, read_spec('kd+cwd:tau=2'), 0).model.objectives
    assert set(both) == {'pixel', 'cwd'}
    assert both.cwd.loss.tau == 2


def test_a_length_takes_schedule_and_validations_with_it() -> None:
    cfg = run_config(read_pair_config(PAIR), read_spec('kd'), 0, iters=300)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (300, 50)
    assert [(one.begin, one.end) for one in cfg.param_scheduler] == [(0, 20), (20, 300)]
    assert cfg.default_hooks.checkpoint.interval == 50, 'a killed run goes on from there'
    assert cfg.default_hooks.logger.interval == 50
    whole = run_config(read_pair_config(PAIR), read_spec('kd'), 0)
    assert (whole.train_cfg.max_iters, whole.train_cfg.val_interval) == (1500, 250)


def test_a_length_takes_late_validations_and_checkpoints_with_it() -> None:
    late = {
        'train_cfg.val_begin': 750,
        'train_cfg.dynamic_intervals': [(1200, 50)],
        'default_hooks.checkpoint.save_begin': 600,
    }
    cfg = read_pair_config(PAIR, late)
    cfg.param_scheduler = tuple(cfg.param_scheduler)
    cfg = run_config(cfg, read_spec('kd'), 0, iters=300)
    assert cfg.train_cfg.val_begin == 150
    assert cfg.train_cfg.dynamic_intervals == [(240, 10)]
    assert cfg.default_hooks.checkpoint.save_begin == 120
    assert [(one['begin'], one['end']) for one in cfg.param_scheduler] == [(0, 20), (20, 300)]


def test_validations_are_written_where_they_are_read() -> None:
    backends = [dict(type='TensorboardVisBackend')]
    cfg = read_pair_config(PAIR, {'visualizer.vis_backends': backends})
    kinds = [one.type for one in run_config(cfg, read_spec('kd'), 0).visualizer.vis_backends]
    assert kinds == ['TensorboardVisBackend', 'LocalVisBackend']


def test_the_weights_that_are_tested_are_those_of_their_validation(tmp_path: Path) -> None:
    """Of two metrics by which the best are kept, those of the first usual one, newest or not."""
    for age, name in enumerate(('best_mIoU_iter_10.pth', 'best_aAcc_iter_20.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    kept = Config(dict(default_hooks=dict(checkpoint=dict(save_best=['aAcc', 'mIoU']))))
    path, which = records.tested_checkpoint(kept, tmp_path)
    assert (path.name, which) == ('best_mIoU_iter_10.pth', 'best')
    (tmp_path / 'run.json').write_text(json.dumps(RECORD))
    (tmp_path / 'steps.json').write_text(json.dumps(dict(wall_ms=1.0, processor_ms=1.0)))
    scalars = tmp_path / '20261127_000000/vis_data/scalars.json'
    scalars.parent.mkdir(parents=True)
    curve = (dict(mIoU=40.0, aAcc=80.0, step=10), dict(mIoU=39.0, aAcc=90.0, step=20))
    scalars.write_text('\n'.join(map(json.dumps, curve)))
    validation = records.read_training(tmp_path, path.name)['validation']
    assert validation['best'] == dict(mIoU=40.0, aAcc=80.0)
    assert (
        records.read_training(tmp_path, 'best_aAcc_iter_20.pth')['validation']['best']['mIoU']
        == 39.0
    )
    assert validation['last'] == dict(mIoU=39.0, aAcc=90.0)


@pytest.mark.parametrize(
    ('values', 'factor', 'asked', 'known'),
    [
        ({'0.3': 41.0, '1': 42.0}, 1.0, (0.3, 1.0), True),
        ({'0.3': 41.0, '1': None}, 0.3, (0.3, 1.0), False),  # its run died: it is tried again
        ({'0.3': 41.0, '1': 42.0}, 1.0, (0.3,), False),  # the best one is not asked for
        ({'0.3': 41.0}, 0.3, (0.3, 1.0), False),
    ],
)
def test_what_was_tuned_before(
    values: dict, factor: float, asked: tuple, known: bool, tmp_path: Path
) -> None:
    note = dict(settings='x', factor=factor, values=values)
    (tmp_path / 'tune.json').write_text(json.dumps(note))
    assert (read_tuned(tmp_path, 'x', asked) is not None) == known
    assert read_tuned(tmp_path, 'y', asked) is None


def test_mixed_precision_is_that_of_mmkd_train(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'skd.py').write_text(
        f"_base_ = {PAIR!r}\nmodel = dict(objectives=None, method='skd')\n"
    )
    recipe = Spec('skd', recipe=str(tmp_path / 'skd.py'))
    pair, own = read_pair_config(PAIR, options(teacher)), read_config(str(recipe.recipe))
    for gpu in (False, True):
        monkeypatch.setattr(prepare, 'has_gpu', lambda gpu=gpu: gpu)
        for base, spec in ((pair, 'alone'), (pair, 'kd'), (own, recipe)):
            row = read_spec(spec) if isinstance(spec, str) else spec
            plain, mixed = (run_config(base, row, 0, amp=amp) for amp in (False, True))
            assert digest_of_run(plain) != digest_of_run(mixed)
            assert digest_of_run(plain) == digest_of_run(run_config(base, row, 0))
            prepare.prepare_config(plain, amp=True)
            assert mixed.optim_wrapper == plain.optim_wrapper
            wrappers = [one.type for _, one in optim_wrappers(mixed.optim_wrapper)]
            name = 'AmpOptimWrapper' if gpu else 'mmkd.Bf16OptimWrapper'
            assert wrappers == [name] * (2 if row is recipe else 1)


def test_the_table_tells_mixed_precision(teacher: str, tmp_path: Path, forks: Forks) -> None:
    work = comparison(teacher, tmp_path, 'kd', iters=2, amp=True)
    done, said = told(work)
    assert done, said
    assert 'Trained in mixed precision (--amp): kd.' in said
    written = Config.fromfile(tmp_path / 'kd/seed_0.py')
    assert written.optim_wrapper.type == 'mmkd.Bf16OptimWrapper'
    with pytest.raises(FileExistsError, match='holds a run of other settings'):
        told(comparison(teacher, tmp_path, 'kd', iters=2))


def test_epochs_have_no_length_in_iterations() -> None:
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3)))
    with pytest.raises(ValueError, match='does not say train_cfg.max_iters: it counts epochs'):
        set_length(cfg, 4)


def test_a_schedule_of_a_weight_is_multiplied_and_one_of_a_temperature_is_not() -> None:
    hook = dict(
        type='mmkd.ScheduleHook',
        schedules=[
            dict(target='kd.weight', type='linear', start=2.0, end=0.5, length=9),
            dict(target='kd.loss.tau', type='linear', start=4.0, end=1.0, length=9),
        ],
    )
    model = dict(objectives=dict(kd=dict(weight=2.0), other=dict(loss=dict(type='X'))))
    cfg = Config(dict(model=model, custom_hooks=[hook]))
    multiply_weights(cfg, 3.0)
    assert [one.weight for one in cfg.model.objectives.values()] == [6.0, 3.0]
    weight, tau = cfg.custom_hooks[0].schedules
    assert (weight.start, weight.end, weight.length) == (6.0, 1.5, 9)
    assert (tau.start, tau.end) == (4.0, 1.0)
    points = [(0, 0.0), (4, 2.0), (9, 0.0)]  # as warm_up= and decay= are written
    ramp = dict(target='kd.weight', type='piecewise', points=points)
    hooks = [dict(type='mmkd.ScheduleHook', schedules=[ramp])]
    cfg = Config(dict(model=model, custom_hooks=hooks))
    multiply_weights(cfg, 3.0)
    assert cfg.custom_hooks[0].schedules[0].points == [(0, 0.0), (4, 6.0), (9, 0.0)]
    own = dict(type='mmkd.ScheduleHook', schedules=[dict(target='kd.weight', type='square')])
    with pytest.raises(ValueError, match="'kd.weight' has no start and end.*Mend: leave this"):
        multiply_weights(Config(dict(model=model, custom_hooks=[own])), 3.0)


def test_critics_and_schedules_of_the_pair_go_with_its_method(tmp_path: Path) -> None:
    (tmp_path / 'pair.py').write_text(
        f'_base_ = {PAIR!r}\n'
        "optim_wrapper = dict(_delete_=True, constructor='mmkd.PhaseOptimWrapperConstructor', "
        "student=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5)), "
        "critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.1)))\n"
        'param_scheduler = dict(_delete_=True, student=[dict('
        "type='ConstantLR', by_epoch=False)], critic=[dict(type='ConstantLR', by_epoch=False)])\n"
        "custom_hooks = [dict(type='mmkd.ScheduleHook', schedules=[]), "
        "dict(type='mmkd.RunRecordHook')]\n"
        "model = dict(method='skd', task_weight=0.5, phases=[dict(name='x')])\n"
    )
    cfg = read_pair_config(str(tmp_path / 'pair.py'))
    assert cfg.optim_wrapper.to_dict() == dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5)
    )
    assert [one.type for one in cfg.param_scheduler] == ['ConstantLR']
    assert [one.type for one in cfg.custom_hooks] == ['mmkd.RunRecordHook', 'mmkd.StepClockHook']
    assert set(cfg.model) == {'type', 'student', 'teacher'}


def test_a_digest_is_of_the_run_and_not_of_its_place(teacher: str, tmp_path: Path) -> None:
    def digest(text: str = 'kd', seed: int = 0, factor: float = 1.0, **changes: Any) -> str:
        given = read_pair_config(PAIR, {**options(teacher), **changes})
        return digest_of_run(run_config(given, read_spec(text), seed, ITERS, factor))

    same = digest()
    copied = tmp_path / 'copy.pth'
    copied.write_bytes(Path(teacher).read_bytes())
    assert digest(**{'model.teacher.checkpoint': str(copied)}) == same
    torch.save(dict(state_dict={}), copied.with_name('other.pth'))
    others = [
        digest(seed=1),
        digest(factor=3.0),
        digest('kd:tau=2'),
        digest(**{'optim_wrapper.optimizer.lr': 0.5}),
        digest(**{'model.teacher.checkpoint': str(copied.with_name('other.pth'))}),
    ]
    assert len({same, *others}) == 6


# ---------------------------------------------------------------------- numbers


def test_a_difference_exceeds_its_spread_by_more_than_two_standard_errors() -> None:
    values = (1.0, 2.0, 4.5)
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(3)
    assert Difference(values).exceeds is (abs(mean) > 2 * error)
    moved = tuple(value - mean + 2.0001 * error for value in values)
    assert Difference(moved).exceeds is True
    assert Difference(tuple(value - 0.001 * error for value in moved)).exceeds is False
    assert Difference(tuple(-value for value in moved)).exceeds is True
    t = stats.ttest_1samp(moved, 0.0).statistic
    assert t == pytest.approx(2.0001), 'it is the t of the paired values'
    assert Difference((1.0, 1.0)).exceeds is None
    assert Difference((9.0,)).spread is None


def test_how_often_chance_alone_exceeds() -> None:
    once_in = {n: 1 / (2 * stats.t.sf(2.0, n - 1)) for n in (3, 5)}
    assert [round(once_in[3]), round(once_in[5])] == [5, 9], 'as the table says'


def test_gains_are_for_the_better_and_over_the_seeds_of_both() -> None:
    assert paired({0: 40.0, 2: 44.0}, {2: 43.0, 0: 41.0}, 'mIoU').values == (-1.0, 1.0)
    assert paired({0: 0.2}, {0: 0.3}, 'abs_rel').values == pytest.approx((0.1,))
    assert paired({0: 1.0}, {1: 1.0}, 'mIoU') is None
    assert closed({0: 0.2}, {0: 0.3}, 0.1, 'abs_rel') == pytest.approx(50.0)
    assert closed({0: 41.0}, {0: 40.0, 1: 50.0}, 60.0, 'mIoU') == pytest.approx(5.0)
    assert closed({0: 1.0}, {}, 2.0, 'mIoU') is None
    assert closed({0: 1.0}, {0: 2.0}, 2.0, 'mIoU') is None
    assert closed({0: 1.0}, {0: 2.0}, None, 'mIoU') is None


def test_quality_is_drawn_over_the_seconds_of_steps(tmp_path: Path) -> None:
    lines = [dict(loss=1.0, step=10), dict(mIoU=40.0, step=10), dict(loss=0.5, step=20),
             dict(mIoU=44.0, step=20)]  # fmt: skip
    file = tmp_path / '20260101_000000/vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, lines)))
    assert over_seconds([tmp_path], 'mIoU', 50.0) == [[(0.5, 40.0), (1.0, 44.0)]]


def test_the_picture_of_rows_says_what_the_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best on top, of an error the least; what exceeds the spread has its colour."""
    gains = dict(
        alone=None,
        good=dict(mean=0.2, exceeds=True),
        bad=dict(mean=-0.1, exceeds=True),
        like=dict(mean=0.05, exceeds=False),
        once=dict(mean=0.08, exceeds=None),
    )
    means = dict(alone=1.0, good=0.8, bad=1.1, like=0.95, once=0.92)
    rows = [
        dict(
            method=name, mean=mean, sd=0.01, to_alone=gains[name], on_gpu=False, processor_seconds=7
        )
        for name, mean in means.items()
    ]
    drawn: list[Any] = []
    monkeypatch.setattr(plot, '_save', lambda figure, stem: drawn.append((figure, stem)))
    plot.draw_rows(rows, 'abs_rel', 0.5, tmp_path / 'rows')
    ((figure, stem),) = drawn
    assert stem == tmp_path / 'rows'
    tests, costs = figure.axes
    names = [label.get_text() for label in tests.get_yticklabels()]
    assert names == ['bad', 'alone', 'like', 'once', 'good'], 'from below'
    points = [[*one.lines[0].get_xdata(), one.lines[0].get_color()] for one in tests.containers]
    assert points == [
        [1.1, plot.LOSES],
        [1.0, 'black'],
        [0.95, plot.WITHIN],
        [0.92, plot.UNJUDGED],
        [0.8, plot.GAINS],
    ]
    assert [bar.get_width() for bar in costs.patches] == [7] * 5
    said = [one.get_text() for one in figure.legends[0].get_texts()]
    assert said[2:] == ['within the spread', 'not judged: fewer than 3 seeds']
    assert sorted(line.get_xdata()[0] for line in tests.lines if len(line.get_xdata()) == 2) == [
        0.5,
        1.0,
    ], 'the teacher and the student alone'


# ---------------------------------------------------------------------- what is refused


def test_a_table_needs_records(teacher: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='holds no record of a run.*without --table-only'):
        told(comparison(teacher, tmp_path), table_only=True)


def test_where_every_run_died_the_logs_are_named(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    forks.dies = lambda command: command[0] == 'train'
    with pytest.raises(ValueError, match=r'no record of a run.*Mend: .*died.*train\.txt'):
        told(comparison(teacher, tmp_path, 'kd'))


def refused(teacher: str, folder: Path, *methods: str, **changes: Any) -> str:
    """Return why a comparison is refused, before anything is run."""
    with pytest.raises((ValueError, KeyError, TypeError, FileExistsError)) as stopped:
        told(comparison(teacher, folder, *methods, **changes))
    assert not list(folder.glob('*/seed_*')), 'nothing was run'
    return str(stopped.value)


def test_mistakes_are_refused_before_anything_is_run(teacher: str, tmp_path: Path) -> None:
    text = refused(teacher, tmp_path, 'alone', 'cvd')
    assert "there is no method 'cvd'; did you mean 'vid' or 'cwd'" in text
    text = refused(teacher, tmp_path, 'kd:tua=3')
    assert "unknown key 'tua'; did you mean 'tau'" in text
    text = refused(teacher, tmp_path, 'kd', 'cwd', tuned=('cdw',))
    assert "--tune cdw: it is no method of --methods; did you mean 'cwd'" in text
    assert '--tune alone: it is a row without weights' in refused(
        teacher, tmp_path, tuned=('alone',)
    )
    text = refused(teacher, tmp_path, pair=ALONE, options={})
    assert "but its model is 'EncoderDecoder'. Mend: mmkd distill STUDENT.py" in text
    text = refused(teacher, tmp_path, options={'model.objectives.pixel.weight': 3})
    assert 'model.objectives.pixel.weight: the objectives of the pair is left out' in text
    text = refused(teacher, tmp_path, 'dml')
    assert 'peers teach each other' in text


def test_a_pair_without_a_test_set_or_a_teacher_is_refused(teacher: str, tmp_path: Path) -> None:
    none = 'test_dataloader = test_cfg = test_evaluator = None\n'
    (tmp_path / 'untested.py').write_text(f'_base_ = {PAIR!r}\n{none}')
    text = refused(teacher, tmp_path, pair=str(tmp_path / 'untested.py'), options={})
    assert 'every method is tested, but the config has no test_dataloader' in text
    (tmp_path / 'peers.py').write_text(f'_base_ = {PAIR!r}\nmodel = dict(teacher=None)\n')
    text = refused(teacher, tmp_path, pair=str(tmp_path / 'peers.py'), options={})
    assert "needs one student and a teacher, got the students ['student'] and the teachers []" in (
        text
    )


def test_nothing_is_tuned_on_the_test_set(teacher: str, tmp_path: Path) -> None:
    (tmp_path / 'same.py').write_text(
        f'_base_ = {PAIR!r}\nval_dataloader = dict(dataset=dict(split="test", num_scenes=500))\n'
    )
    text = refused(teacher, tmp_path, pair=str(tmp_path / 'same.py'), tuned=('kd',), options={})
    assert 'val_dataloader.dataset and test_dataloader.dataset of' in text
    assert 'are the same mmkd.DigitScenes, so weights would be tuned on the test set' in text
    cfg = read_pair_config(str(tmp_path / 'same.py'))
    assert is_test_set(cfg)
    assert not is_test_set(read_pair_config(PAIR))
    cfg.val_dataloader.dataset.pipeline = [dict(type='Other')]
    assert is_test_set(cfg), 'the same images, however they are loaded'
    (tmp_path / 'none.py').write_text(
        f'_base_ = {PAIR!r}\nval_dataloader = val_cfg = val_evaluator = None\n'
    )
    text = refused(teacher, tmp_path, pair=str(tmp_path / 'none.py'), tuned=('kd',), options={})
    assert 'has no val_dataloader, and --tune never looks at the test set' in text


def test_a_run_of_other_settings_is_refused_or_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / 'kd/seed_0'
    folder.mkdir(parents=True)
    write_config(Config(dict(a=1)), folder, 'one')
    check_run(folder, 'one')
    with pytest.raises(FileExistsError, match='holds a run of other settings.*--overwrite begins'):
        check_run(folder, 'other')
    (folder / 'result.json').write_text('{"settings": "third"}')
    with pytest.raises(FileExistsError, match='holds a run of other settings'):
        check_run(folder, 'one')
    check_run(folder, 'other', overwrite=True)
    assert not folder.exists()
    check_run(folder, 'other')


@pytest.mark.bad_input
def test_a_run_that_no_comparison_began_is_not_taken_for_its_own(tmp_path: Path) -> None:
    """It would be gone on with, and its other settings would be a row."""
    folder = tmp_path / 'kd/seed_0'
    folder.mkdir(parents=True)
    check_run(folder, 'one')
    (folder / 'iter_4.pth').write_bytes(b'')
    with pytest.raises(FileExistsError, match='holds a run that no comparison began. Mend: --work'):
        check_run(folder, 'one')
    write_config(Config(dict(a=1)), folder, 'one')
    check_run(folder, 'one')


@pytest.mark.bad_input
def test_a_mistyped_metric_is_refused_before_anything_is_trained(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    with pytest.raises(ValueError, match='holds no record of a run'):
        told(comparison(teacher, tmp_path / 'none', 'kd'), table_only=True)
    assert not (tmp_path / 'none').exists(), 'nothing is left of what is refused'
    with pytest.raises(KeyError, match="--metric 'mIuO' is none of .*mIoU"):
        told(comparison(teacher, tmp_path, 'kd', iters=2, metric='mIuO'))
    assert [path.parent.name for path in tmp_path.rglob('trained.json')] == []


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    assert read_note(path) is None
    for text in ('{"settings": ', '[]', '{}'):
        path.write_text(text)
        with pytest.raises(ValueError, match='result.json cannot be read.*Mend: remove it'):
            read_note(path)


@pytest.mark.parametrize('text', ['alone:tau=3', 'kd+alone'])
def test_the_student_alone_has_no_options_and_no_method_beside_it(text: str) -> None:
    with pytest.raises(ValueError, match="'alone' is the student without a teacher"):
        read_spec(text)


def test_rows_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="names 'kd' and 'kd', which would share"):
        read_specs(['kd', 'kd'])
    with pytest.raises(ValueError, match="names 'kd:tau=3' and 'kd: tau=3'"):
        read_specs(['kd:tau=3', 'kd: tau=3'])
    with pytest.raises(ValueError, match='--methods takes NAME or NAME:option=value'):
        read_spec('kd:tau')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], '--methods says what is compared'),
        (['--methods', 'kd', '--iters', '3', '--seconds', '3'], 'two lengths of a run'),
        (['--methods', 'kd', '--seconds', '0'], '--seconds must be a number above 0'),
        (['--methods', 'kd', '--tune', 'kd', '--tune-all'], '--tune-all is all of them'),
        (['--methods', 'kd', '--factors', '2', '3'], 'that --tune METHOD or --tune-all tries'),
        (['--methods', 'kd', '--tune-all', '--factors', '2', '2'], 'must be different numbers'),
        (['--methods', 'kd', '--tune-all', '--factors', '-2'], 'must be a number above 0'),
        (['--methods', 'kd', '--jobs', '0'], 'a whole number of at least 1'),
        (['--methods', 'kd', '--seconds', 'inf'], '--seconds must be a number above 0'),
        (['--methods', 'kd', '--tune-all', '--factors', '1', '1.0000001'], 'must be different'),
        (['--methods', 'kd', '--seeds', str(2**32)], '--seeds must be below 2**32'),
        (['--methods', 'kd', '--cfg-options', 'work_dir=x'], 'be overridden: give --work-dir'),
        (['--methods', 'kd', '--cfg-options', 'randomness.seed=1'], 'overridden: give --seeds'),
    ],
)
def test_a_command_line_that_contradicts_itself(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(['compare', PAIR, *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert FACTORS == (0.3, 1.0, 3.0)
