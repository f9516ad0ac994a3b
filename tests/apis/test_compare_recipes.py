"""``mmkd compare``: rows that are recipes of their own, and the student alone of a mixed set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.comparisons import (
    ALONE,
    PAIR,
    TEACHER,
    Forks,
    comparison,
    options,
    told,
    untrained_teacher,
)
from mmengine.config import Config, ConfigDict

from mmkd.__main__ import main
from mmkd.apis.compare import jobs
from mmkd.apis.compare.recipes import differences_of, digests_of_sets, read_recipe_config
from mmkd.apis.compare.rows import paired
from mmkd.apis.compare.settings import (
    digest_of_run,
    read_pair_config,
    run_config,
    teacher_configs,
)
from mmkd.apis.compare.specs import Spec, read_spec, read_specs
from mmkd.apis.compare.table import Results, best_of, write_results
from mmkd.utils.config_file import read_config

FUNMATCH = 'mmkd::funmatch/funmatch_unet_digit-scenes.py'
PEERS = str(Path(PAIR).parents[1] / 'afd/dml_unetx2_digit-scenes.py')
SPENT_NOTHING = dict(
    **dict.fromkeys(('step_ms', 'step_processor_ms', 'seconds', 'processor_seconds'), 1.0),
    **dict(peak_memory_mib=1, peak_gpu_mib=None, jobs=1, resumed=False, iterations=4, factor=1.0),
    **dict(tested='last', device='a CPU', torch='2', mmkd='0'),
)
# the sets of the small pair of these tests
SETS = """
val_dataloader = dict(dataset=dict(num_scenes=3))
test_dataloader = dict(dataset=dict(num_scenes=4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False)]
"""
LONG = """
model = dict(
    objectives=dict(pixel=dict(weight=3.0)),
    noise=[dict(type='LabelFlip', rate=0.2, per='region')],
)
train_dataloader = dict(batch_size=3, dataset=dict(num_scenes=12))
train_cfg = dict(max_iters=6, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=0.01))
"""


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


def recipe(folder: Path, text: str = LONG, teacher: str = '', base: str = PAIR) -> str:
    """Write a recipe, tested as the small pair is; return its path."""
    weights = f'model = dict(teacher=dict(checkpoint={teacher!r}))\n' if teacher else ''
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'of.py').write_text(f'_base_ = {base!r}\n{SETS}{weights}')
    (folder / 'long.py').write_text(f"_base_ = './of.py'\n{text}")
    return str(folder / 'long.py')


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


# ---------------------------------------------------------------------- from runs to the table


def test_a_recipe_is_trained_as_it_says_and_tested_as_the_pair(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    path = recipe(tmp_path / 'recipes', LONG, teacher)
    work = tmp_path / 'work'
    asked = comparison(teacher, work, 'alone', f'few-labels={path}', iters=None, seeds=(1,))
    asked.options['train_cfg.max_iters'] = 4
    done, said = told(asked)
    assert done, said
    run = work / 'few-labels/seed_1'
    written = Config.fromfile(run.with_suffix('.py'))
    own = read_config(path)
    for key in ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg'):
        assert written[key] == own[key], key
    assert (written.randomness.seed, own.randomness.seed) == (1, 0)
    added = {one.type for one in written.custom_hooks} - {one.type for one in own.custom_hooks}
    assert added == {'mmkd.StepClockHook'}

    apart = tmp_path / 'apart'
    seeded = ['--cfg-options', 'randomness.seed=1']
    command = ['train', path, '--work-dir', str(apart), *seeded]
    assert forks(command, tmp_path / 'train.txt', {}).wait() == 0
    same, found = weights(apart / 'iter_6.pth'), weights(run / 'iter_6.pth')
    assert all(torch.equal(same[name], found[name]) for name in {*same, *found})

    result = json.loads((work / 'compare.json').read_text())
    alone, few = result['rows']
    assert (few['method'], few['recipe'], few['factor']) == ('few-labels', path, None)
    assert (alone['iterations'], few['iterations']) == ([4], [6])
    assert few['to_alone']['values'] == pytest.approx([few['test'][0] - alone['test'][0]])
    text = (work / 'compare.md').read_text()
    assert 'Recipes of their own' in text
    assert f'few-labels ({path})' in text
    assert 'Iterations differ, from 4 to 6: a gain holds what the length gives.' in text
    assert '| few-labels | ' in text

    forks.commands.clear()
    assert told(asked)[0]
    assert forks.commands == []
    gathered = tmp_path / 'gathered'  # of several work dirs, by hand, in another order
    gathered.mkdir()
    for name in ('few-labels', 'alone', 'teacher'):
        (work / name).rename(gathered / name)
    text = text.replace(f'/{work.name}/', f'/{gathered.name}/')
    work = gathered
    Path(path).unlink()  # a table is made of records
    changed = ['--cfg-options', *(f'{key}={one}' for key, one in asked.options.items())]
    assert main(['compare', PAIR, '--table-only', '--work-dir', str(work), *changed]) == 0
    assert (work / 'compare.md').read_text() == text
    rows = ['--methods', 'alone', 'kd', f'few-labels={path}']
    table = ['--table-only', '--work-dir', str(work)]
    assert main(['compare', PAIR, *rows, *table, *changed]) == 0
    missing = text.replace(' Best on', ' Missing: kd. Best on')
    assert (work / 'compare.md').read_text() == missing, 'what was asked for and is not there'


def test_of_several_students_the_one_that_predicts_is_tested(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    best = "default_hooks = dict(checkpoint=dict(save_best=['peer0/mIoU', 'peer1/mIoU']))\n"
    path = recipe(tmp_path / 'recipes', f'model = dict(predict_with="peer1")\n{best}', base=PEERS)
    work = tmp_path / 'work'
    done, said = told(comparison(teacher, work, f'peers={path}', iters=2))
    assert done, said
    run = work / 'peers/seed_0'
    cfg = Config.fromfile(run.with_suffix('.py'))
    assert (cfg.val_cfg.type, cfg.test_cfg.type) == ('ValLoop', 'TestLoop')
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    record = json.loads((run / 'result.json').read_text())
    assert record['tested'] == 'best'

    apart = tmp_path / 'apart'
    tested = str(run / record['checkpoint'])
    command = ['test', path, tested, '--work-dir', str(apart)]
    assert forks(command, tmp_path / 'test.txt', {}).wait() == 0
    found = [p for p in apart.glob('*/*.json') if p.stem == p.parent.name]
    each = json.loads(found[0].read_text())
    assert record['test']['mIoU'] == each['peer1/mIoU']
    assert each['peer0/mIoU'] != each['peer1/mIoU']


def test_the_student_alone_of_a_mixed_set_is_trained_on_its_labels(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / 'mixed.py').write_text(
        f'_base_ = {PAIR!r}\n'
        'train_dataloader = dict(batch_size=4, '
        "sampler=dict(_delete_=True, type='mmkd.MixedSampler', labelled=1, unlabelled=3), "
        "dataset=dict(_delete_=True, type='mmkd.WithUnlabelled', "
        'dataset={{_base_.train_dataloader.dataset}}, '
        "unlabelled=dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=9, seed=1))))\n"
    )
    changed = options(teacher)
    changed['train_dataloader.dataset.dataset.num_scenes'] = 16
    for key in ('dataset.num_scenes', 'batch_size'):
        del changed[f'train_dataloader.{key}']
    work = tmp_path / 'work'
    mixed = str(tmp_path / 'mixed.py')
    done, said = told(comparison(teacher, work, pair=mixed, options=changed, iters=2))
    assert done, said
    words = 'trained on the labelled images alone, by whole batches of them'
    assert f'alone: {words}' in said
    assert f'alone is {words}.' in (work / 'compare.md').read_text()
    alone, kd = (Config.fromfile(work / f'{name}/seed_0.py') for name in ('alone', 'kd'))
    loader = read_config(ALONE).train_dataloader
    loader.batch_size, loader.dataset.num_scenes = 4, 16
    assert alone.train_dataloader == loader, 'as of the baseline'
    assert alone.train_dataloader.sampler == dict(type='InfiniteSampler', shuffle=True)
    assert kd.train_dataloader.sampler.type == 'mmkd.MixedSampler'
    assert kd.train_dataloader.dataset.type == 'mmkd.WithUnlabelled'
    log = (work / 'kd/seed_0/train.txt').read_text()
    assert '16 images with labels and 9 without; 1 and 3 in a batch' in log


def test_a_mixed_set_with_another_sampler_keeps_it() -> None:
    pair = read_pair_config(PAIR)
    pair.train_dataloader.dataset = ConfigDict(
        type='mmkd.WithUnlabelled', dataset=pair.train_dataloader.dataset, unlabelled=dict(a=1)
    )
    pair.train_dataloader.sampler = ConfigDict(type='DefaultSampler', shuffle=True)
    loader = run_config(pair, read_spec('alone'), 0).train_dataloader
    assert loader.sampler.type == 'DefaultSampler'
    assert loader.dataset.type == 'mmkd.DigitScenes'


def test_a_pair_without_images_without_labels_is_left_as_it_was(teacher: str) -> None:
    cfg = run_config(read_pair_config(PAIR), read_spec('alone'), 0)
    assert cfg.train_dataloader == read_config(ALONE).train_dataloader


# ---------------------------------------------------------------------- the settings of a run


def of_recipe(path: str, **given: Any) -> Config:
    spec = read_spec(path)
    return run_config(read_recipe_config(spec), spec, **{'seed': 0, **given})


@pytest.mark.parametrize('where', ['custom_hooks', 'default_hooks'])
def test_a_length_takes_the_schedules_of_a_recipe_with_it(
    where: str, teacher: str, tmp_path: Path
) -> None:
    hook = (
        "dict(type='mmkd.ScheduleHook', schedules=["
        "dict(target='pixel.weight', type='linear', start=2.0, end=1.0, begin=2, length=4), "
        "dict(target='pixel.loss.tau', type='piecewise', points=[(0, 1.0), (6, 4.0)])])"
    )
    given = dict(custom_hooks=f'[{hook}]', default_hooks=f'dict(schedule={hook})')[where]
    path = recipe(tmp_path, f'{LONG}{where} = {given}\n', teacher)
    cfg = of_recipe(path, iters=60, factor=10.0)
    found = cfg.custom_hooks[0] if where == 'custom_hooks' else cfg.default_hooks.schedule
    weight, tau = found.schedules
    assert (weight.begin, weight.length) == (20, 40)
    assert (weight.start, weight.end) == (20.0, 10.0)
    assert [tuple(point) for point in tau.points] == [(0, 1.0), (60, 4.0)]
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (60, 30)
    assert cfg.model.objectives.pixel.weight == 30.0
    own = of_recipe(path)
    assert own.model.objectives.pixel.weight == 3.0
    assert own.train_cfg.max_iters == 6


def test_iterations_that_a_method_counts_follow_the_length(teacher: str, tmp_path: Path) -> None:
    text = (
        "model = dict(objectives=None, method=dict(type='cwd', warm_up=30, decay=(60, 90)))\n"
        'train_cfg = dict(max_iters=120)\n'
    )
    path = recipe(tmp_path, text, teacher)

    def points(**given: Any) -> list[tuple[int, float]]:
        (hook,) = (one for one in of_recipe(path, **given).custom_hooks if 'schedules' in one)
        return [(step, value / 3.0) for step, value in hook.schedules[0].points]

    assert points() == [(0, 0.0), (30, 1.0), (60, 1.0), (90, 0.0)]
    assert points(iters=1200) == [(0, 0.0), (300, 1.0), (600, 1.0), (900, 0.0)]
    assert points(iters=2) == [(0, 0.0), (1, 1.0), (2, 1.0), (3, 0.0)], 'they rise'
    assert digest_of_run(of_recipe(path)) == digest_of_run(of_recipe(path, iters=120))


def test_validations_do_not_cut_an_accumulation() -> None:
    pair = read_pair_config(PAIR)  # 1,500 iterations, a validation every 250th
    cfg = run_config(pair, read_spec('kd'), 0, 1000)
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (167, 167)
    pair.optim_wrapper.accumulative_counts = 4
    for iters, interval in ((1000, 168), (1500, 252), (5, 4), (1, 1)):
        cfg = run_config(pair, read_spec('kd'), 0, iters)
        assert cfg.train_cfg.val_interval == min(interval, iters)
        assert cfg.default_hooks.checkpoint.interval == min(interval, iters)
    pair.optim_wrapper = ConfigDict(
        constructor='mmkd.PhaseOptimWrapperConstructor',
        student=dict(pair.optim_wrapper, accumulative_counts=4),
        critic=dict(pair.optim_wrapper, accumulative_counts=6),
    )
    assert run_config(pair, read_spec('kd'), 0, 1000).train_cfg.val_interval == 168
    pair.custom_hooks = [one for one in pair.custom_hooks if 'ExactResume' not in one.type]
    assert run_config(pair, read_spec('kd'), 0, 1000).train_cfg.val_interval == 167


def test_schedules_of_the_pair_go_with_its_method_wherever_they_stand(tmp_path: Path) -> None:
    hook = "dict(type='mmkd.ScheduleHook', schedules=[])"
    text = f'default_hooks = dict(schedule={hook})\n'
    cfg = read_pair_config(recipe(tmp_path, text))
    assert 'schedule' not in cfg.default_hooks
    assert 'checkpoint' in cfg.default_hooks


def test_a_method_of_a_recipe_is_written_out(teacher: str, tmp_path: Path) -> None:
    text = "model = dict(objectives=None, method=dict(type='kd', tau=2.0))\n"
    cfg = of_recipe(recipe(tmp_path, text, teacher), shares_every=5)
    assert cfg.model.objectives.pixel.loss.tau == 2.0
    assert cfg.custom_hooks[-1] == dict(type='mmkd.GradientShareHook', every=5)
    plain = of_recipe(recipe(tmp_path, 'train_cfg = dict(max_iters=9)\n', base=ALONE))
    assert plain.model.type == 'EncoderDecoder'
    hooks = [one.type for one in plain.custom_hooks]
    assert hooks[-1] == 'mmkd.StepClockHook', 'a plain student has no shares'


def test_a_digest_of_a_recipe_is_of_what_it_says(teacher: str, tmp_path: Path) -> None:
    one = digest_of_run(of_recipe(recipe(tmp_path / 'a', LONG, teacher)))
    assert digest_of_run(of_recipe(recipe(tmp_path / 'b', LONG, teacher))) == one
    other = digest_of_run(
        of_recipe(recipe(tmp_path / 'b', f'{LONG}load_from = {teacher!r}', teacher))
    )
    text = LONG.replace('batch_size=3', 'batch_size=5')
    batch = digest_of_run(of_recipe(recipe(tmp_path / 'b', text, teacher)))
    assert len({one, other, batch}) == 3


def test_weights_that_a_run_begins_with_count_by_their_bytes(teacher: str, tmp_path: Path) -> None:
    copied = tmp_path / 'copy.pth'
    copied.write_bytes(Path(teacher).read_bytes())
    cfg = of_recipe(recipe(tmp_path, f'load_from = {teacher!r}\n', base=ALONE))
    same = of_recipe(recipe(tmp_path, f'load_from = {str(copied)!r}\n', base=ALONE))
    assert digest_of_run(cfg) == digest_of_run(same)
    other = of_recipe(recipe(tmp_path, f'load_from = {ALONE!r}\n', base=ALONE))
    assert digest_of_run(cfg) != digest_of_run(other)


# ---------------------------------------------------------------------- names


def test_how_a_recipe_is_called() -> None:
    assert read_spec(FUNMATCH) == Spec('funmatch_unet_digit-scenes', recipe=FUNMATCH)
    assert read_spec('few labels=a/x.py') == Spec('few labels', recipe='a/x.py')
    assert read_spec('few labels=a/x.py').folder == 'few_labels'
    assert read_spec('runs/lr=0.1/x.py') == Spec('x', recipe='runs/lr=0.1/x.py')
    assert read_spec('a=b=c.py') == Spec('a', recipe='b=c.py')
    assert not read_spec(FUNMATCH).alone
    assert read_spec('alone').alone
    assert not read_spec('kd').alone


@pytest.mark.parametrize(
    ('texts', 'said'),
    [
        (['x.py:train_cfg.max_iters=3'], "a recipe stands alone.*'x.py:train_cfg.max_iters=3'"),
        (['few=a/x.py:weight=3'], 'a recipe stands alone'),
        (['x.py+kd'], 'a recipe stands alone'),
        (['kd=x.py'], "the recipe 'x.py' would be called 'kd'.*few-labels=x.py"),
        (['a/alone.py'], "the recipe 'a/alone.py' would be called 'alone'"),
        (['a/x.py', 'b/x.py'], "'a/x.py' and 'b/x.py', which would share.*NAME=b/x.py"),
        (['long', 'long=b/x.py'], "names 'long' and 'long=b/x.py', which would share"),
        (['x.py', 'y=./x.py'], "the recipe './x.py' twice, as 'x' and 'y'. Mend: each once"),
    ],
)
def test_names_that_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_specs(texts)


def test_the_command_line_takes_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr('mmkd.apis.compare.compare', lambda *args: asked.append(args[0]) or True)
    rows = ['--methods', 'alone', 'kd', 'few=a/x.py', 'b/y.py', '--work-dir', str(tmp_path)]
    assert main(['compare', PAIR, *rows, '--tune', 'kd', 'b/y.py', 'few']) == 0
    assert [spec.recipe for spec in asked[0].specs] == [None, None, 'a/x.py', 'b/y.py']
    assert asked[0].tuned == ('kd', 'y', 'few')
    assert main(['compare', PAIR, *rows, '--tune-all']) == 0
    assert asked[1].tuned == ('*',)


# ---------------------------------------------------------------------- numbers


def test_what_is_validated_otherwise_is_not_called_the_best() -> None:
    kd = dict(method='kd', validation=41.0, seeds=[0])
    few = dict(method='few', validation=50.0, seeds=[0], validated_apart=True)
    assert best_of([kd, few], 'mIoU') == 'kd'
    assert best_of([kd, {**few, 'validated_apart': False}], 'mIoU') == 'few'
    assert best_of([few], 'mIoU') is None


def test_what_was_tested_or_validated_apart_is_told_by_the_records(
    teacher: str, tmp_path: Path
) -> None:
    pair = read_pair_config(PAIR, options(teacher))
    own = digests_of_sets(pair)
    assert set(own) == {'test', 'val'}
    tested = teacher_configs(pair)['teacher'][0]
    assert digests_of_sets(tested) == own
    for text in ('alone', 'kd'):
        assert digests_of_sets(run_config(pair, read_spec(text), 0)) == own
    path = recipe(tmp_path, LONG, teacher)
    assert digests_of_sets(of_recipe(path)) == own
    other = read_pair_config(PAIR, {**options(teacher), 'val_dataloader.dataset.num_scenes': 9})
    assert digests_of_sets(other)['test'] == own['test']
    assert digests_of_sets(other)['val'] != own['val']

    def notes(pair: Config, few: dict, kd: dict | None = None, seen: dict | None = None) -> str:
        def record(value: float, **more: Any) -> dict[str, Any]:
            last = dict(last=dict(mIoU=value))
            return dict(SPENT_NOTHING, test=dict(mIoU=value), validation=last, **more)

        specs = (Spec('kd', methods=('kd',)), Spec('few', recipe='few.py'))
        rows = dict(kd={0: record(40.0, **(kd or {}))}, few={0: record(50.0, **few)})
        taught = dict(teacher=dict(test=dict(mIoU=60.0), **(seen or {})))
        table = write_results(Results(specs, rows, taught, [], {}), tmp_path, None, pair)
        found = json.loads((tmp_path / 'compare.json').read_text())
        return f'best {found["best"]}. {" ".join(table.notes)}'

    for name in ('kd', 'few'):
        (tmp_path / name).mkdir()
        (tmp_path / f'{name}/seed_0.py').write_text('a = 1\n')
    for given in (dict(sets=own), dict(validated_apart=False), {}):
        text = notes(pair, given)
        assert 'best few.' in text
        assert 'otherwise than the pair' not in text
    # the validation set of the pair is another one by now: its runs say so, or else its config
    for said in (
        notes(pair, dict(sets=own), dict(sets=digests_of_sets(other))),
        notes(other, dict(sets=own)),
        notes(pair, dict(validated_apart=True)),
    ):
        assert 'best kd.' in said
        assert 'neither drawn nor compared: few.' in said
        assert 'Tested otherwise' not in said
    apart = dict(sets={**own, 'test': 'x'})
    said = notes(other, apart, dict(sets=own), apart)
    assert 'numbers say nothing of those of the other rows: few, teacher.' in said
    assert 'best few.' in said, 'its validation is that of the pair, whatever its config says'


def test_a_table_of_gathered_records_says_what_differs(teacher: str, tmp_path: Path) -> None:
    """Seeds by other weights, seeds that alone lacks, and no config that could become best.py."""
    pair = read_pair_config(PAIR, options(teacher))

    def record(value: float, factor: float = 1.0) -> dict[str, Any]:
        last = dict(last=dict(mIoU=value))
        more = dict(factor=factor, tuned=factor != 1)
        return dict(SPENT_NOTHING, test=dict(mIoU=value), validation=last) | more

    specs = (Spec('alone'), Spec('kd', methods=('kd',)))
    rows = dict(
        alone={0: record(40.0), 1: record(50.0)}, kd={0: record(41.0), 2: record(60.0, 3.0)}
    )
    taught = dict(teacher=dict(test=dict(mIoU=60.0)))
    table = write_results(Results(specs, rows, taught, [], {}), tmp_path, None, pair)
    found = json.loads((tmp_path / 'compare.json').read_text())['rows'][1]
    assert found['gap_closed'] == pytest.approx(100 * 1 / 20)
    said = ' '.join(table.notes)
    assert 'Gap closed: over the seeds that a row shares with alone.' in said
    assert 'Seeds of one row with different weights: kd.' in said
    assert 'Best on the validation set: kd, whose config is not there to become best.py.' in said
    assert not (tmp_path / 'best.py').exists()


def test_differences_are_those_of_images_metrics_and_loop(tmp_path: Path) -> None:
    pair = read_config(PAIR)

    def differs(**changes: Any) -> list[str]:
        other = read_config(PAIR)
        other.merge_from_dict(changes)
        return [where for where, _, _ in differences_of('test', pair, other)]

    assert differs() == []
    beside = {'test_dataloader.batch_size': 7, 'test_dataloader.dataset.lazy_init': True}
    assert differs(**beside) == []
    assert differs(**{'test_dataloader.dataset.split': 'val'}) == ['test_dataloader.dataset.split']
    assert differs(**{'test_evaluator.iou_metrics': ['mDice']}) == [
        'test_evaluator.0.iou_metrics.0'
    ]
    assert differs(**{'test_cfg.fp16': True}) == ['test_cfg.fp16']
    # how many images are looked at
    last = {'test_dataloader.drop_last': True, 'test_dataloader.batch_size': 3}
    assert differs(**last) == ['test_dataloader.drop_last', 'test_dataloader.batch_size']
    few = differs(**{'test_dataloader.num_batch_per_epoch': 2})
    assert few[0] == 'test_dataloader.num_batch_per_epoch'
    assert differs(**{'test_dataloader.drop_last': False}) == []
    assert differs(test_evaluator=[pair.test_evaluator]) == []
    none = read_config(PAIR)
    none.val_dataloader = None
    assert [where for where, _, _ in differences_of('val', none, pair)][0] == 'val_dataloader'
    assert list(differences_of('val', none, none)) == []
    assert paired({0: 1.0}, {0: 1.0}, 'mIoU').values == (0.0,)


# ---------------------------------------------------------------------- what is refused


def refused(teacher: str, folder: Path, *methods: str, **changes: Any) -> str:
    """Return why a comparison is refused, before anything is run."""
    with pytest.raises((ValueError, KeyError, TypeError, FileNotFoundError)) as stopped:
        told(comparison(teacher, folder / 'work', *methods, **changes))
    assert not list(folder.glob('work/*/seed_*')), 'nothing was run'
    return str(stopped.value)


def test_recipes_that_cannot_be_compared_are_refused_at_once(teacher: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, LONG, teacher)
    other = 'test_dataloader = dict(dataset=dict(num_scenes=5))\n'
    text = refused(teacher, tmp_path, f'few={recipe(tmp_path / "a", other, teacher)}')
    assert 'few is tested otherwise than the pair' in text
    assert f'test_dataloader.dataset.num_scenes is 4 in {PAIR}, 5 in {tmp_path}/a/long.py' in text
    assert "Mend: the pair's test_dataloader.dataset, test_evaluator and test_cfg" in text

    text = refused(teacher, tmp_path, f'{tmp_path}/lang.py')
    assert "lang.py' is not there; did you mean 'long.py'" in text
    text = refused(teacher, tmp_path, 'mmkd::funmatch/funmatch_unet_digit.py')
    assert "did you mean 'funmatch_unet_digit-scenes.py'" in text

    none = 'test_dataloader = test_cfg = test_evaluator = None\n'
    text = refused(teacher, tmp_path, recipe(tmp_path / 'b', none, teacher))
    assert 'by this recipe nothing is tested: it has no test_dataloader' in text
    none = 'train_dataloader = train_cfg = optim_wrapper = None\n'
    text = refused(teacher, tmp_path, recipe(tmp_path / 'b', none, teacher))
    assert 'by this recipe nothing is trained: it has no train_dataloader' in text

    text = refused(teacher, tmp_path, recipe(tmp_path / 'b', LONG, f'{teacher}.gone'))
    assert f"{tmp_path}/b/long.py, teacher 'teacher': checkpoint {teacher}.gone does not" in text
    assert "did you mean 'teacher.pth'" in text
    text = refused(f'{teacher}.gone', tmp_path)
    assert f"{PAIR}, teacher 'teacher': checkpoint {teacher}.gone does not exist" in text
    text = refused(teacher, tmp_path, f'teacher={path}')
    assert 'its folder would be that of the test of a teacher. Mend: a name of its own' in text
    epochs = "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)\n"
    text = refused(teacher, tmp_path, recipe(tmp_path / 'b', epochs, teacher), iters=3)
    assert 'long.py does not say train_cfg.max_iters: it counts epochs' in text


def test_weights_that_are_not_there_are_missed_at_once(teacher: str, tmp_path: Path) -> None:
    gone = f'{teacher}.gone'
    path = recipe(tmp_path, f'load_from = {gone!r}\n', base=ALONE)
    text = refused(teacher, tmp_path, f'few={path}')
    assert (
        f"{path}, load_from: checkpoint {gone} does not exist; did you mean 'teacher.pth'" in text
    )
    far = recipe(tmp_path / 'far', "load_from = 'https://x.org/a.pth'\n", base=ALONE)
    assert read_recipe_config(read_spec(far)).load_from == 'https://x.org/a.pth'
    for key, where in (
        ('model.student.checkpoint', "student 'student'"),
        ('load_from', 'load_from'),
    ):
        text = refused(teacher, tmp_path, 'alone', options={**options(teacher), key: gone})
        assert f'{PAIR}, {where}: checkpoint {gone} does not exist' in text


def test_a_recipe_of_epochs_is_refused_before_steps_are_measured(
    teacher: str, tmp_path: Path
) -> None:
    epochs = "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)\n"
    path = recipe(tmp_path, epochs, teacher)
    text = refused(teacher, tmp_path, 'alone', path, iters=None, seconds=1.0)
    assert 'long.py does not say train_cfg.max_iters: it counts epochs' in text
    assert not list(tmp_path.glob('work/*/probe'))


MIXED = """
train_dataloader = dict(dataset=dict(_delete_=True, type='mmkd.WithUnlabelled',
    dataset={{_base_.train_dataloader.dataset}},
    unlabelled=dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=9, seed=1))))
