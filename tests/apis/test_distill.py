"""``mmkd distill``: the config that it writes, and the whole way from two configs to a student."""

import argparse
import importlib
import json
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import held_by_another
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

from mmkd.__main__ import main
from mmkd.apis.distill import distill
from mmkd.apis.launch import build_runner, load_config
from mmkd.apis.pairing import Pairing, config_text, read_method, write_config
from mmkd.apis.prepare import prepare_config
from mmkd.apis.runs import NoteBegin, begun_by, digest_of_file
from mmkd.engine.hooks import SafeCheckpointHook
from mmkd.utils.config_file import read_config

DEMO = Path(__file__).resolve().parents[2] / 'configs' / 'demo'
STUDENT, TEACHER = str(DEMO / 'student.py'), str(DEMO / 'teacher.py')
OPTIONS: dict[str, Any] = {
    'train_dataloader.dataset.num_scenes': 16,
    'val_dataloader.dataset.num_scenes': 4,
    'test_dataloader.dataset.num_scenes': 4,
}
EVERY_SECOND = {'default_hooks.checkpoint.interval': 2}


class StopAt(Hook):
    """Ends a training as Ctrl-C does."""

    priority = 'VERY_LOW'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, in which commands run, with a file for a teacher's weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'teacher.pth').write_bytes(b'')
    return tmp_path


def pairing(**changes: Any) -> Pairing:
    given = dict(student=STUDENT, teacher=TEACHER, checkpoints=('teacher.pth',)) | changes
    return Pairing(**given)


def command(name: str, *arguments: str) -> argparse.Namespace:
    """Return how a command reads its arguments."""
    module = importlib.import_module(f'mmkd.apis.commands.{name}')
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_intermixed_args(arguments)


# ---------------------------------------------------------------------- the config


def test_the_config_is_ten_lines_and_keeps_what_the_students_config_says(place: Path) -> None:
    path = write_config(pairing())
    assert path == Path('work_dirs/student_kd/distill.py')
    lines = path.read_text().splitlines()
    assert len([line for line in lines if not line.startswith('#')]) <= 10
    assert lines[1] == (
        '# the path of _base_ starts at this file, all others where the command runs'
    )
    cfg, alone = read_config(str(path)), read_config(STUDENT)
    assert cfg.model.to_dict() == dict(
        type='mmkd.Distiller',
        student=dict(cfg=STUDENT),
        teacher=dict(cfg=TEACHER, checkpoint='teacher.pth'),
        method='kd',
    )
    same = {key: value for key, value in cfg.to_dict().items() if key not in ('model', 'work_dir')}
    assert same == {key: value for key, value in alone.to_dict().items() if key != 'model'}
    assert cfg.work_dir == 'work_dirs/student_kd/run', 'mmengine dumps its config into that folder'


def test_a_length_takes_the_schedule_with_it(place: Path) -> None:
    cfg = read_config(str(write_config(pairing(iters=300, seed=7, name='short'))))
    alone = read_config(STUDENT)
    assert cfg.filename == 'work_dirs/short/distill.py' or 'short' in str(cfg.filename)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (300, 250)
    assert [one.get('end') for one in alone.param_scheduler] == [100, None]
    assert [one.get('end') for one in cfg.param_scheduler] == [20, None]
    assert cfg.param_scheduler[1].begin == 20
    assert cfg.randomness.seed == 7


def test_a_schedule_scales_what_it_counts_in_iterations_and_no_epochs(place: Path) -> None:
    schedules = [
        dict(type='OneCycleLR', eta_max=0.1, total_steps=1500, by_epoch=False),
        dict(type='CosineRestartLR', periods=[500, 1000], by_epoch=False),
        dict(type='StepLR', step_size=3, by_epoch=True),
        dict(type='MultiStepLR', milestones=[3, 5]),
    ]
    (place / 'own.py').write_text(f'_base_ = {STUDENT!r}\nparam_scheduler = {schedules}\n')
    cfg = read_config(str(write_config(pairing(student='own.py', iters=300))))
    assert [one.to_dict() for one in cfg.param_scheduler] == [
        schedules[0] | dict(total_steps=300),
        schedules[1] | dict(periods=[100, 200]),
        *schedules[2:],
    ]


