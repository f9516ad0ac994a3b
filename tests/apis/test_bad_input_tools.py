"""Bad input to the tools, as a new user would give it: one paragraph says what is wrong, where, and
the mend.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.runs import SGD, run_config, train
from helpers.tiny import segmentor
from mmengine.config import Config

from mmkd.__main__ import tool

pytestmark = pytest.mark.bad_input
PLAIN = dict(_delete_=True, **SGD)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, a Distiller's run ``run`` and a plain one ``plain``, of two
    iterations each.
    """
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))
        train(run_config(folder, max_iters=2))
        train(
            run_config(
                folder,
                model=segmentor(4, num_classes=3, size=32),
                name='plain',
                max_iters=2,
                optim_wrapper=PLAIN,
            )
        )
    return folder


class Attempt:
    """A config in a folder of its own, and tools that refuse it."""

    def __init__(
        self,
        folder: Path,
        trained: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
    ) -> None:
        self.folder, self.trained, self.monkeypatch, self.capfd = (
            folder,
            trained,
            monkeypatch,
            capfd,
        )

    def config(self, change: str = '', plain: bool = False, **changes: Any) -> Path:
        """Write a sound config, and below it what spoils it, as a user types it."""
        if plain:
            changes = (
                dict(model=segmentor(4, num_classes=3, size=32), optim_wrapper=PLAIN) | changes
            )
        path = self.folder / 'recipe.py'
        path.write_text(f'{run_config(self.folder, **changes).pretty_text}\n{change}\n')
        return path

    def refused(self, name: str, *args: object, code: int = 1) -> str:
        """Run a tool in this process; return its paragraph."""
        self.monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            tool(name)
        said = self.capfd.readouterr()
        assert 'Traceback' not in said.err
        if isinstance(stopped.value.code, str):
            return stopped.value.code
        assert stopped.value.code == code
        return (said.err or said.out).strip().splitlines()[-1]


