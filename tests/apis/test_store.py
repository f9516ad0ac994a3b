"""mmkd store: what is stored equals the live teacher, in trainings and tensor by tensor; it goes on
where it stopped; what does not fit is refused.
"""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny, two_ranks_stored, vocabularies
from helpers.processes import ranks
from helpers.runs import model_of, run_config, train
from helpers.stored import config, reading, store_of
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmkd.__main__ import main
from mmkd.apis.benchmark.pair import Options, Pair
from mmkd.apis.compare.settings import digest_of_run, teacher_configs
from mmkd.apis.doctor import diagnose
from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.utils.stored.shards import shards_of, stored_until

# as a store in another process holds its folder
HOLD = """
import fcntl, sys
with open(sys.argv[1], 'w') as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print('held', flush=True)
    input()
"""
LOGITS = dict(logits='decode_head.conv_seg')
PIXEL = dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0))


def model(**changes: Any) -> dict:
    return model_of(critic=False) | copy.deepcopy(changes)


def weights(runner: Runner) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def same(one: Runner, other: Runner) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Watched(list):
    """What the teacher of a run says to objectives, iteration by iteration."""

    def __init__(self, cfg: Config) -> None:
        self.runner = build_runner(prepare_config(cfg))
        model: Any = self.runner.model
        run = model.runs['teacher']
        observe = run.observe

        def noted(batch: Any) -> Any:
            seen, losses = observe(batch)
            self.append({tap: value.clone() for tap, value in seen.items()})
            return seen, losses

        run.observe = noted
        self.runner.train()


# ---------------------------------------------------------------------- it equals the live teacher

MODELS: dict[str, dict] = dict(
    paths={},
    points=dict(method='cwd', taps=None, objectives=None),
    features=dict(method=['kd', 'at'], taps=None, objectives=None),
    input_noise=dict(noise=[dict(type='GaussianInput', std=0.1)]),
    target_noise=dict(noise=[dict(type='TargetNoise', std=0.1)]),
    bf16=dict(teacher=dict(model_of()['teacher'], precision='bf16')),
    fused=dict(teacher=dict(model_of()['teacher'], fuse_bn=True, channels_last=True)),
)


def written(changes: dict) -> dict:
    return {key: value for key, value in model(**changes).items() if value is not None}


@pytest.mark.parametrize('kind', list(MODELS))
def test_in_float32_a_training_is_the_same_bit_for_bit(kind: str, tmp_path: Path) -> None:
    changes = written(MODELS[kind])
    live = train(config(tmp_path, 'live', changes))
    store_of(config(tmp_path, 'store', changes), tmp_path / 'out')
    stored = train(reading(tmp_path, 'stored', tmp_path / 'out', model=changes))
    assert same(live, stored)


def test_with_a_critic_and_two_optimizers(tmp_path: Path) -> None:
    live = train(run_config(tmp_path, name='live', val_interval=99))
    store_of(run_config(tmp_path, name='store', val_interval=99), tmp_path / 'out')
    teacher = dict(kind='stored', path=str(tmp_path / 'out'))
    stored = train(
        run_config(tmp_path, {**model_of(), 'teacher': teacher}, name='x', val_interval=99)
    )
    assert same(live, stored)


@pytest.mark.parametrize('dtype', ['bf16', 'fp16'])
def test_in_half_every_tensor_is_the_live_one_rounded(dtype: str, tmp_path: Path) -> None:
    live = Watched(config(tmp_path, 'live'))
    store_of(config(tmp_path, 'store'), tmp_path / 'out', dtype)
    stored = Watched(reading(tmp_path, 'stored', tmp_path / 'out'))
    kind = dict(bf16=torch.bfloat16, fp16=torch.float16)[dtype]
    assert len(live) == len(stored) == 4
    for one, other in zip(live, stored, strict=True):
        for tap, value in one.items():
            assert other[tap].dtype == torch.float32
            assert torch.equal(other[tap], value.to(kind).float())


def test_the_largest_of_the_live_ones(tmp_path: Path) -> None:
    live = Watched(config(tmp_path, 'live'))
    manifest = store_of(config(tmp_path, 'store'), tmp_path / 'out', top_k=1)
    taps = manifest.teachers['teacher'].taps
    assert {tap: one.kept for tap, one in taps.items()} == dict(
        logits='the 1 largest in fp32', feat='fp32'
    )
    stored = Watched(reading(tmp_path, 'stored', tmp_path / 'out'))
    for one, other in zip(live, stored, strict=True):
        p, q = one['logits'].softmax(1), other['logits'].softmax(1)
        assert torch.equal(p.argmax(1), q.argmax(1))
        assert torch.allclose(p.amax(1), q.amax(1), atol=1e-6)
        assert torch.allclose(q.sort(1).values[:, 0], (1 - p.amax(1)) / 2, atol=1e-6)
        assert torch.equal(one['feat'], other['feat'])