def test_several_checkpoints_are_several_teachers_and_several_methods_a_list(place: Path) -> None:
    (place / 'other.pth').write_bytes(b'')
    two = pairing(checkpoints=('teacher.pth', 'other.pth'), methods=('end', 'end2-proxy'))
    cfg = read_config(str(write_config(two)))
    assert cfg.model.teachers.to_dict() == dict(
        t0=dict(cfg=TEACHER, checkpoint='teacher.pth'), t1=dict(cfg=TEACHER, checkpoint='other.pth')
    )
    assert cfg.model.method == ['end', 'end2-proxy']


def test_peers_are_students(place: Path) -> None:
    cfg = read_config(str(write_config(pairing(methods=('dml',), checkpoints=()))))
    assert cfg.model.students == dict(peer0=dict(cfg=STUDENT), peer1=dict(cfg=TEACHER))
    assert 'student' not in cfg.model


def test_weights_that_the_student_begins_with_stay_its_own(place: Path) -> None:
    (place / 'warm.py').write_text(f"_base_ = {STUDENT!r}\nload_from = 'warm.pth'\n")
    cfg = read_config(str(write_config(pairing(student='warm.py'))))
    assert cfg.load_from is None, 'it would be the checkpoint of a Distiller'
    assert cfg.model.student == dict(cfg='warm.py', checkpoint='warm.pth')


def test_weights_that_peers_begin_with_stay_those_of_each(place: Path) -> None:
    for name in ('a', 'b'):
        (place / f'{name}.py').write_text(f"_base_ = {STUDENT!r}\nload_from = '{name}.pth'\n")
    two = pairing(student='a.py', teacher='b.py', methods=('dml',), checkpoints=())
    cfg = read_config(str(write_config(two)))
    assert cfg.model.students.to_dict() == dict(
        peer0=dict(cfg='a.py', checkpoint='a.pth'), peer1=dict(cfg='b.py', checkpoint='b.pth')
    )
    assert cfg.load_from is None


def test_a_student_of_the_new_style_is_inherited_as_a_plain_file(place: Path) -> None:
    alone = read_config(STUDENT)
    wrapper = 'dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.5))'
    (place / 'new.py').write_text(
        'from mmengine.optim import OptimWrapper\nfrom torch.optim import SGD\n'
        f'{alone.pretty_text}\noptim_wrapper = {wrapper}\n'
    )
    path = write_config(pairing(student='new.py'))
    assert (path.parent / 'student_plain.py').read_text().startswith('# new.py in the old style')
    cfg = read_config(str(path))
    assert cfg.model.student == dict(cfg='new.py')
    assert cfg.optim_wrapper.to_dict() == dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5)
    )
    assert cfg.train_dataloader == alone.train_dataloader
    prepare_config(cfg)
    assert cfg.model.objectives.pixel.weight == 10.0


def test_a_config_of_a_package_is_its_base(place: Path) -> None:
    student = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    cfg = read_config(str(write_config(pairing(student=student))))
    assert cfg.model.student.cfg == student
    assert cfg.train_cfg.max_iters == 80000


STOCK = """_base_ = {student!r}
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=9))
custom_hooks = [dict(type='EMAHook'), dict(type='mmkd.NaNStopHook')]
randomness = dict(_delete_=True, deterministic=True)
"""