@pytest.fixture
def attempt(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Attempt:
    shutil.copytree(trained / 'data', tmp_path / 'data')
    return Attempt(tmp_path, trained, monkeypatch, capfd)


# ---------------------------------------------------------------------- config files


@pytest.mark.parametrize(
    ('content', 'pattern'),
    [
        (b'model = dict(\n', r"the config '\S+x.py', line 1: SyntaxError: '\(' was never closed"),
        (
            b'a = 1\nmodel = dict(type=Undefined)\n',
            r"x.py', line 2: NameError: name 'Undefined' is not defined.*Mend: ",
        ),
        (b'\xff\xfe\x00', r"x.py': UnicodeDecodeError: "),
        (
            b"_base_ = ['./nowhere.py']\n",
            r"by '\S+nowhere.py' among its _base_: .*Mend: paths of _base_ start at",
        ),
        (b"_base_ = ['mmkd::_base_/scedule_40k.py']\n", r'scedule_40k.py" does not exist. Mend: '),
        (
            b"custom_imports = dict(imports=['no_such_module'])\n",
            r"ImportError: Failed to import custom modules from \{'imports': "
            r"\['no_such_module'\]\}. Mend",
        ),
        (b'', "has no 'model', so there is nothing to train or test. Mend: model=dict"),
        (
            b'train_cfg = dict(max_iters=2)\nmodel = dict(type="mmkd.Distiller")\n',
            'the config sets train_cfg, but not train_dataloader, optim_wrapper. Mend: all three',
        ),
    ],
)
def test_files_that_are_no_config(attempt: Attempt, content: bytes, pattern: str) -> None:
    path = attempt.folder / 'x.py'
    path.write_bytes(content)
    assert re.search(pattern, attempt.refused('train', path))


@pytest.mark.parametrize(
    ('path', 'pattern'),
    [
        ('.', "the config '.' is a folder, not a file"),
        ('mmkd::structured_kdd/x.py', "is not there; did you mean 'structured_kd'"),
        ('nopackage::x.py', "'nopackage::x.py' is not there: no such package is installed"),
        (__file__ + 'c', 'is not there'),
    ],
)
def test_paths_of_no_config(attempt: Attempt, path: str, pattern: str) -> None:
    assert re.search(pattern, attempt.refused('train', path))


def test_a_checkpoint_as_config(attempt: Attempt) -> None:
    said = attempt.refused('test', attempt.trained / 'run/iter_2.pth', attempt.config())
    assert (
        "iter_2.pth' must be a file that ends in one of ('.py', '.json', '.yaml', '.yml')" in said
    )


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            "model = 'mmkd.Distiller'",
            "model must be a dictionary or None, got 'mmkd.Distiller'. Mend: model=dict",
        ),
        (
            "model['type'] = 'mmkd.Distillr'",
            r"has no model 'mmkd.Distillr'. Mend: a registered name; did you mean 'Distiller'",
        ),
        (
            "del model['type']",
            "a part of the config has no type, .*objectives.* Mend: type='...' in it",
        ),
        (
            'optim_wrapper = None',
            'the config sets train_dataloader, train_cfg, but not optim_wrapper. Mend',
        ),
        ('optim_wrapper = [optim_wrapper]', 'optim_wrapper must be a dictionary or None'),
        (
            "optim_wrapper['student']['optimizer']['type'] = 'SDG'",
            "optim_wrapper.student.optimizer: there is no optimizer 'SDG'; did you mean 'SGD'",
        ),
        (
            "optim_wrapper['student']['optimizer']['momentun'] = .9",
            "SGD got an unknown argument 'momentun'; did you mean 'momentum'",
        ),
        (
            "optim_wrapper['student']['optimizer']['lr'] = '0.01'",
            "optimizer.lr must be a finite number, 0 or above, got '0.01'",
        ),
        (
            "optim_wrapper['critic']['optimizer']['lr'] = float('nan')",
            'critic.optimizer.lr must be a finite number.*got nan',
        ),
        (
            "param_scheduler[0]['type'] = 'PolLR'",
            "no parameter scheduler 'PolLR'. Mend: .*did you mean 'PolyLR'",
        ),
        (
            'val_evaluator = None',
            'the config sets val_dataloader, val_cfg, but not val_evaluator. Mend',
        ),
        ('default_hooks = [1]', r'default_hooks must be a dictionary or None, got \[1\]'),
        ("custom_hooks = dict(type='EMAHook')", 'custom_hooks must be a list, got .*Mend: '),
        (
            "custom_hooks = [dict(type='EMAHok')]",
            "no hook 'EMAHok'. Mend: a registered name; did you mean 'EMAHook'",
        ),
        ('randomness = 0', 'randomness must be a dictionary or None, got 0'),
        ('randomness = dict(sed=0)', "randomness got an unknown key 'sed'; did you mean 'seed'"),
        ("env_cfg = 'gloo'", "env_cfg must be a dictionary or None, got 'gloo'"),
        (
            'train_dataloder = dict(batch_size=4)',
            "'train_dataloder' is none of the Runner's; did you mean 'train_dataloader'",
        ),
        ('default_scope = 3', 'default_scope must be a text or None, got 3'),
        (
            'del default_scope',
            "no visualizer 'SegLocalVisualizer'; it belongs to mmseg. Mend: default_scope='mmseg'",
        ),
        ("log_level = 'LOUD'", "log_level must be one of .*INFO.*, got 'LOUD'"),
        (
            "resume = 'iter_2.pth'",
            "resume must be True or False, got 'iter_2.pth'. Mend: .*load_from",
        ),
        ('load_from = 3', 'load_from must be a text or None, got 3'),
        ('work_dir = 5', 'work_dir must be the path of a folder, got 5'),
        ('work_dir = __file__', 'work_dir must be the path of a folder, .* is a file. Mend'),
        (
            'auto_scale_lr = dict(base_batch_size=0)',
            'auto_scale_lr.base_batch_size must be a whole number of at least 1',
        ),
        (
            "train_dataloader['batchsize'] = 2",
            "DataLoader got an unknown argument 'batchsize'; did you mean 'batch_size'",
        ),
        (
            "del train_dataloader['dataset']",
            r"train_dataloader has no dataset \(it has \['batch_size'",
        ),
        (
            "train_dataloader['dataset']['type'] = 'BaseSegDatset'",
            "no dataset 'BaseSegDatset'. Mend: .*'BaseSegDataset'",
        ),
        (
            "train_dataloader['dataset']['pipeline'][2]['crop'] = 3",
            r"RandomCrop got an unknown argument 'crop'; did you mean 'crop_size'\? \(allowed: "
            r'crop_size',
        ),
        (
            "default_hooks['chekpoint'] = dict(type='CheckpointHook')",
            'default_hooks.chekpoint would be a hook beside the default ones; did you mean '
            "'checkpoint'",
        ),
        (
            "model['student']['model']['backbone']['norm_cfg']['type'] = 'BM'",
            'the type of a norm_cfg, conv_cfg, act_cfg or upsample_cfg is not registered. Mend: a '
            "name such as 'BN'",
        ),
        (
            "model['student']['model']['backbone']['init_cfg'] = dict(type='Pretrained', "
            "checkpoint='nope.pth')",
            'checkpoint nope.pth does not exist',
        ),
        (
            "model['objectives']['holistic']['loss']['critic']['channels'] = 8",
            'channels must be at least two multiples .*got 8',
        ),
        (
            "train_dataloader['dataset']['pipeline'].pop()",
            "the batches have no 'inputs', .*Mend: a pipeline that ends in",
        ),
        (
            "train_dataloader['dataset']['pipeline'].pop(1)",
            'the samples have no gt_sem_seg, .*Mend: .*LoadAnnotations',
        ),
    ],
)
def test_settings(attempt: Attempt, change: str, pattern: str) -> None:
    change = change.replace('__file__', repr(__file__))
    said = attempt.refused('train', attempt.config(change))
    assert re.search(pattern, said), said


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            "model['objectives'] = [1]",
            r'objectives must be a dictionary, got \[1\]. Mend: objectives=dict',
        ),
        (
            "model['objectives']['pixel'] = None",
            "objective 'pixel' must be a dictionary, got 'None'",
        ),
        (
            "model['objectives']['pixel']['on'] = ['logits']",
            r"objective 'pixel': on must be the name of a tap, got \[",
        ),
        (
            "model['objectives']['pair']['reads'] = 'student.feat'",
            "objective 'pair': reads must be a dictionary",
        ),
        (
            "model['objectives']['holistic']['loss']['critic'] = 'HolisticCritic'",
            'critic must be a dictionary or a module',
        ),
        (
            "model['objectives']['pair']['loss']['patch'] = 2.5",
            'patch must be an int of at least 1 .*, got 2.5',
        ),
        (
            "model['taps'] = 'decode_head.conv_seg'",
            "taps must be a dictionary, got 'decode_head.conv_seg'",
        ),
        ("model['predict_with'] = 0", 'predict_with=0 names no student'),
        ("model['teacher']['taps'] = ['x']", "taps of teacher 'teacher' must be a dictionary"),
        (
            "model['teacher']['checkpoint'] = ['a.pth']",
            "checkpoint of teacher 'teacher' must be a path or URL.*Mend: ",
        ),
        ("model['teacher']['checkpoint'] = ''", "must be a path or URL, got ''"),
        (
            "model['teacher']['allow_untrained'] = 'no'",
            "allow_untrained of teacher 'teacher' must be True or False, got 'no'",
        ),
        (
            "model['teachers'] = [model.pop('teacher')]",
            'teachers must be a dictionary, got .*Mend: teachers=dict',
        ),
        (
            "model['student']['model'].pop('data_preprocessor')",
            'the data preprocessor left a list of images.*Mend: ',
        ),
        (
            "default_hooks['check'] = dict(type='mmkd.TeacherCheckHook', minimum=60)",
            'minimum must be a dictionary, got 60',
        ),
        (
            "default_hooks['check'] = dict(type='mmkd.TeacherCheckHook', minimum=dict(mIoU='60'))",
            "must be a number, got '60'",
        ),
        (
            "default_hooks['s'] = dict(type='mmkd.ScheduleHook', "
            "schedules=dict(target='pixel.weight'))",
            'schedules must be a list of dictionaries',
        ),
    ],
)
def test_settings_of_a_distiller(attempt: Attempt, change: str, pattern: str) -> None:
    said = attempt.refused('train', attempt.config(change))
    assert re.search(pattern, said), said