def test_one_method_reads_what_was_stored_for_another(tmp_path: Path) -> None:
    kd, cwd = (
        written(dict(method=name, taps=None, objectives=None, task_weight=None))
        for name in ('kd', 'cwd')
    )
    live = train(config(tmp_path, 'live', cwd))
    manifest = store_of(config(tmp_path, 'store', kd), tmp_path / 'out')
    tap = manifest.teachers['teacher'].taps['logits']
    assert (tap.asked, tap.path) == ('auto', 'decode_head.conv_seg')
    assert same(live, train(reading(tmp_path, 'stored', tmp_path / 'out', model=cwd)))
    at = written(dict(method='at', taps=None, objectives=None))
    with pytest.raises(KeyError, match=r'is not among what .* holds .logits='):
        build_runner(prepare_config(reading(tmp_path, 'at', tmp_path / 'out', model=at)))


def test_what_was_fitted_to_the_live_teacher_serves(tmp_path: Path) -> None:
    live = train(vocabularies.config(tmp_path, name='live', val_interval=99))
    store_of(vocabularies.config(tmp_path, name='store', val_interval=99), tmp_path / 'out')

    def stored(name: str) -> Config:
        cfg = vocabularies.config(tmp_path, name=name, val_interval=99)
        cfg.model.teacher = dict(kind='stored', path=str(tmp_path / 'out'))
        return cfg

    with pytest.raises(ValueError, match='is stored and cannot be run on other images'):
        train(stored('fresh'))
    resumed = stored('resumed')
    resumed.load_from = str(tmp_path / 'live' / 'iter_2.pth')
    assert same(live, train(resumed, resume=True))


def test_by_epochs(tmp_path: Path) -> None:
    changes: dict = dict(
        train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2, val_interval=9),
        param_scheduler=[],
    )

    def by_epochs(cfg: Config) -> Config:
        cfg.merge_from_dict(copy.deepcopy(changes))
        cfg.train_dataloader.sampler.type = 'DefaultSampler'
        cfg.custom_hooks = [one for one in cfg.custom_hooks if 'LengthCheck' not in one['type']]
        cfg.default_hooks.checkpoint.by_epoch = True
        return cfg

    live = train(by_epochs(config(tmp_path, 'live')))
    store_of(by_epochs(config(tmp_path, 'store')), tmp_path / 'out', iterations=4)
    assert stored_until(shards_of(tmp_path / 'out', 0)) == 4
    store_of(by_epochs(config(tmp_path, 'store')), tmp_path / 'out')  # on, inside an epoch
    stored = train(by_epochs(reading(tmp_path, 'stored', tmp_path / 'out')))
    assert live.iter == 6
    assert same(live, stored)


def test_with_workers_and_several_teachers(tmp_path: Path) -> None:
    one = model_of()['teacher']
    teachers = {name: copy.deepcopy(one) for name in ('t0', 't1')}
    loss = dict(type='EnsembleKLLoss')
    reads = dict(student='student.logits', teachers='t*.logits')
    both = model(taps=LOGITS, objectives=dict(all=dict(loss=loss, reads=reads)))
    both = {**{k: v for k, v in both.items() if k != 'teacher'}, 'teachers': teachers}
    live = train(config(tmp_path, 'live', both, workers=1))
    store_of(config(tmp_path, 'store', both, workers=2), tmp_path / 'out')
    read = {name: dict(kind='stored', path=str(tmp_path / 'out')) for name in teachers}
    stored = train(config(tmp_path, 'stored', {**both, 'teachers': read}, workers=1))
    assert same(live, stored)
    wrong = {f'x{name}': value for name, value in read.items()}
    reads = dict(student='student.logits', teachers='xt*.logits')
    bad = {**both, 'teachers': wrong, 'objectives': dict(all=dict(loss=loss, reads=reads))}
    with pytest.raises(KeyError, match=r"holds no teacher 'xt0'; did you mean 't0'"):
        build_runner(prepare_config(config(tmp_path, 'wrong', bad)))


