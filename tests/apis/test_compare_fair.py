"""``mmkd compare``: rows that differ by the method alone, and what is told where they do not."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.comparisons import PAIR, Forks, comparison, options, told, untrained_teacher
from helpers.processes import held_by_another
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmkd.apis.compare import jobs
from mmkd.apis.compare.jobs import Job, start
from mmkd.apis.compare.records import read_training
from mmkd.apis.compare.settings import digest_of_pair, read_pair_config, run_config, set_length
from mmkd.apis.compare.specs import read_spec
from mmkd.apis.compare.table import _tried_notes, best_of
from mmkd.apis.prepare import prepare_config
from mmkd.apis.report import less_is_better
from mmkd.apis.runs import digest_of
from mmkd.utils import checkpoints

SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01))


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return weights of a teacher that has learned nothing."""
    return untrained_teacher(tmp_path_factory.mktemp('teacher'))


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Forks:
    made = Forks()
    monkeypatch.setattr('mmkd.apis.compare.jobs.start', made)
    return made


def pair_of(teacher: str, tmp_path: Path, text: str) -> Config:
    file = tmp_path / 'pair.py'
    file.write_text(f'_base_ = {PAIR!r}\n{text}')
    return read_pair_config(str(file), options(teacher))


def groups(cfg: Config) -> set[tuple[float, float]]:
    """Return learning rate and decay of every parameter that a row trains."""
    cfg = prepare_config(cfg)
    model = MODELS.build({'_scope_': 'mmseg', **cfg.model.to_dict()})
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper.to_dict())
    found = wrapper.values() if hasattr(wrapper, 'values') else [wrapper]
    student = list(found)[0].optimizer
    return {(group['lr'], group['weight_decay']) for group in student.param_groups}


@pytest.mark.parametrize('named', [True, False])
def test_options_by_name_reach_every_row(teacher: str, tmp_path: Path, named: bool) -> None:
    """The student's parameters are called otherwise where it is trained alone."""
    paramwise = dict(
        norm_decay_mult=0.0, custom_keys={'students.student.decode_head': dict(lr_mult=10)}
    )
    wrapper: dict[str, Any] = dict(_delete_=True, paramwise_cfg=paramwise)
    if named:
        constructor = 'mmkd.PhaseOptimWrapperConstructor'
        wrapper |= dict(constructor=constructor, student=dict(SGD, params='students'))
    else:
        wrapper |= SGD
    pair = pair_of(teacher, tmp_path, f'optim_wrapper = {wrapper!r}\n')
    each = [groups(run_config(pair, read_spec(name), 0)) for name in ('alone', 'kd', 'skd')]
    assert each[0] == each[1] == each[2]
    assert each[0] == {(0.1, 0.01), (0.1, 0.0), (1.0, 0.01)}


def test_every_run_saves_in_its_own_folder(teacher: str, tmp_path: Path) -> None:
    text = "default_hooks = dict(checkpoint=dict(out_dir='elsewhere'))\n"
    pair = pair_of(teacher, tmp_path, text)
    for name in ('alone', 'kd'):
        assert 'out_dir' not in run_config(pair, read_spec(name), 0).default_hooks.checkpoint


def test_a_moving_average_begins_earlier_in_a_shorter_run(teacher: str, tmp_path: Path) -> None:
    text = "custom_hooks = [dict(type='EMAHook', begin_iter=6), dict(type='mmkd.RunRecordHook')]\n"
    cfg = run_config(pair_of(teacher, tmp_path, text), read_spec('kd'), 0, iters=4)
    assert next(hook for hook in cfg.custom_hooks if hook.type == 'EMAHook').begin_iter == 3
    cfg = run_config(pair_of(teacher, tmp_path, text), read_spec('kd'), 0, iters=1)
    assert next(hook for hook in cfg.custom_hooks if hook.type == 'EMAHook').begin_iter == 0


def test_an_exponential_schedule_ends_at_the_same_rate() -> None:
    decay = dict(type='ExponentialLR', gamma=0.998, by_epoch=False)
    cfg = Config(dict(train_cfg=dict(max_iters=1500), param_scheduler=[decay]))
    set_length(cfg, 150)
    assert cfg.param_scheduler[0].gamma ** 150 == pytest.approx(0.998**1500)


# ---------------------------------------------------------------------- runs that go on


def test_trust_reaches_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, 'Popen', lambda command, **_: commands.append(command))
    start(['train', 'a.py'], tmp_path / 'a.txt', {})
    monkeypatch.setattr(checkpoints, '_trusted', True)
    start(['train', 'a.py'], tmp_path / 'a.txt', {})
    plain = [sys.executable, '-m', 'mmkd', 'train', 'a.py']
    assert commands == [plain, [*plain, '--trust-checkpoint']]