def test_the_doctor_tells_sections_that_are_none(attempt: Attempt) -> None:
    attempt.monkeypatch.setenv('COLUMNS', '400')
    attempt.monkeypatch.setattr(
        sys, 'argv', ['doctor.py', str(attempt.config('default_hooks = [1]'))]
    )
    with pytest.raises(SystemExit) as stopped:
        tool('doctor')
    assert stopped.value.code == 1
    assert (
        'ERROR: default_hooks must be a dictionary or None, got [1]'
        in attempt.capfd.readouterr().out
    )


# ---------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            "train_dataloader['dataset']['data_root'] = 'nowhere'",
            'cannot list its samples: .*No such file.*Mend: data_root',
        ),
        (
            "train_dataloader['dataset']['ann_file'] = 'no.txt'",
            'cannot list its samples: .*no.txt.*Mend: ',
        ),
        (
            "train_dataloader['dataset']['ann_file'] = 'bad.txt'",
            "cannot list its samples: .*can't decode.*bad.txt",
        ),
        (
            "train_dataloader['dataset']['ann_file'] = 'img'",
            "ann_file='\\S+img' of BaseSegDataset is a folder.*Mend: ",
        ),
        (
            "train_dataloader['dataset']['data_prefix']['img_path'] = 'img/0.png'",
            'cannot list its samples: .*Not a directory',
        ),
    ],
)
def test_lists_of_samples(attempt: Attempt, change: str, pattern: str) -> None:
    (attempt.folder / 'data/bad.txt').write_bytes(b'\xff\xfe')
    said = attempt.refused('train', attempt.config(change))
    assert re.search(pattern, said), said