def test_hooks_of_mmkd_are_written_beside_those_of_another_library(place: Path) -> None:
    (place / 'own.py').write_text(STOCK.format(student=STUDENT))
    cfg = read_config(str(write_config(pairing(student='own.py'))))
    assert [one.type for one in cfg.custom_hooks] == [
        'EMAHook',
        'mmkd.NaNStopHook',
        'mmkd.ExactResumeHook',
        'mmkd.TeacherCheckHook',
        'mmkd.ExportStudentHook',
        'mmkd.RunRecordHook',
        'mmkd.UnlabelledHook',
        'mmkd.VocabularyHook',
    ]
    saves = dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=9)
    assert cfg.default_hooks.checkpoint == saves
    assert cfg.randomness == dict(deterministic=True, seed=0)


@pytest.mark.parametrize(
    'line',
    [
        "train_cfg = dict(_delete_=True, type='MyLoop', max_iters=8)",
        "train_dataloader = dict(batch_sampler=dict(type='AspectRatioBatchSampler'))",
        "train_dataloader = dict(sampler=dict(_delete_=True, type='ClassAwareSampler'))",
    ],
)
def test_no_exact_resume_is_asked_of_an_order_that_it_does_not_know(place: Path, line: str) -> None:
    (place / 'own.py').write_text(STOCK.format(student=STUDENT) + line)
    cfg = read_config(str(write_config(pairing(student='own.py'))))
    assert 'mmkd.ExactResumeHook' not in [one.type for one in cfg.custom_hooks]
    assert 'mmkd.RunRecordHook' in [one.type for one in cfg.custom_hooks]
    assert 'seed' not in cfg.randomness


def test_what_a_student_does_without_stays_out(place: Path) -> None:
    none = 'default_hooks = dict(checkpoint=None)\nrandomness = dict(seed=3)\n'
    (place / 'own.py').write_text(f'_base_ = {STUDENT!r}\n{none}')
    cfg = read_config(str(write_config(pairing(student='own.py'))))
    assert cfg.default_hooks.checkpoint is None
    assert cfg.randomness.seed == 3


def test_an_edited_config_is_never_written_over_without_being_asked(place: Path) -> None:
    path = write_config(pairing())
    assert write_config(pairing()) == path, 'the same command goes on'
    path.write_text(path.read_text().replace("'kd'", "dict(type='kd', tau=2.0)"))
    with pytest.raises(FileExistsError, match='it has been edited. Mend: mmkd train work_dirs/'):
        write_config(pairing())
    assert 'tau=2.0' in path.read_text()
    write_config(pairing(), overwrite=True)
    assert 'tau=2.0' not in path.read_text()


def test_a_mistyped_line_does_not_block_the_right_one_but_a_run_of_it_does(place: Path) -> None:
    path = write_config(pairing(methods=(dict(type='kd', weight=30),)))
    assert write_config(pairing(methods=(dict(type='kd', weight=3),))) == path
    assert read_config(str(path)).model.method == dict(type='kd', weight=3)
    (path.parent / 'run').mkdir()
    (path.parent / 'run' / 'iter_4.pth').touch()
    with pytest.raises(FileExistsError, match='run holds a run of another config than this'):
        write_config(pairing())
    assert read_config(str(path)).model.method.weight == 3
    write_config(pairing(), overwrite=True)
    assert read_config(str(path)).model.method == 'kd'