@pytest.mark.parametrize(
    ('files', 'more'),
    [
        ([], []),
        (['best_mIoU_epoch_2.pth'], ['--overwrite']),
        (['best_mIoU_iter_2.pth', 'iter_4.pth'], ['--resume']),
    ],
)
def test_a_run_goes_on_from_what_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], more: list[str]
) -> None:
    """The best weights alone hold no optimizer: such a run begins anew."""
    started: list[list[str]] = []

    def noted(arguments: list[str], log: Path, environment: dict) -> Any:
        started.append(arguments)
        return SimpleNamespace(pid=0)

    monkeypatch.setattr(jobs, 'start', noted)
    folder = tmp_path / 'kd' / 'seed_0'
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b'')
    job = Job('kd, seed 0', folder, Config(dict(model=dict(type='A'))), 'digest', {})
    jobs._Process(job, {}).begin()
    assert started == [['train', str(folder.with_suffix('.py')), *more]]


def test_a_run_that_is_still_at_work_is_told(tmp_path: Path) -> None:
    """As one is whose comparison was killed: the log is left to it."""
    folder = tmp_path / 'kd/seed_0'
    folder.mkdir(parents=True)
    (folder / 'train.txt').write_text('of the other')
    with held_by_another(folder) as process:
        job = Job('kd, seed 0', folder, Config(dict(model=dict(type='A'))), 'digest', {})
        run = jobs._Process(job, {})
        run.begin()
        assert f'in use by another run (process {process} on' in run.problem
    assert (folder / 'train.txt').read_text() == 'of the other'


@pytest.mark.bad_input
def test_a_file_of_ones_own_is_not_written_over(teacher: str, tmp_path: Path, forks: Forks) -> None:
    """Where the comparison works beside the configs, its runs' names may be theirs."""
    for name in ('teacher.py', 'kd/seed_0.py'):
        own = tmp_path / name
        own.parent.mkdir(exist_ok=True)
        own.write_text('model = dict()\n')
        with pytest.raises(FileExistsError, match=f'{name} is no config that a comparison wrote'):
            told(comparison(teacher, tmp_path, 'kd', iters=2))
        assert own.read_text() == 'model = dict()\n'
        own.unlink()
    assert not [*tmp_path.rglob('trained.json')]


def test_settings_that_hold_a_set_are_those_of_any_process() -> None:
    of = [digest_of(dict(a=dict(b=[set(names)]))) for names in (('x', 'yy'), ('yy', 'x'))]
    assert of[0] == of[1] != digest_of(dict(a=dict(b=[{'x'}])))


# ---------------------------------------------------------------------- validations


def training(folder: Path, *validations: tuple[int, float], iterations: int = 20) -> dict:
    """Return what is read of a training whose log tells of these validations."""
    record = dict(iterations=iterations, seconds=1.0, cpu_seconds=1.0, device='CPU', torch='2')
    (folder / 'run.json').write_text(json.dumps(record | dict(mmkd='0', ended='now')))
    (folder / 'steps.json').write_text(json.dumps(dict(wall_ms=1.0, processor_ms=1.0)))
    scalars = folder / '20261127_000000/vis_data/scalars.json'
    scalars.parent.mkdir(parents=True, exist_ok=True)
    scalars.write_text('\n'.join(json.dumps(dict(mIoU=x, step=step)) for step, x in validations))
    return read_training(folder, f'best_mIoU_iter_{iterations}.pth')['validation']


def test_a_validation_that_is_none_is_not_that_of_earlier_weights(tmp_path: Path) -> None:
    """It would choose weights and rows; neither is one that a kill left out."""
    found = training(tmp_path, (10, 40.0), (20, float('nan')))
    assert found == dict(last=dict(mIoU=None), best=dict(mIoU=None))
    assert training(tmp_path, (10, 40.0))['last'] == dict(mIoU=None)
    assert training(tmp_path, (10, 40.0), (20, 41.0)) == dict(
        last=dict(mIoU=41.0), best=dict(mIoU=41.0)
    )
    by_epoch = read_training(tmp_path, 'best_mIoU_epoch_1.pth', by_epoch=True)['validation']
    assert by_epoch == dict(last=dict(mIoU=41.0), best=dict(mIoU=41.0))
    by_another = read_training(tmp_path, 'best_aAcc_epoch_1.pth', by_epoch=True)['validation']
    assert by_another['best'] == dict(mIoU=None), 'of which epoch is not known'


def test_a_test_that_is_no_number_is_left_out_and_told(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    work = comparison(teacher, tmp_path, 'alone', 'kd', seeds=(0, 1))
    told(work)
    path = tmp_path / 'kd/seed_1/result.json'
    record = json.loads(path.read_text())
    record['test']['mIoU'] = float('nan')
    path.write_text(json.dumps(record))
    said = ' '.join(told(work, table_only=True)[1].split())
    assert 'Left out, since mIoU is no finite number: kd, seed 1.' in said
    row = json.loads((tmp_path / 'compare.json').read_text())['rows'][1]
    assert (row['method'], row['seeds'], len(row['test'])) == ('kd', [0], 1)
    for path in tmp_path.glob('*/seed_*/result.json'):
        record = json.loads(path.read_text())
        record['test'] = dict(mIoU=float('inf'))
        path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match='mIoU of every test in .* is no finite number.*Mend'):
        told(work, table_only=True)