@pytest.mark.parametrize('value', [77, 3])
def test_labels_of_the_validation_out_of_range(attempt: Attempt, value: int) -> None:
    shutil.copytree(attempt.folder / 'data', attempt.folder / 'val')
    cv2.imwrite(str(attempt.folder / 'val/ann/4.png'), np.full((40, 40), value, np.uint8))
    said = attempt.refused(
        'train',
        attempt.config(f"val_dataloader['dataset']['data_root'] = {str(attempt.folder / 'val')!r}"),
    )
    assert (
        f'labels hold the ids [{value}], but the data set of the evaluation has 3 classes (0 … 2; '
        '255' in said
    )
    assert 'val/ann/4.png' in said


def test_a_test_set_of_other_classes(attempt: Attempt) -> None:
    path = attempt.config(
        "test_dataloader['dataset']['metainfo'] = dict(classes=('a', 'b'), palette=[[0, 0, 0]] * "
        '2)',
        plain=True,
    )
    assert (
        'the model predicts 3 classes, the data set of the evaluation has 2. Mend: '
        in attempt.refused('test', path, attempt.trained / 'plain/iter_2.pth')
    )


# ---------------------------------------------------------------------- checkpoints of others

OTHER = dict(model=segmentor(8, num_classes=3, size=32), optim_wrapper=PLAIN)