def test_a_resumed_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out', shard_bytes=1)
    whole = train(reading(tmp_path, 'whole', tmp_path / 'out'))
    part = reading(tmp_path, 'part', tmp_path / 'out')
    part.load_from = str(tmp_path / 'whole' / 'iter_2.pth')
    assert same(whole, train(part, resume=True))


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    config(tmp_path, 'data')  # writes the images before two processes would
    ranks(two_ranks_stored.work, tmp_path)
    first, second = (json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2))
    assert first['live'] == first['stored'] == second['live'] == second['stored']
    assert first['world'] == second['world'] == 2
    assert [stored_until(shards_of(tmp_path / 'out', rank)) for rank in range(2)] == [4, 4]
    with pytest.raises(ValueError, match='world_size is 2 there and 1 here'):
        train(reading(tmp_path, 'alone', tmp_path / 'out'))


# ---------------------------------------------------------------------- how it is written


def contents(folder: Path) -> list[Any]:
    found = []
    for shard in shards_of(folder, 0):
        entries = torch.load(shard.path, weights_only=True)['entries']
        found += [(entry['names'], entry['taps']['teacher']['logits']) for entry in entries]
    return found


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'whole')
    store_of(config(tmp_path, 'store'), tmp_path / 'parts', iterations=1)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # Ctrl-C in the second iteration of the rest
        from mmkd.apis.store.teachers import Teachers

        say, calls = Teachers.say, []

        def stopping(self: Any, batch: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:  # the first one is looked at beforehand
                raise KeyboardInterrupt
            return say(self, batch)

        patch.setattr(Teachers, 'say', stopping)
        with pytest.raises(KeyboardInterrupt):
            store_of(config(tmp_path, 'store'), tmp_path / 'parts')
    assert stored_until(shards_of(tmp_path / 'parts', 0)) == 2
    store_of(config(tmp_path, 'store'), tmp_path / 'parts', tell=said.append)
    assert any('4 iterations, of which 2 are there' in line for line in said)
    one, other = contents(tmp_path / 'whole'), contents(tmp_path / 'parts')
    assert [names for names, _ in one] == [names for names, _ in other]
    assert len(one) == 4
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))