REFUSED: dict[str, tuple[dict, type[Exception], str]] = {
    'method': (dict(methods=('kdd',)), KeyError, "there is no method 'kdd'; did you mean 'kd'"),
    'student': (dict(student='no.py'), FileNotFoundError, "the config 'no.py' is not there"),
    'teacher': (dict(teacher='no.py'), FileNotFoundError, "the config 'no.py' is not there"),
    'checkpoint': (
        dict(checkpoints=('teachr.pth',)),
        FileNotFoundError,
        "'teachr.pth' is not there; did you mean 'teacher.pth'",
    ),
    'a method in place of a checkpoint': (
        dict(checkpoints=('skd',)),
        FileNotFoundError,
        "; 'skd' is a method: --method kd --method skd",
    ),
    'one checkpoint of several': (
        dict(methods=('end2-proxy',)),
        ValueError,
        'end2-proxy needs several teachers, got one checkpoint. Mend: give several checkpoints',
    ),
    'several checkpoints of one': (
        dict(checkpoints=('teacher.pth', 'teacher.pth')),
        ValueError,
        'kd needs one teacher, got 2 checkpoints. Mend: give one of them',
    ),
    'no checkpoint': (dict(checkpoints=()), ValueError, 'needs a teacher that has learned'),
    'peers with one': (dict(methods=('afd',)), ValueError, 'afd has no teacher: peers begin alike'),
    'length': (dict(iters=0), ValueError, '--iters must be a whole number of at least 1, got 0'),
    'a distiller': (
        dict(student=str(DEMO / 'distill.py')),
        ValueError,
        'is that of a Distiller, not of a student. Mend: ',
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize('what', REFUSED)
def test_what_is_refused(what: str, place: Path) -> None:
    changes, kind, message = REFUSED[what]
    with pytest.raises(kind) as refused:
        config_text(pairing(**changes))
    assert message in str(refused.value.args[0])


NOT_WRITTEN: dict[str, tuple[dict, dict, type[Exception], str]] = {
    'one method twice': (dict(methods=('kd', 'kd')), {}, ValueError, "method names 'kd' twice"),
    'option': (
        dict(methods=(dict(type='kd', wieght=3),)),
        {},
        TypeError,
        "method 'kd' got an unknown key 'wieght'; did you mean 'weight'",
    ),
    'option of a name': (
        {},
        {'model.method.weight': 3},
        TypeError,
        "model.method.weight=3 is an option of a method, but the config has the name alone: 'kd'. "
        'Mend: --method kd:weight=3 of mmkd distill; in a config method=dict(',
    ),
    'option of a name in a list': (
        dict(methods=('kd', 'quest')),
        {'model.method.1.num_words': 9},
        TypeError,
        'Mend: --method quest:num_words=9 of mmkd distill',
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize('what', NOT_WRITTEN)
def test_what_the_method_refuses_is_not_written(what: str, place: Path) -> None:
    changes, options, kind, message = NOT_WRITTEN[what]
    with pytest.raises(kind) as refused:
        write_config(pairing(**changes), options=options)
    assert message in str(refused.value.args[0])
    assert not Path('work_dirs').exists()


def test_an_option_of_this_run_may_change_what_the_method_is_given(place: Path) -> None:
    path = write_config(
        pairing(methods=(dict(type='kd', weight=3),)), options={'model.method.tau': 2.0}
    )
    cfg = load_config(str(path), {'model.method.tau': 2.0})
    assert cfg.model.method == dict(type='kd', weight=3, tau=2.0)


@pytest.mark.bad_input
@pytest.mark.parametrize('text', ['kd:', 'kd:weight', 'kd:weight=', 'id:layers=[1', 'kd:type=skd'])
def test_options_of_a_method_are_pairs(text: str) -> None:
    with pytest.raises(ValueError, match='takes NAME or NAME:option=value,…, got .* Mend: --meth'):
        read_method(text)


@pytest.mark.bad_input
def test_a_length_in_iterations_needs_such_a_loop(place: Path) -> None:
    (place / 'epochs.py').write_text(
        f'_base_ = {STUDENT!r}\ntrain_cfg = dict(_delete_=True, by_epoch=True, max_epochs=3)\n'
    )
    with pytest.raises(ValueError, match='does not say train_cfg.max_iters: it counts epochs'):
        config_text(pairing(student='epochs.py', iters=4))


# ---------------------------------------------------------------------- the commands


def test_the_command_reads_what_it_says(place: Path) -> None:
    args = command(
        'distill',
        STUDENT,
        TEACHER,
        'a.pth',
        '--method',
        'kd',
        '--method',
        'quest:num_words=9,weight=0.5',
        '--iters',
        '4',
        '--cfg-options',
        'a.b=3',
        'c=[1,2]',
    )
    assert (args.checkpoint, args.iters) == (['a.pth'], 4)
    methods = tuple(map(read_method, args.method))
    assert methods == ('kd', dict(type='quest', num_words=9, weight=0.5))
    assert pairing(methods=methods).folder == Path('work_dirs/student_kd+quest')
    assert args.cfg_options == {'a.b': 3, 'c': [1, 2]}


@pytest.mark.bad_input
def test_a_folder_has_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(['distill', STUDENT, TEACHER, '--name', 'a', '--work-dir', 'b'])
    assert refused.value.code == 2
    assert '--work-dir is the folder, --name one in work_dirs' in capsys.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('dml', 'takes the configs of two peers or more, got 1. Mend: mmkd methods dml A.py B.py'),
        ('kd', 'got 1. Mend: mmkd methods kd STUDENT.py TEACHER.py'),
        ('end', 'got 1. Mend: mmkd methods end STUDENT.py TEACHER.py TEACHER.py'),
    ],
)
def test_a_method_is_told_with_as_many_configs_as_it_has_members(name: str, message: str) -> None:
    module = importlib.import_module('mmkd.apis.commands.methods')
    with pytest.raises(ValueError, match=re.escape(message)):
        module.main(command('methods', name, STUDENT))


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module('mmkd.apis.commands.methods')
    assert module.main(command('methods')) is None
    said = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    for name in ('end2-proxy', 'ksanc', 'soft-randomization'):
        assert f' {name} ' in said


def test_a_method_is_told_with_what_it_makes_of_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module('mmkd.apis.commands.methods')
    module.main(command('methods', 'skd-pi-pa', STUDENT, TEACHER))
    said = capsys.readouterr().out
    assert 'arXiv 1903.04197' in said
    assert 'Reads: logits, feature, ' in said
    _, _, pasted = said.partition("mmkd: method='skd-pi-pa' is\n")
    found: dict = {}
    exec(pasted, found)
    assert found['model']['objectives']['pair']['weight'] == 10.0


# ---------------------------------------------------------------------- the whole way


def teach(folder: Path) -> str:
    """Train the demo's teacher for 4 iterations; return its checkpoint."""
    options = {**OPTIONS, 'train_cfg.max_iters': 4, 'param_scheduler': None}
    cfg = load_config(TEACHER, options, str(folder / 'teacher'))
    build_runner(prepare_config(cfg), verbose=False).train()
    return str(folder / 'teacher' / 'iter_4.pth')


def run(checkpoint: str, **changes: Any) -> tuple[bool, str]:
    """Distil for 4 iterations; return whether it could, and what was told."""
    said = StringIO()
    console = Console(file=said, width=150)
    done = distill(pairing(checkpoints=(checkpoint,), iters=4), console, OPTIONS, **changes)
    return done, said.getvalue()


@pytest.mark.slow
def test_a_stock_config_becomes_a_run_that_is_watched(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record, its plain students; and the run is not written over unasked."""
    checkpoint = teach(place)
    text = STOCK.format(student=STUDENT).replace("dict(type='EMAHook'), ", '')
    (place / 'own.py').write_text(text)
    said = StringIO()
    pair = pairing(student='own.py', checkpoints=(checkpoint,), iters=4)
    assert distill(pair, Console(file=said, width=150), OPTIONS), said.getvalue()
    folder = Path('work_dirs/own_kd')
    record = json.loads((folder / 'run/run.json').read_text())
    assert (record['seed'], record['iterations']) == (0, 4)
    assert (folder / 'run/student/iter_4.pth').exists()
    before = (folder / 'run/iter_4.pth').read_bytes()
    options = [f'{key}={value}' for key, value in OPTIONS.items()]
    with pytest.raises(SystemExit):
        main(['train', str(folder / 'distill.py'), '--cfg-options', *options])
    assert 'holds a run already' in capsys.readouterr().err
    assert (folder / 'run/iter_4.pth').read_bytes() == before


@pytest.mark.slow
def test_from_two_configs_to_a_student(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = teach(place)
    done, said = run(checkpoint, dry_run=True)
    assert done, said
    assert 'ready to train (errors: 0' in said
    assert not Path('work_dirs/student_kd/run').exists(), 'nothing was trained'

    done, said = run(checkpoint)
    assert done, said
    assert 'test: aAcc ' in said
    again = 'work_dirs/student_kd/distill.py'
    assert f'edit {again}, then mmkd train {again} --overwrite' in said
    folder = Path('work_dirs/student_kd')
    student = torch.load(folder / 'student/student.pth', weights_only=False)['state_dict']
    whole = torch.load(folder / 'run/iter_4.pth', weights_only=False)['state_dict']
    assert all(torch.equal(whole[f'students.student.{key}'], one) for key, one in student.items())
    plain = Config.fromfile(folder / 'student/config.py')
    assert plain.model.type == 'EncoderDecoder'
    dumped = Config.fromfile(folder / 'run/distill.py')
    assert dumped.model.objectives.pixel.weight == 10.0
    assert 'method' not in dumped.model

    monkeypatch.setattr(Runner, 'train', lambda self: pytest.fail('it was trained already'))
    done, said = run(checkpoint)
    assert done, said
    assert 'trained already: ' in said

    with pytest.raises(FileExistsError, match='finished by other settings: .* --overwrite begins'):
        run(checkpoint, amp=True)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    other = load_config(str(folder / 'distill.py'), OPTIONS | EVERY_SECOND | {'overwrite': True})
    runner = build_runner(prepare_config(other), verbose=False)
    runner.register_hook(StopAt(3))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    done, said = run(checkpoint)
    assert done, said
    assert 'goes on from work_dirs/student_kd/run/iter_2.pth' in said.replace(f'{place}/', '')


@pytest.mark.slow
def test_a_finished_run_is_that_of_the_students_model(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = teach(place)
    own = place / 'own.py'
    own.write_text(f'_base_ = {STUDENT!r}\n')
    elsewhere = OPTIONS | {'default_hooks.checkpoint.out_dir': 'elsewhere'}
    own_pair = pairing(student='own.py', checkpoints=(checkpoint,), iters=2)
    assert distill(own_pair, Console(file=StringIO()), elsewhere)
    assert Path('elsewhere/run/iter_2.pth').is_file()
    assert Path('work_dirs/own_kd/student/student.pth').is_file()
    own.write_text(f'_base_ = {STUDENT!r}\nmodel = dict(decode_head=dict(dropout_ratio=0.5))\n')
    with pytest.raises(FileExistsError, match='holds a run that was finished by other settings'):
        distill(own_pair, Console(file=StringIO()), elsewhere)


@pytest.mark.slow
@pytest.mark.bad_input
@pytest.mark.parametrize('saves', [dict(save_last=False, interval=9), None])
def test_a_run_that_saves_nothing_is_refused_before_it_trains(
    saves: dict | None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = teach(place)
    changes = {f'checkpoint.{key}': one for key, one in (saves or {}).items()}
    options = {f'default_hooks.{k}': v for k, v in (changes or dict(checkpoint=None)).items()}
    monkeypatch.setattr(sys.modules[__name__], 'OPTIONS', OPTIONS | options)
    monkeypatch.setattr('mmkd.apis.distill.train', lambda runner: pytest.fail('it trains'))
    with pytest.raises(ValueError, match='the run would end without a checkpoint, .* Mend: save_l'):
        run(checkpoint)


def interrupt(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distil, and end it after three iterations as Ctrl-C does."""

    def stop(runner: Any) -> None:
        runner.register_hook(StopAt(3))
        runner.train()

    with monkeypatch.context() as patch:
        patch.setattr('mmkd.apis.distill.train', stop)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = teach(place)
    monkeypatch.setattr(sys.modules[__name__], 'OPTIONS', OPTIONS | EVERY_SECOND)
    interrupt(checkpoint, monkeypatch)
    folder = Path('work_dirs/student_kd/run')
    assert sorted(path.name for path in folder.glob('iter_*.pth')) == ['iter_2.pth']
    with pytest.raises(FileExistsError, match='begun by other settings: .* --overwrite begins'):
        run(checkpoint, amp=True)
    taught = Path(checkpoint).read_bytes()
    other = torch.load(checkpoint, weights_only=False)
    torch.save(dict(other, meta={}), checkpoint)
    digest_of_file.cache_clear()
    with pytest.raises(FileExistsError, match="other weights of a teacher's. Mend: --overwrite"):
        run(checkpoint)
    Path(checkpoint).write_bytes(taught)
    digest_of_file.cache_clear()
    done, said = run(checkpoint)
    assert done, said
    assert 'goes on from work_dirs/student_kd/run/iter_2.pth' in said.replace(f'{place}/', '')
    assert (folder / 'iter_4.pth').is_file()


@pytest.mark.slow
def test_a_run_that_was_left_before_its_first_checkpoint_begins_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights so far have no optimizer beside them; those of other settings stay."""
    checkpoint = teach(place)
    best = {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.save_best': 'mIoU'}
    monkeypatch.setattr(sys.modules[__name__], 'OPTIONS', OPTIONS | best)
    interrupt(checkpoint, monkeypatch)
    folder = Path('work_dirs/student_kd/run')
    assert not list(folder.glob('iter_*.pth'))
    (found,) = folder.glob('best_mIoU_*.pth')
    with pytest.raises(FileExistsError, match='holds a run already'):
        run(checkpoint, amp=True)
    assert found.is_file()
    done, said = run(checkpoint)
    assert done, said
    assert 'left before its first checkpoint: it begins anew' in said
    assert (folder / 'iter_4.pth').is_file()


@pytest.mark.bad_input
def test_the_config_of_a_run_that_lives_is_not_written_anew(place: Path) -> None:
    """By a line of other options, whose folder is the same; a dry run neither."""
    write_config(pairing())
    folder = pairing().folder
    (folder / 'run').mkdir()
    before = (folder / 'distill.py').read_bytes()
    with held_by_another(folder / 'run'):
        for dry_run in (False, True):
            with pytest.raises(RuntimeError, match='run is in use by another run'):
                distill(pairing(seed=1), Console(file=StringIO()), dry_run=dry_run)
    assert (folder / 'distill.py').read_bytes() == before
    write_config(pairing(seed=1))
    assert (folder / 'distill.py').read_bytes() != before


def test_a_run_that_another_command_begins_anew_loses_the_note_of_the_first(place: Path) -> None:
    """Else its weights would be taken for those of the first one's settings."""
    folder = place / 'run'
    folder.mkdir()
    (folder / 'begun.json').write_text('{"settings": "one"}')
    options = {**OPTIONS, 'train_cfg.max_iters': 2, 'param_scheduler': None}
    runner = build_runner(prepare_config(load_config(TEACHER, options, str(folder))), verbose=False)
    assert begun_by(folder) == 'one'
    (saving,) = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    assert runner.train_loop  # made by now, which says that this is no test
    saving.before_run(runner)
    assert not (folder / 'begun.json').exists()
    NoteBegin('two').before_train(runner)
    assert begun_by(folder) == 'two'
    saving.after_run(runner)


@pytest.mark.slow
def test_a_config_that_would_not_train_is_refused(place: Path) -> None:
    checkpoint = teach(place)
    said = StringIO()
    wrong = {**OPTIONS, 'model.taps.logits': 'decode_head.conv_sg'}
    done = distill(
        pairing(checkpoints=(checkpoint,), iters=4), Console(file=said, width=150), wrong
    )
    assert not done
    assert "did you mean 'decode_head.conv_seg'" in said.getvalue().replace('\n', ' ')
    assert 'Mend work_dirs/student_kd/distill.py, then: mmkd train ' in said.getvalue()
    assert not Path('work_dirs/student_kd/run').exists()