"""
REPEATED = """
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2,
    dataset={{_base_.train_dataloader.dataset}}))
"""


def test_images_without_labels_are_found_within_other_sets(teacher: str, tmp_path: Path) -> None:
    mixed = recipe(tmp_path / 'a', MIXED, teacher)
    (tmp_path / 'a/twice.py').write_text(f"_base_ = './long.py'\n{REPEATED}")
    changed = {'model.teacher.checkpoint': teacher}
    pair = str(tmp_path / 'a/twice.py')
    text = refused(teacher, tmp_path, 'kd', 'alone', pair=pair, options=changed)
    assert 'but WithUnlabelled stands inside of RepeatDataset' in text
    mend = "dict(type='mmkd.WithUnlabelled', dataset=dict(type='RepeatDataset', …), unlabelled=…)"
    assert mend in text
    run_config(read_pair_config(pair, changed), read_spec('kd'), 0)
    run_config(read_pair_config(mixed, changed), read_spec('alone'), 0)
    recipe(tmp_path / 'b', MIXED, base=ALONE)
    (tmp_path / 'b/twice.py').write_text(f"_base_ = './long.py'\n{REPEATED}")
    for name in ('long', 'twice'):
        path = f'{tmp_path}/b/{name}.py'
        text = refused(teacher, tmp_path, f'plain={path}')
        assert f'{path}: its model is no Distiller and learns from labels alone' in text


def test_weights_of_a_recipe_are_tuned_on_the_validation_set_of_the_pair(
    teacher: str, tmp_path: Path
) -> None:
    other = f'{LONG}val_dataloader = dict(dataset=dict(num_scenes=6))\n'
    path = recipe(tmp_path, other, teacher)
    text = refused(teacher, tmp_path, path, tuned=('long',))
    assert 'long is validated otherwise than the pair' in text
    assert f'val_dataloader.dataset.num_scenes is 3 in {PAIR}, 6 in {path}' in text
    plain = recipe(tmp_path / 'plain', '', base=ALONE)
    text = refused(teacher, tmp_path, 'kd', f'plain={plain}', tuned=('plain',))
    assert '--tune plain: it is a row without weights' in text
    text = refused(teacher, tmp_path, 'kd', f'plain={plain}', tuned=('plane',))
    assert '--tune plane: it is no method of --methods' in text


@pytest.mark.slow
def test_a_tuned_recipe_has_its_objectives_multiplied(
    teacher: str, tmp_path: Path, forks: Forks
) -> None:
    path = recipe(tmp_path / 'recipes', LONG, teacher)
    plain = recipe(tmp_path / 'plain', '', base=ALONE)
    work = tmp_path / 'work'
    rows = comparison(
        teacher, work, path, f'plain={plain}', iters=2, tuned=('*',), factors=(0.5, 20.0)
    )
    done, said = told(rows)
    assert done, said
    assert not (work / 'plain/tune.json').exists()
    factor = json.loads((work / 'long/tune.json').read_text())['factor']
    weight = Config.fromfile(work / 'long/seed_0.py').model.objectives.pixel.weight
    assert weight == 3.0 * factor
    tuned, alone = json.loads((work / 'compare.json').read_text())['rows']
    assert (tuned['factor'], alone['factor']) == (factor, None)
    text = (work / 'compare.md').read_text()
    assert f'never on the test set: long × {factor:g}' in text
    assert 'All rows have 2 iterations.' in text


def test_peers_and_teachers_of_shipped_recipes_are_known() -> None:
    spec = read_spec(FUNMATCH)
    pair = read_pair_config(PAIR)
    cfg = read_config(FUNMATCH)
    assert list(differences_of('test', pair, run_config(cfg, spec, 0))) == []
    peers = run_config(read_recipe_config(read_spec(PEERS)), read_spec(PEERS), 0, 30)
    assert list(differences_of('test', pair, peers)) == []
    assert list(differences_of('val', pair, peers)) == []
    assert read_config(TEACHER).test_dataloader == pair.test_dataloader