@pytest.mark.parametrize('name', ['test', 'robustness'])
def test_checkpoints_of_another_width_are_not_tested(attempt: Attempt, name: str) -> None:
    said = attempt.refused(name, attempt.config(**OTHER), attempt.trained / 'plain/iter_2.pth')
    assert re.search(
        r'plain/iter_2.pth does not fit the model of this config, which would be tested with '
        r'random weights: \d+ weights are missing or of another shape: backbone.stem.0.weight \(2, '
        r'3, 3, 3\), the model has \(4, 3, 3, 3\)',
        said,
    )


def test_a_checkpoint_without_auxiliary_head_is_tested(
    attempt: Attempt, capfd: pytest.CaptureFixture
) -> None:
    state = torch.load(attempt.trained / 'plain/iter_2.pth', weights_only=False)['state_dict']
    torch.save(
        {key: value for key, value in state.items() if 'auxiliary' not in key},
        attempt.folder / 'a.pth',
    )
    args = [attempt.config(plain=True), attempt.folder / 'a.pth']
    attempt.monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, args)])
    tool('test')


@pytest.mark.parametrize('of', ['plain', 'run'])
def test_load_from_of_another_kind(attempt: Attempt, of: str) -> None:
    said = attempt.refused(
        'train',
        attempt.config(
            f'load_from = {str(attempt.trained / of / "iter_2.pth")!r}', plain=of == 'run'
        ),
    )
    assert re.search(
        r"load_from='\S+' holds less than half of this model: \d+ weights are missing", said
    )


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (
            "model['student']['model']['backbone']['base_channels'] = "
            "8\nmodel['student']['model']['backbone']['stem_channels'] = "
            "8\nmodel['student']['model']['decode_head']['in_channels'] = 64\n"
            "model['student']['model']['auxiliary_head']['in_channels'] = 32",
            r'iter_2.pth cannot be resumed by this config: \d+ weights are missing or of another '
            r'shape',
        ),
        (
            "del model['objectives']['holistic']",
            r"it holds weights of the objectives \['holistic'\], the model of \[\]",
        ),
        (
            "optim_wrapper['student']['optimizer'] = dict(type='RMSprop', lr=.01)",
            'is RMSprop, which has no dampening',
        ),
        (
            'load_from = EXPORT',
            r'holds weights but no run \(message_hub, optimizer missing\), so it cannot be '
            r'resumed. Mend',
        ),
    ],
)
def test_resumes_of_another_run(attempt: Attempt, change: str, pattern: str) -> None:
    shutil.copytree(attempt.trained / 'run', attempt.folder / 'run')
    change = change.replace('EXPORT', repr(str(attempt.folder / 'run/student/iter_2.pth')))
    said = attempt.refused('train', attempt.config(change, max_iters=4), '--resume')
    assert re.search(pattern, said), said


def test_a_resume_of_another_run_whose_last_checkpoint_is_lost(attempt: Attempt) -> None:
    shutil.copytree(attempt.trained / 'run', attempt.folder / 'run')
    (attempt.folder / 'run/last_checkpoint').unlink()
    said = attempt.refused(
        'train', attempt.config("del model['objectives']['holistic']", max_iters=4), '--resume'
    )
    assert (
        'iter_2.pth cannot be resumed by this config: it holds weights of the objectives '
        "['holistic']" in said
    )


# ---------------------------------------------------------------------- exports, notes, records,
# flags


def test_an_export_over_its_own_checkpoint(attempt: Attempt) -> None:
    shutil.copytree(attempt.trained / 'run', attempt.folder / 'run')
    path = attempt.folder / 'run/iter_2.pth'
    before = path.read_bytes()
    said = attempt.refused('export_student', path, path)
    assert 'holds the checkpoints of a run, which an export would overwrite' in said
    assert path.read_bytes() == before
    alone = attempt.folder / 'kept/iter_2.pth'
    alone.parent.mkdir()
    shutil.copy(path, alone)
    said = attempt.refused('export_student', alone, alone)
    assert 'kept/iter_2.pth is the checkpoint of a run, which an export would overwrite' in said
    assert alone.read_bytes() == before


