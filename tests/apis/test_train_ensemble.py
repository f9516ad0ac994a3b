"""mmkd train-ensemble: members as if each were trained alone, finished ones kept, interrupted
ones finished.
"""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import ROOT, run_config, train
from helpers.tiny import segmentor
from mmengine.config import Config

from mmkd.apis import ensembles
from mmkd.apis.ensembles import member_config, table_members, train_members
from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config

PLAIN = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))


def config(folder: Path, **changes: Any) -> Config:
    cfg = run_config(
        folder, model=segmentor(4, num_classes=3, size=32), max_iters=2, interval=1, **changes
    )
    cfg.optim_wrapper = PLAIN
    return cfg


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a config file as users have them."""
    cfg = config(tmp_path).to_dict()
    path = tmp_path / 'recipe.py'
    path.write_text(
        Config({key: value for key, value in cfg.items() if key != 'work_dir'}).pretty_text
    )
    return path


def call(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: Any) -> None:
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.slow
def test_members(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / 'members'
    arguments = ('train_ensemble.py', recipe, '--seeds', 0, 1, '--work-dir', work)
    call(monkeypatch, *arguments)
    first = capsys.readouterr().out
    members = [weights(work / f'seed_{seed}/iter_2.pth') for seed in (0, 1)]
    assert not equal(*members)

    # The second member is what a run alone gives: nothing of the first one is left in the process.
    train(config(tmp_path, name='alone', randomness=dict(seed=1)))
    assert equal(members[1], weights(tmp_path / 'alone/iter_2.pth'))

    # The table holds the tests of the last weights.
    notes = [json.loads((work / f'seed_{seed}/done.json').read_text()) for seed in (0, 1)]
    mious = [note['metrics']['mIoU'] for note in notes]
    rows = [
        [cell.strip() for cell in line.strip('│').split('│')]
        for line in first.splitlines()
        if '│' in line
    ]
    assert [row[-2] for row in rows] == [f'{miou:.2f}' for miou in mious] + [
        f'{sum(mious) / 2:.2f} ± {abs(mious[0] - mious[1]) / 2**0.5:.2f}'
    ]

    # Again: both are skipped. Without its note and last checkpoint the second one goes on from the
    # first iteration.
    times = [(work / f'seed_{seed}/iter_2.pth').stat().st_mtime_ns for seed in (0, 1)]
    call(monkeypatch, *arguments)
    said = capsys.readouterr()
    assert said.out == first
    assert f'member 2 of 2: {work}/seed_1 is finished already' in said.err
    (work / 'seed_1/done.json').unlink()
    (work / 'seed_1/iter_2.pth').unlink()
    (work / 'seed_1/last_checkpoint').write_text(str(work / 'seed_1/iter_1.pth'))
    call(monkeypatch, *arguments)
    assert capsys.readouterr().out.endswith(first[first.index('For an') :])
    assert equal(members[1], weights(work / 'seed_1/iter_2.pth'))
    assert (
        (work / 'seed_0/iter_2.pth').stat().st_mtime_ns
        == times[0]
        < times[1]
        < (work / 'seed_1/iter_2.pth').stat().st_mtime_ns
    )
    logs = sorted((work / 'seed_1').glob('*/vis_data/scalars.json'))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    # both runs write into one file where they begin in the same second
    assert [json.loads(line)['iter'] for line in lines if '"loss"' in line] == [1, 2, 2]

    # One that was left before its first checkpoint begins anew, whatever was the best so far.
    for name in ('done.json', 'last_checkpoint', 'iter_1.pth'):
        (work / 'seed_1' / name).unlink()
    (work / 'seed_1/iter_2.pth').rename(work / 'seed_1/best_mIoU_iter_2.pth')
    call(monkeypatch, *arguments)
    capsys.readouterr()
    assert equal(members[1], weights(work / 'seed_1/iter_2.pth'))

    # The printed lines are an ensemble's members, which mmkd test evaluates by a config alone.
    teachers = eval(first[first.index('teachers=dict(') :].removeprefix('teachers='))
    assert [Path(t['checkpoint']).name for t in teachers.values()] == ['iter_2.pth'] * 2
    cfg = config(tmp_path, name='tested')
    cfg.model = dict(type='mmkd.Ensemble', members=teachers)
    cfg.test_evaluator = [
        cfg.test_evaluator,
        dict(type='mmkd.CalibrationMetric'),
        dict(type='mmkd.UncertaintyMetric', outputs='ensemble'),
    ]
    (
        cfg.pop('optim_wrapper'),
        cfg.pop('train_dataloader'),
        cfg.pop('train_cfg'),
        cfg.pop('param_scheduler'),
    )
    (tmp_path / 'ensemble.py').write_text(cfg.pretty_text)
    call(monkeypatch, 'test.py', tmp_path / 'ensemble.py', '--show-dir', tmp_path / 'shown')
    written = [path for path in (tmp_path / 'tested').glob('*/*.json') if path.name[0].isdigit()]
    metrics = json.loads(written[0].read_text())
    assert 0 < metrics['calibration/NLL'] < 1.5
    assert metrics['calibration/error'] == pytest.approx(100 - metrics['aAcc'], abs=0.01)
    assert -100 <= metrics['uncertainty/PRR'] <= 100
    with pytest.raises(
        SystemExit, match="an mmkd.Ensemble's members name their own checkpoints. Mend: leave out x"
    ):
        call(
            monkeypatch, 'test.py', tmp_path / 'ensemble.py', '--work-dir', tmp_path / 'w', 'x.pth'
        )
    with pytest.raises(
        SystemExit, match='a test needs a checkpoint. Mend: mmkd test CONFIG CHECKPOINT'
    ):
        call(monkeypatch, 'test.py', recipe)


def test_another_length_is_another_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of 1 iteration is not one of 2: it goes on."""
    arguments = (
        'train_ensemble.py',
        recipe,
        '--seeds',
        3,
        '--work-dir',
        tmp_path / 'm',
        '--cfg-options',
    )
    call(monkeypatch, *arguments, 'train_cfg.max_iters=1')
    assert json.loads((tmp_path / 'm/seed_3/done.json').read_text())['checkpoint'] == 'iter_1.pth'
    call(monkeypatch, *arguments, 'train_cfg.max_iters=2')
    note = json.loads((tmp_path / 'm/seed_3/done.json').read_text())
    assert (note['checkpoint'], note['length']) == ('iter_2.pth', {'max_iters': 2})