def test_a_comparison_without_a_usual_metric_ends_before_anything_is_trained(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    work = comparison(teacher, tmp_path, 'kd', iters=2)
    prefixed = {f'{split}_evaluator.prefix': 'own' for split in ('val', 'test')}
    with pytest.raises(KeyError, match='no usual metric is there. Mend: --metric, one of own/'):
        told(replace(work, options=dict(work.options, **prefixed)))
    assert not [*tmp_path.rglob('trained.json')]


def test_runs_of_other_settings_are_refused_before_weights_are_tuned(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    work = comparison(teacher, tmp_path, 'kd', iters=2)
    told(work)
    tuned = replace(work, shares_every=1, tuned=('kd',), factors=(0.1, 1.0))
    with pytest.raises(FileExistsError, match='kd/seed_0 holds a run of other settings'):
        told(tuned)
    assert not (tmp_path / 'kd/tune').exists()


# ---------------------------------------------------------------------- what is told


def test_runs_of_a_pair_that_was_edited_are_told(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    first = comparison(teacher, tmp_path, 'alone', 'kd')
    said = ' '.join(told(first)[1].split())
    assert 'of the pair were others' not in said
    edited = dict(first.options, **{'optim_wrapper.optimizer.lr': 0.5})
    table = ' '.join(told(replace(first, specs=(read_spec('cwd'),), options=edited))[1].split())
    assert 'of the pair were others' not in table, 'a table of one row'
    every = (*first.specs, read_spec('cwd'))
    said = ' '.join(told(replace(first, specs=every), table_only=True)[1].split())
    assert 'optimizer, student or teacher of the pair were others than for the other runs' in said
    assert said.partition('not the method alone: ')[2].startswith('cwd, seed 0.')
    own = read_pair_config(PAIR, options(teacher))
    longer = read_pair_config(PAIR, options(teacher))
    longer.randomness = dict(seed=7)
    assert digest_of_pair(own) == digest_of_pair(longer)


def test_a_best_config_that_was_edited_is_left(teacher: str, tmp_path: Path, forks: Forks) -> None:
    work = comparison(teacher, tmp_path, 'kd')
    told(work)
    best = tmp_path / 'best.py'
    assert Config.fromfile(best).model.type == 'mmkd.Distiller'
    assert f'kd, {best}.' in told(work)[1]
    best.write_text(best.read_text().replace('lr=', 'lr=7 * '))
    edited = best.read_text()
    said = ' '.join(told(work, table_only=True)[1].split())
    assert f'{best} is not as it was written, and is left' in said
    assert best.read_text() == edited


def test_the_best_is_of_the_rows_with_most_seeds(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    row = dict(validation=40.0, seeds=[0, 1])
    apart = dict(row, method='few', seeds=[0, 1, 2], validated_apart=True)
    assert best_of([dict(row, method='alone'), apart], 'mIoU') == 'alone'
    assert best_of([apart], 'mIoU') is None
    work = comparison(teacher, tmp_path, 'alone', 'kd', seeds=(0, 1))
    forks.dies = lambda command: command[1].endswith('kd/seed_1.py')
    said = ' '.join(told(work)[1].split())
    assert 'Not looked at, since they have fewer seeds: kd.' in said
    assert json.loads((tmp_path / 'compare.json').read_text())['best'] == 'alone'


def test_the_table_so_far_may_be_had_while_runs_are_at_work(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    work = comparison(teacher, tmp_path, 'kd')
    told(work)
    before = (tmp_path / 'compare.md').read_text()
    (tmp_path / 'compare.md').unlink()
    with held_by_another(tmp_path):
        with pytest.raises(RuntimeError, match='in use by another run'):
            told(work)
        told(work, table_only=True)
    assert (tmp_path / 'compare.md').read_text() == before


def test_which_metrics_are_errors() -> None:
    less = ('MAE', 'depth/RMSE', 'rmse_log', 'ece', 'NME', 'FPR95', 'perplexity', 'crowd/mMR')
    assert all(map(less_is_better, less))
    more = ('mIoU', 'accuracy/top1', 'coco/bbox_mAP', 'PRR', 'AUROC_total', 'mAcc', 'delta1')
    assert not any(map(less_is_better, more))


def test_a_weight_that_died_is_told_as_none() -> None:
    """It was tried, so what is left is an edge of what was."""
    rows = [
        dict(method='fsp', tried={'0.1': 16.98, '1': None}, factor=0.1),
        dict(method='kd', tried={'0.1': 20.0, '1': 23.5, '3': 22.0}, factor=1.0),
        dict(method='mgd', tried={'0.1': None, '1': None}, factor=None),
        dict(method='alone', tried={}, factor=None),
    ]
    assert _tried_notes(rows) == [
        'Validation by weights, at that seed: fsp 16.98 × 0.1, none × 1; kd 20.00 × 0.1, 23.50 × '
        '1, 22.00 × 3.',
        'Best at the smallest weights that were tried: fsp.',
    ]