@pytest.mark.parametrize(
    ('meta', 'pattern'),
    [
        ([1], 'does not hold the config of its run'),
        (dict(cfg='model = 3\n'), 'is not of a Distiller: its model is 3'),
    ],
)
def test_exports_of_a_broken_meta(attempt: Attempt, meta: Any, pattern: str) -> None:
    content = torch.load(attempt.trained / 'run/iter_2.pth', weights_only=False)
    torch.save({**content, 'meta': meta}, attempt.folder / 'a.pth')
    assert pattern in attempt.refused(
        'export_student', attempt.folder / 'a.pth', attempt.folder / 'out.pth'
    )


@pytest.mark.parametrize('content', ['[1', '[1]', '{"a": 1}'])
def test_notes_of_members(attempt: Attempt, content: str) -> None:
    note = attempt.folder / 'w/seed_0/done.json'
    note.parent.mkdir(parents=True)
    note.write_text(content)
    said = attempt.refused(
        'train_ensemble',
        attempt.config(plain=True),
        '--seeds',
        '0',
        '--work-dir',
        attempt.folder / 'w',
    )
    assert 'seed_0/done.json cannot be read (' in said
    assert 'Mend: remove it' in said


@pytest.mark.parametrize(
    ('record', 'pattern'),
    [
        (dict(cpu_seconds='x'), "run.json: cpu_seconds must be a number, got 'x'. Mend"),
        (dict(cpu_seconds=None), 'run.json: cpu_seconds must be a number, got None'),
        (dict(seed=[0]), r'run.json: seed must be a text or a number, got \[0\]'),
        (dict(config={}), 'run.json: config must be a text or a number'),
    ],
)
def test_records_of_wrong_types(attempt: Attempt, record: dict, pattern: str) -> None:
    place = attempt.folder / 'a/test/20260101_000000'
    place.mkdir(parents=True)
    (place / '20260101_000000.json').write_text('{"mIoU": 3.0}')
    (attempt.folder / 'a/run.json').write_text(json.dumps(record))
    assert re.search(pattern, attempt.refused('report', attempt.folder / 'a'))


@pytest.mark.parametrize(
    ('metrics', 'pattern'),
    [('true', r'no metric in common: a has \[\]'), ('1' + '0' * 400, 'mIoU of .* is inf')],
)
def test_results_that_are_no_number(attempt: Attempt, metrics: str, pattern: str) -> None:
    place = attempt.folder / 'a/test/20260101_000000'
    place.mkdir(parents=True)
    (place / '20260101_000000.json').write_text(f'{{"mIoU": {metrics}}}')
    assert re.search(pattern, attempt.refused('report', attempt.folder / 'a'))
    assert 'is no folder' in attempt.refused('report', '')


@pytest.mark.parametrize(
    ('name', 'flag', 'least'),
    [
        ('doctor', '--batches', 1),
        ('doctor', '--val-batches', 1),
        ('doctor', '--batch-size', 1),
        ('doctor', '--evaluate', 0),
        ('benchmark', '--iters', 1),
        ('benchmark', '--warmup', 0),
        ('benchmark', '--batch-size', 1),
        ('fit_vocabulary', '--images', 1),
        ('fit_vocabulary', '--seed', 0),
        ('robustness', '--images', 1),
        ('robustness', '--steps', 0),
    ],
)
def test_flags_that_count(attempt: Attempt, name: str, flag: str, least: int) -> None:
    said = attempt.refused(name, 'x.py', 'y.pth', f'{flag}={least - 1}', code=2)
    assert f"argument {flag}: must be a whole number of at least {least}, got '{least - 1}'" in said


def test_amp_without_optimizers(attempt: Attempt) -> None:
    said = attempt.refused('train', attempt.config('optim_wrapper = None'), '--amp')
    assert "--amp sets the precision of optimizers, but the config has no 'optim_wrapper'" in said
    assert Config.fromfile(attempt.folder / 'recipe.py').optim_wrapper is None