@pytest.mark.bad_input
def test_a_member_whose_schedule_has_ended_is_not_trained_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine resumes a schedule with the end it had: the rest would be at a rate of 0."""
    file = tmp_path / 'ending.py'
    arguments = ('train_ensemble.py', file, '--seeds', 3, '--work-dir', tmp_path / 'm')

    def train_to(length: int) -> None:
        decay = f"[dict(type='PolyLR', end={length}, by_epoch=False)]"
        length_of = f'train_cfg = dict(max_iters={length})'
        file.write_text(f'_base_ = {str(recipe)!r}\nparam_scheduler = {decay}\n{length_of}\n')
        call(monkeypatch, *arguments)

    train_to(1)
    train_to(1)  # finished
    said = 'a finished member of 1 iterations, whose schedules ended there: the rest of 2'
    with pytest.raises(SystemExit, match=said):
        train_to(2)
    (tmp_path / 'm/seed_3/done.json').unlink()  # interrupted
    with pytest.raises(SystemExit, match='holds a member of another model, data, .* schedule'):
        train_to(2)


def test_another_recipe_is_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained at another rate is no member of this ensemble."""
    arguments = (
        'train_ensemble.py',
        recipe,
        '--seeds',
        4,
        '--work-dir',
        tmp_path / 'm',
        '--cfg-options',
        'train_cfg.max_iters=1',
    )
    call(monkeypatch, *arguments)
    call(monkeypatch, *arguments)  # finished: read from its note
    mend = 'Mend: another --work-dir, or remove that folder'
    others = f'seed_4 holds a member of another model, data, optimizer, schedule, .* {mend}'
    rate = 'optim_wrapper.optimizer.lr=0.5'
    longer = 'train_cfg.max_iters=2'
    for another in ([rate], [longer, rate], ['--amp'], [longer, '--amp']):
        with pytest.raises(SystemExit, match=others):
            call(monkeypatch, *arguments, *another)
    hooks = tmp_path / 'hooks.py'
    hooks.write_text(f"_base_ = {str(recipe)!r}\ncustom_hooks = [dict(type='EMAHook')]\n")
    with pytest.raises(SystemExit, match=others):
        call(monkeypatch, arguments[0], hooks, *arguments[2:])
    call(monkeypatch, *arguments, longer)
    with pytest.raises(
        SystemExit, match=f'of 2 iterations, longer than the 1 iterations .* {mend}'
    ):
        call(monkeypatch, *arguments)
    # interrupted: its note is not written yet
    (tmp_path / 'm/seed_4/done.json').unlink()
    with pytest.raises(SystemExit, match=others):
        call(monkeypatch, *arguments, longer, rate)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('file', 'content', 'kind', 'said'),
    [
        ('done.json', '{"checkpoint"', SystemExit, 'seed_1/done.json cannot be read'),
        ('begun.json', '{"settings": "x"}', SystemExit, 'seed_1 holds a member of another model'),
        ('last_checkpoint', 'iter_9.pth', FileNotFoundError, "'iter_9.pth', but no such file"),
    ],
)
def test_a_later_member_is_refused_before_the_first_is_trained(
    recipe: Path, tmp_path: Path, file: str, content: str, kind: type[BaseException], said: str
) -> None:
    configs = [member_config(str(recipe), seed, None, str(tmp_path / 'm')) for seed in (0, 1)]
    folder = tmp_path / 'm/seed_1'
    folder.mkdir(parents=True)
    (folder / 'iter_1.pth').touch()
    (folder / 'last_checkpoint').write_text('iter_1.pth')
    (folder / file).write_text(content)
    with pytest.raises(kind, match=said):
        train_members(configs)
    assert not (tmp_path / 'm/seed_0').exists()