def test_what_it_takes_is_said_beforehand(tmp_path: Path) -> None:
    said: list[str] = []
    store_of(config(tmp_path, 'store'), tmp_path / 'out', 'bf16', tell=said.append)
    # logits (2, 3, 4, 4) and features (2, 16, 4, 4), two bytes each; 16 doubles an image beside
    assert said[0] == (
        'teacher.logits = decode_head.conv_seg (2, 3, 4, 4) in bf16: 192 B an iteration'
    )
    assert '(2, 16, 4, 4) in bf16: 1 KiB an iteration' in said[1]
    assert f'{4 * (192 + 1024 + 2 * 16 * 8) / 1024:.3g} KiB in ' in said[2]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple('Usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(9, 0, 1000))
    with pytest.raises(OSError, match=r'KiB do not fit: .* has 1e\+03 B free. Mend: --out'):
        store_of(config(tmp_path, 'store'), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('x')
    with pytest.raises(ValueError, match=r'is no folder of stored outputs and not empty .thesis'):
        store_of(config(tmp_path, 'store'), tmp_path / 'out')
    store_of(config(tmp_path, 'store'), tmp_path / 'fp32', iterations=1)
    with pytest.raises(ValueError, match=r"something else: dtype is 'fp32' there and 'bf16' here"):
        store_of(config(tmp_path, 'store'), tmp_path / 'fp32', 'bf16')
    other = model(teacher=dict(model=tiny.segmentor(12, num_classes=3, size=32)))
    other['teacher']['allow_untrained'] = True
    with pytest.raises(ValueError, match='teachers.teacher.model.backbone.base_channels is 8 '):
        store_of(config(tmp_path, 'store', other), tmp_path / 'fp32')


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    """A store that was killed in its first write goes on; a half file of others stays theirs."""
    out = tmp_path / 'out'
    parts = [
        out / 'probe.pt.71.part',
        out / 'manifest.json.71.part',
        out / 'rank0' / '0.pt.71.part',
    ]
    (out / 'rank0').mkdir(parents=True)
    for file in (*parts, out / 'run.lock'):
        file.write_bytes(b'half')
    store_of(config(tmp_path, 'store'), out, iterations=1)
    assert sorted(file.name for file in out.iterdir()) == ['manifest.json', 'probe.pt', 'rank0']
    assert [file.suffix for file in (out / 'rank0').iterdir()] == ['.pt']
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'film.mp4.71.part').write_bytes(b'half')
    with pytest.raises(ValueError, match=r'is no folder of stored outputs and not empty \(film'):
        store_of(config(tmp_path, 'store'), tmp_path / 'other')
    assert (tmp_path / 'other' / 'film.mp4.71.part').is_file()


@pytest.mark.bad_input
def test_two_stores_at_once(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, '-c', HOLD, out / 'run.lock'], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == 'held\n'
        (out / 'probe.pt.71.part').write_bytes(b'of the other one, which lives')
        with pytest.raises(RuntimeError, match='out is in use by another run'):
            store_of(config(tmp_path, 'store'), out)
        assert sorted(file.name for file in out.iterdir()) == ['probe.pt.71.part', 'run.lock']
        other.communicate('\n')
    store_of(config(tmp_path, 'store'), out, iterations=1)
    assert not (out / 'run.lock').exists()


@pytest.mark.parametrize(
    ('changes', 'options', 'kind', 'text'),
    [
        (
            dict(noise=[dict(type='TeacherDropout')]),
            {},
            ValueError,
            'TeacherDropout acts inside the forward in which teacher sees them',
        ),
        ({}, dict(iterations=5), ValueError, '--iters 5, but the run of this config has 4. Mend'),
        ({}, dict(top_k=3), ValueError, "tap 'logits' of teacher: the 3 largest of 3 logits"),
        (
            dict(objectives=tiny.objectives(pixel=None)),
            dict(top_k=1),
            ValueError,
            r'--top-k 1 keeps the largest of class logits, and no .*it reads teacher.feat',
        ),
        (
            dict(teacher=None, objectives=None, noise=[dict(type='GaussianInput', std=0.1)]),
            {},
            ValueError,
            'no objective of this config reads a teacher',
        ),
    ],
    ids=['dropout', 'iters', 'classes', 'no logits', 'no teacher'],
)
def test_what_cannot_be_stored(
    changes: dict, options: dict, kind: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=text):
        store_of(config(tmp_path, 'store', written(changes)), tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_runs_whose_data_are_no_function_of_the_iteration(tmp_path: Path) -> None:
    cfg = config(tmp_path, 'store')
    cfg.custom_hooks = []
    with pytest.raises(ValueError, match='ExactResumeHook is left out. Mend'):
        store_of(cfg, tmp_path / 'out')
    cfg = config(tmp_path, 'store')
    cfg.randomness = dict(seed=None)
    with pytest.raises(ValueError, match='no seed is set. Mend'):
        store_of(cfg, tmp_path / 'out')


def test_what_is_stored_is_not_stored_again(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out')
    with pytest.raises(ValueError, match='teacher is stored already, in .*out. Mend: the config'):
        store_of(reading(tmp_path, 'again', tmp_path / 'out'), tmp_path / 'other')


def test_numbers_that_are_none(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(config(tmp_path, 'store')))
    from mmkd.apis.store import store
    from mmkd.utils.stored.precision import Precision

    model_: Any = runner.model
    nn.init.constant_(model_.teacher.decode_head.conv_seg.bias, 1e5)
    with pytest.raises(FloatingPointError, match=r"tap 'logits' of teacher: numbers up to 1e\+05"):
        store(runner, tmp_path / 'out', Precision('fp16'), tell=lambda text: None)


# ---------------------------------------------------------------------- the tools beside it


def dumped(cfg: Config, path: Path) -> str:
    cfg.dump(path)
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None) -> None:
    live = dumped(config(tmp_path, 'live'), tmp_path / 'live.py')
    out = str(tmp_path / 'out')
    told = dumped(config(tmp_path, 'store'), tmp_path / 'store.py')
    assert main(['store', told, '--out', out, '--dtype', 'fp32']) == 0
    said = capsys.readouterr().out
    assert f"use it by teacher=dict(kind='stored', path={out!r})" in said
    assert re.search(r'4 iterations: [\d.]+ KiB in .*; free are', said)
    stored = dumped(reading(tmp_path, 'stored', tmp_path / 'out'), tmp_path / 'stored.py')
    assert main(['train', stored]) == 0
    assert main(['train', live]) == 0
    states = [
        torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['state_dict']
        for name in ('live', 'stored')
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    # the student goes its own way: it is exported and tested without what was stored
    shutil.rmtree(tmp_path / 'out')
    checkpoint = str(tmp_path / 'stored' / 'iter_4.pth')
    assert main(['export', checkpoint, str(tmp_path / 'student')]) == 0
    plain = tmp_path / 'stored' / 'student'
    assert main(['test', str(plain / 'config.py'), str(plain / 'iter_4.pth')]) == 0


def test_commands_of_what_is_no_distiller(
    tmp_path: Path, capsys: pytest.CaptureFixture, quick: None
) -> None:
    plain = config(tmp_path, 'plain', tiny.segmentor(4, num_classes=3, size=32))
    with pytest.raises(SystemExit, match='is not the config of a Distiller'):
        main(['store', dumped(plain, tmp_path / 'plain.py')])
    for flags, text in (
        (['--out', 'a', '--work-dir', 'b'], '--out and --work-dir are one folder'),
        (['--dtype', 'fp8'], "unknown choice 'fp8'"),
        (['--top-k', '0'], 'must be a whole number of at least 1'),
    ):
        with pytest.raises(SystemExit):
            main(['store', 'x.py', *flags])
        assert text in capsys.readouterr().err


def test_the_doctor(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out', 'bf16')
    report = diagnose(reading(tmp_path, 'stored', tmp_path / 'out'))
    assert report.errors == []
    rows = dict(teacher=report.tables['stored teachers'][1][0])
    assert rows['teacher'][2:] == ('4', '1', 'logits bf16, feat bf16')
    assert any('what it said of the first batch stands in' in text for text in report.notes)
    other = reading(tmp_path, 'stored', tmp_path / 'out')
    other.merge_from_dict({'randomness.seed': 3, 'train_cfg.max_iters': 9})
    errors = diagnose(other).errors
    assert len(errors) == 2
    assert 'seed is 0 there and 3 here' in errors[0]
    assert 'holds 4 iterations, this run has 9' in errors[1]


def test_the_benchmark_wants_a_network(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out', iterations=1)
    with pytest.raises(ValueError, match='there is no network that could be run or tested here'):
        Pair(reading(tmp_path, 'pair', tmp_path / 'out'), Options())
    live = model_of()['teacher']
    pair = Pair(reading(tmp_path, 'pair', tmp_path / 'out', verify=live), Options())
    assert [run.live for run in pair.full.runs.values()] == [True, True]


def test_a_comparison_knows_what_was_stored(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out', 'bf16', iterations=1)
    store_of(config(tmp_path, 'store'), tmp_path / 'fp32', iterations=1)
    pairs = [prepare_config(reading(tmp_path, 'pair', tmp_path / name)) for name in ('out', 'fp32')]
    assert teacher_configs(pairs[0]) == {}  # there is no network to test
    assert digest_of_run(pairs[0]) != digest_of_run(pairs[1])


def test_members_of_a_combination_are_stored_and_copies_of_the_student_are_not(
    tmp_path: Path,
) -> None:
    live = dict(model()['teacher'])
    teachers = dict(
        a=live,
        b=live,
        both=dict(kind='mean', of=['a', 'b']),
        ema=dict(kind='ema', of='student'),
    )
    objectives = {
        name: dict(PIXEL['pixel'], on=None, reads=dict(student='student.logits', teacher=read))
        for name, read in (('one', 'both.logits'), ('two', 'ema.logits'))
    }
    changes = model(teachers=teachers, objectives=objectives)
    del changes['teacher']
    cfg = config(tmp_path, 'store', changes)
    manifest = store_of(cfg, tmp_path / 'out', top_k=1)
    assert {name: list(one.taps) for name, one in manifest.teachers.items()} == dict(
        a=['logits'], b=['logits']
    )
    assert {one.taps['logits'].kept for one in manifest.teachers.values()} == {
        'the 1 largest in fp32'
    }


def test_images_that_are_mixed_are_no_images_of_a_store(tmp_path: Path) -> None:
    store_of(config(tmp_path, 'store'), tmp_path / 'out')
    noise = model(noise=[dict(type='InputMixup')], task_weight=0.0)
    with pytest.raises(ValueError, match='noise InputMixup acts on the images that teacher'):
        train(reading(tmp_path, 'stored', tmp_path / 'out', model=noise))
    with pytest.raises(ValueError, match='noise InputMixup acts on the images that teacher'):
        store_of(config(tmp_path, 'mixed', noise), tmp_path / 'other')


def test_a_map_of_classes_by_name_reads_a_store(tmp_path: Path) -> None:
    names = ['sky', 'road', 'car']
    changes = model(objectives=dict(pixel=dict(PIXEL['pixel'], class_map='names')))
    for member in ('student', 'teacher'):
        changes[member]['classes'] = names
    live = train(config(tmp_path, 'live', changes))
    store_of(config(tmp_path, 'store', changes), tmp_path / 'out')
    cfg = reading(tmp_path, 'stored', tmp_path / 'out', model=changes)
    cfg.model.teacher.classes = names
    assert same(live, train(cfg))