@pytest.mark.parametrize(('seeds', 'got'), [((1, 1), r'\[1, 1\]'), ((0, -1), r'\[0, -1\]')])
def test_seeds(
    seeds: tuple[int, ...],
    got: str,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, 'train_ensemble.py', recipe, '--seeds', *seeds)
    assert re.search(
        f'--seeds must be different whole numbers of at least 0, got {got}', capsys.readouterr().err
    )


def test_what_decides_nothing_refuses_nothing(recipe: Path, tmp_path: Path) -> None:
    """A member is known by what decides on its weights, and by what it was tested on apart."""

    def recipe_of(changes: dict) -> tuple[str, str]:
        cfg = member_config(str(recipe), 0, changes, str(tmp_path / 'm'))
        return ensembles._recipe(cfg, amp=False), ensembles._tested_by(cfg)

    plain = recipe_of({})
    for key, value in (
        ('train_dataloader.num_workers', 2),
        ('train_dataloader.pin_memory', True),
        ('default_hooks.logger.interval', 7),
    ):
        assert recipe_of({key: value}) == plain, key
    for key, value in (
        ('train_dataloader.batch_size', 3),
        ('train_dataloader.num_batch_per_epoch', 1),
        ('auto_scale_lr', dict(enable=True, base_batch_size=64)),
        ('default_hooks.param_scheduler', None),
        ('randomness.deterministic', True),
    ):
        found = recipe_of({key: value})
        assert found[0] != plain[0], key
        assert found[1] == plain[1], key
    tested = recipe_of({'test_dataloader.dataset.indices': [0]})
    assert (tested[0] == plain[0], tested[1] == plain[1]) == (True, False)


def test_a_finished_member_is_tested_by_the_settings_of_now(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Else a table would have the mean of tests on two sets."""

    def members(*seeds: int, **changes: Any) -> list[dict]:
        configs = [
            member_config(str(recipe), seed, {**SHORT, **changes}, str(tmp_path / 'm'))
            for seed in seeds
        ]
        return train_members(configs)

    [before] = members(0)
    weights_of = tmp_path / 'm/seed_0/iter_1.pth'
    time = weights_of.stat().st_mtime_ns
    one = {'test_dataloader.dataset.indices': [0]}
    first, second = members(0, 1, **one)
    assert 'seed_0 is finished, and tested by the settings of now' in capsys.readouterr().err
    assert weights_of.stat().st_mtime_ns == time
    assert first['metrics'] != before['metrics']
    assert {**first, 'metrics': 0, 'tested_by': 0} == {**before, 'metrics': 0, 'tested_by': 0}
    runner = build_runner(prepare_config(of_weights(recipe, tmp_path, weights_of, one)))
    assert runner.test() == pytest.approx(first['metrics'])
    assert members(0, 1, **one) == [first, second]
    assert capsys.readouterr().err.count('is finished already') == 2


SHORT = {'train_cfg.max_iters': 1}


def of_weights(recipe: Path, tmp_path: Path, weights_of: Path, changes: dict) -> Config:
    cfg = member_config(str(recipe), 0, {**SHORT, **changes}, str(tmp_path / 'again'))
    cfg.load_from = str(weights_of)
    return cfg


def test_columns_are_those_of_every_member() -> None:
    notes = [dict(metrics={}), dict(metrics=dict(mIoU=50.0))]
    assert table_members([0, 1], notes) == (
        ['seed', 'mIoU'],
        [['0', '–'], ['1', '50.00']],
    )


@pytest.mark.bad_input
def test_checkpoints_elsewhere_are_refused(recipe: Path, tmp_path: Path) -> None:
    """They would lie under the seed alone, where another ensemble's would be taken for them."""
    elsewhere = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'out')}
    with pytest.raises(SystemExit, match=r'out_dir\), under the seed alone.* Mend: leave out_dir'):
        member_config(str(recipe), 0, elsewhere, str(tmp_path / 'm'))


def test_members_are_plain_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'distill.py').write_text("model = dict(type='mmkd.Distiller')\n")
    with pytest.raises(
        SystemExit, match="distill.py is a Distiller's; members are plain models. Mend: give"
    ):
        call(monkeypatch, 'train_ensemble.py', tmp_path / 'distill.py')
