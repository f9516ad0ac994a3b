"""Students leave as plain mmseg models: the same logits where no mmkd can be imported."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.processes import shell
from helpers.runs import CLASSES, ROOT, model_of, run_config, train
from helpers.tiny import build, preprocessor, segmentor
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.apis import init_model

from mmkd import export_student
from mmkd.apis.prepare import is_distiller
from mmkd.distiller.export import student_config, student_meta, student_state_dict
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import name_members
from mmkd.version import __version__

# mmseg's own two functions, in a Python that cannot import mmkd
WITHOUT_MMKD = """
import sys
class NoMmkd:
    def find_spec(self, name, *_):
        if name.split('.')[0] == 'mmkd':
            raise ImportError('mmkd is not installed here')
sys.meta_path.insert(0, NoMmkd())
import torch
from mmseg.apis import inference_model, init_model
config, checkpoint, image, out = sys.argv[1:]
model = init_model(config, checkpoint, device='cpu')
x = torch.load('x.pth')
with torch.no_grad():
    logits = model(x, mode='tensor')
predicted = inference_model(model, image).pred_sem_seg.data
found = dict(logits=logits, predicted=predicted, meta=model.dataset_meta)
torch.save(found | dict(mmkd='mmkd' in sys.modules), out)
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A trained Distiller with a critic, its checkpoint and what ExportStudentHook wrote beside
    it.
    """
    return train(run_config(tmp_path_factory.mktemp('export'), max_iters=2))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def logits_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(x, mode='tensor')


# ---------------------------------------------------------------- without mmkd


@pytest.mark.slow
def test_mmseg_loads_the_student_where_there_is_no_mmkd(
    run: Runner, x: torch.Tensor, tmp_path: Path
) -> None:
    work = Path(run.work_dir)
    image = work.parent / 'data/img/0.png'
    torch.save(x, tmp_path / 'x.pth')
    arguments = [work / 'student/config.py', work / 'student/iter_2.pth', image, 'out.pth']
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMKD, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'unexpected key' not in done.stdout + done.stderr
    assert 'missing keys' not in done.stdout + done.stderr
    found = torch.load(tmp_path / 'out.pth', weights_only=False)
    assert not found['mmkd']
    assert torch.equal(found['logits'], logits_of(run.model.student, x))
    assert tuple(found['meta']['classes']) == CLASSES
    # the whole way from a file: the exported test pipeline, the preprocessor, the argmax
    data = run.val_dataloader.dataset[0]
    by_us = run.model.eval().val_step(
        dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    )[0]
    assert torch.equal(found['predicted'], by_us.pred_sem_seg.data)


def test_the_exported_files(run: Runner, x: torch.Tensor) -> None:
    work = Path(run.work_dir)
    model = init_model(
        str(work / 'student/config.py'), str(work / 'student/iter_2.pth'), device='cpu'
    )
    assert torch.equal(logits_of(model, x), logits_of(run.model.student, x))
    text = (work / 'student/config.py').read_text()
    assert 'mmkd' not in text
    assert 'teacher' not in text
    saved = torch.load(work / 'student/iter_2.pth', weights_only=False)
    assert set(saved) == {'state_dict', 'meta'}
    assert saved['state_dict'].keys() == run.model.student.state_dict().keys()
    meta = saved['meta']
    assert (meta['iter'], meta['mmkd_member'], meta['mmkd_version']) == (2, 'student', __version__)
    assert 'cfg' not in meta  # the run's config names the teacher


# ---------------------------------------------------------------- by hand


@pytest.mark.bad_input
def test_a_config_of_ones_own_is_not_written_over(run: Runner, tmp_path: Path) -> None:
    checkpoint = Path(run.work_dir) / 'iter_2.pth'
    (tmp_path / 'config.py').write_text('mine = 1\n')
    with pytest.raises(ValueError, match=r'config\.py is not of an earlier export, since student'):
        export_student(checkpoint, tmp_path)
    assert (tmp_path / 'config.py').read_text() == 'mine = 1\n'
    (tmp_path / 'student.pth').write_bytes(b'')  # of an export before, whose config may be written
    export_student(checkpoint, tmp_path)
    assert 'mine' not in (tmp_path / 'config.py').read_text()


@pytest.mark.parametrize(
    ('out', 'weights'), [('given.pth', 'given.pth'), ('folder', 'folder/student.pth')]
)
def test_export_by_hand_equals_the_hooks(
    run: Runner, tmp_path: Path, out: str, weights: str
) -> None:
    work = Path(run.work_dir)
    paths = export_student(work / 'iter_2.pth', tmp_path / out)
    assert paths == (tmp_path / weights, (tmp_path / weights).parent / 'config.py')
    one, other = (
        torch.load(p, weights_only=False) for p in (paths[0], work / 'student/iter_2.pth')
    )
    assert one['state_dict'].keys() == other['state_dict'].keys()
    assert all(
        torch.equal(value, other['state_dict'][key]) for key, value in one['state_dict'].items()
    )
    assert one['meta']['dataset_meta'] == other['meta']['dataset_meta']
    assert (
        Config.fromfile(paths[1]).to_dict() == Config.fromfile(work / 'student/config.py').to_dict()
    )


def test_a_student_is_exported_as_it_was_trained(tmp_path: Path) -> None:
    """Whatever became of the file that the run's config names."""
    file = tmp_path / 'small.py'
    Config(dict(default_scope='mmseg', model=segmentor(4, num_classes=3, size=32))).dump(file)
    cfg = run_config(tmp_path, max_iters=2)
    cfg.model.student = dict(cfg=str(file))
    work = Path(train(cfg).work_dir)
    written = (work / 'student/config.py').read_text()
    Config(dict(default_scope='mmseg', model=segmentor(4, num_classes=3, size=48))).dump(file)
    export_student(work / 'iter_2.pth', tmp_path / 'edited')
    file.unlink()
    export_student(work / 'iter_2.pth', tmp_path / 'gone')
    for name in ('edited', 'gone'):
        assert (tmp_path / name / 'config.py').read_text() == written
    saved = torch.load(work / 'iter_2.pth', weights_only=False)
    saved['meta'].pop('mmkd_students')  # as of mmkd 0.3
    torch.save(saved, work / 'iter_2.pth')
    with pytest.raises(FileNotFoundError, match=r'small\.py'):
        export_student(work / 'iter_2.pth', tmp_path / 'old')


def test_an_unknown_member(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(
        KeyError,
        match=r"no student 'studnet' in this checkpoint; did you mean 'student'\? "
        r".students: \['student'\]",
    ):
        export_student(Path(run.work_dir) / 'iter_2.pth', tmp_path / 'x.pth', member='studnet')
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_something_else(run: Runner, tmp_path: Path) -> None:
    work = Path(run.work_dir)
    with pytest.raises(
        KeyError, match=r"no student 'student'.*students: none; is it a checkpoint of mmkd\?"
    ):
        export_student(work / 'student/iter_2.pth', tmp_path / 'x.pth')
    state = torch.load(work / 'iter_2.pth', weights_only=False)['state_dict']
    torch.save(dict(state_dict=state), tmp_path / 'bare.pth')
    with pytest.raises(
        ValueError,
        match=r'bare.pth does not hold the config of its run \(meta.cfg\).*Mend: use a '
        'checkpoint that the Runner saved',
    ):
        export_student(tmp_path / 'bare.pth', tmp_path / 'x.pth')
    with pytest.raises(
        FileNotFoundError, match="iter_3.pth does not exist; did you mean 'iter_2.pth'"
    ):
        export_student(work / 'iter_3.pth', tmp_path / 'x.pth')


# ---------------------------------------------------------------- configs


def member(**value: Any) -> Member:
    return Member.parse('student', 'student', value or dict(model=segmentor(4, size=32)))


def test_the_config_builds_the_same_model() -> None:
    config = student_config(member(), Config(dict(model=model_of())))
    assert config.default_scope == 'mmseg'
    one = MODELS.build({**config.model, '_scope_': 'mmseg'}).state_dict()
    other = MODELS.build({**segmentor(4, size=32), '_scope_': 'mmseg'}).state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}


def test_downloads_are_left_out() -> None:
    config = student_config(
        member(model=segmentor(4, pretrained='open-mmlab://resnet18_v1c')), Config(dict())
    )
    assert config.model.pretrained is None
    assert member(model=segmentor(4, pretrained='x')).model['pretrained'] == 'x'


@pytest.mark.parametrize('place', ['model', 'run'])
def test_the_runs_own_preprocessor_wins(place: str, tmp_path: Path) -> None:
    """The Runner hands a top-level data_preprocessor to the model: the Distiller trains under it,
    not the student's.
    """
    other = preprocessor(32, mean=10.0, std=20.0)
    cfg = run_config(
        tmp_path,
        **(dict(data_preprocessor=other) if place == 'run' else {}),
        model=model_of(**(dict(data_preprocessor=other) if place == 'model' else {})),
    )
    runner = Runner.from_cfg(cfg)
    config = student_config(runner.model.runs['student'].member, runner.cfg)
    assert list(config.model.data_preprocessor.mean) == [10.0] * 3
    exported = MODELS.build({**config.model, '_scope_': 'mmseg'}).data_preprocessor
    image = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)]
    assert torch.equal(
        exported(dict(inputs=image), False)['inputs'],
        runner.model.data_preprocessor(dict(inputs=image), False)['inputs'],
    )


def test_test_data_travels_and_the_pipeline_is_found() -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    config = student_config(
        member(),
        Config(
            dict(
                test_dataloader=dict(dataset=dict(type='CityscapesDataset', pipeline=pipeline)),
                test_cfg=dict(type='TestLoop'),
                test_evaluator=dict(type='IoUMetric'),
                optim_wrapper=dict(type='OptimWrapper'),
                custom_hooks=['mmkd.X'],
            )
        ),
    )
    assert config.test_pipeline == pipeline
    assert sorted(config) == [
        'default_scope',
        'model',
        'test_cfg',
        'test_dataloader',
        'test_evaluator',
        'test_pipeline',
    ]


@pytest.mark.parametrize(
    ('run', 'expected'),
    [
        (dict(test_dataloader=dict(dataset=dict(type='mmkd.CamVid', pipeline=[]))), ['mmkd']),
        (
            dict(test_evaluator=[dict(type='IoUMetric'), dict(type='mmkd.CalibrationMetric')]),
            ['mmkd'],
        ),
        (dict(test_evaluator=dict(type='IoUMetric', output_dir='/data/mmkd.old/')), None),
        (dict(custom_imports=dict(imports=['mmkd'], allow_failed_imports=False)), None),
        (dict(custom_imports=dict(imports=['mmkd', 'mine'], allow_failed_imports=False)), ['mine']),
        (
            dict(custom_imports=dict(imports='mine'), test_cfg=dict(type='mmkd.PGDTestLoop')),
            ['mmkd', 'mine'],
        ),
    ],
)
def test_what_a_config_is_made_of_is_imported(run: dict, expected: list[str] | None) -> None:
    """Where only data or metrics are mmkd's, the model must load without it: imports may fail."""
    config = student_config(member(), Config(run))
    assert config.get('custom_imports') == (
        expected and dict(imports=expected, allow_failed_imports=True)
    )
    assert all(config[key] == run[key] for key in run if key != 'custom_imports')


def test_the_pipeline_of_data_sets_inside_data_sets() -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    inner = dict(type='CityscapesDataset', pipeline=pipeline)
    for dataset in (
        dict(type='RepeatDataset', times=2, dataset=inner),
        dict(type='ConcatDataset', datasets=[dict(type='Other'), inner]),
    ):
        assert (
            student_config(
                member(), Config(dict(test_dataloader=dict(dataset=dataset)))
            ).test_pipeline
            == pipeline
        )
    assert 'test_pipeline' not in student_config(
        member(), Config(dict(test_dataloader=dict(dataset=dict(type='X'))))
    )


def test_inference_has_no_step_that_loads_annotations_by_another_name() -> None:
    """mmseg's ``inference_model`` takes out LoadAnnotations alone; tests keep theirs."""
    steps = ['LoadImageFromFile', 'mmseg.LoadDepthAnnotation', 'LoadAnnotations', 'PackSegInputs']
    pipeline = [dict(type=step) for step in steps]
    loader = dict(dataset=dict(type='NYUDataset', pipeline=pipeline))
    config = student_config(member(), Config(dict(test_dataloader=loader)))
    kept = ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs']
    assert [step.type for step in config.test_pipeline] == kept
    assert config.test_dataloader == loader


def test_downloads_are_left_out_at_any_depth() -> None:
    model = segmentor(4)
    model['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint='https://nowhere.invalid/mit_b0.pth'
    )
    config = student_config(member(model=model), Config(dict()))
    assert config.model.backbone.init_cfg is None
    assert model['backbone']['init_cfg'] is not None


@pytest.mark.slow
def test_every_recipe_exports_a_config_that_the_runner_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine wants loader, loop and metrics of a split together, or none of them."""
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)
    recipes = [
        cfg
        for path in sorted((ROOT / 'configs').rglob('*.py'))
        if '_base_' not in path.parts
        if is_distiller(cfg := Config.fromfile(path))
    ]
    assert len(recipes) > 80
    for run in recipes:
        recipe = Path(run.filename).stem
        for name, value in name_members(
            'student', run.model.get('student'), run.model.get('students')
        ).items():
            config = Config.fromstring(
                student_config(Member.parse(name, 'student', value), run).pretty_text, '.py'
            )
            groups = {
                f'{split}_{part}': config.get(f'{split}_{part}')
                for split, part in product(('val', 'test'), ('dataloader', 'cfg', 'evaluator'))
            }
            assert all(groups[key] is not None for key in groups if run.get(key) is not None), (
                recipe
            )
            runner = Runner(
                torch.nn.Linear(1, 1),
                str(tmp_path),
                **groups,
                cfg=config,
                log_level='ERROR',
                default_scope=config.default_scope,
                experiment_name=f'{recipe}-{name}',
            )
            assert (runner._test_loop is None) == (run.get('test_cfg') is None), recipe


@pytest.mark.slow
def test_the_demos_student_is_tested_as_it_stands(tmp_path: Path) -> None:
    """A training by the tools, and a test by the two files that it leaves; then the same where
    there is no mmkd.
    """
    work, tools = tmp_path / 'run', ROOT / 'tools'
    shell(
        tools / 'train.py',
        ROOT / 'configs/demo/distill.py',
        '--work-dir',
        work,
        '--cfg-options',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'model.teacher.checkpoint=None',
        'model.teacher.allow_untrained=True',
        'train_dataloader.batch_size=2',
        *(f'{split}_dataloader.dataset.num_scenes=4' for split in ('val', 'test')),
        cwd=tmp_path,
    )
    said = shell(
        tools / 'test.py',
        work / 'student/config.py',
        work / 'student/iter_2.pth',
        '--work-dir',
        tmp_path / 'test',
        cwd=tmp_path,
    )
    (result,) = (tmp_path / 'test').rglob('*/2*.json')
    assert f'mIoU: {json.loads(result.read_text())["mIoU"]:.4f}' in said
    code = WITHOUT_MMKD.partition('import torch')[0] + (
        'from mmseg.apis import init_model\ninit_model(*sys.argv[1:], device="cpu")\n'
    )
    files = [str(work / 'student' / name) for name in ('config.py', 'iter_2.pth')]
    done = subprocess.run(
        [sys.executable, '-c', code, *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'mmkd failed to import and is ignored' in done.stderr


def test_a_student_of_mmkds_classes_imports_mmkd_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: torch.Tensor
) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmkd.distiller.export.print_log', lambda line, **kwargs: said.append(line))
    espnet = dict(
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=preprocessor(32),
            backbone=dict(type='mmkd.ESPNet'),
            decode_head=dict(
                type='mmkd.ESPHead', num_classes=11, loss_decode=dict(type='CrossEntropyLoss')
            ),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        ),
        scope='mmseg',
    )
    config = student_config(member(**espnet), Config(dict()))
    assert config.custom_imports == dict(imports=['mmkd'], allow_failed_imports=False)
    assert said == ['student is made of mmkd classes: its exported config imports mmkd']
    model = build({**espnet['model'], '_scope_': 'mmseg'})
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))),
        tmp_path / 's.pth',
    )
    (tmp_path / 'config.py').write_text(config.pretty_text)
    loaded = init_model(str(tmp_path / 'config.py'), str(tmp_path / 's.pth'), device='cpu')
    assert torch.equal(logits_of(loaded, x), logits_of(model, x))


def test_a_built_model_has_no_config() -> None:
    model = MODELS.build({**segmentor(4, size=32), '_scope_': 'mmseg'})
    with pytest.raises(
        TypeError,
        match='student was given as a built model, so no config can be written.*Mend: give',
    ):
        student_config(Member.parse('student', 'student', model), Config(dict()))


def test_state_dicts_by_hand() -> None:
    state = {
        'students.a.w': 1,
        'students.a.data_preprocessor.mean': 2,
        'students.ab.w': 3,
        'objectives.a.w': 4,
    }
    assert student_state_dict(state, 'a') == {'w': 1}
    assert student_state_dict(state, 'ab') == {'w': 3}
    assert student_meta(dict(iter=3, cfg='…', seed=1, hostname='h'), 'a') == dict(
        iter=3, seed=1, mmkd_version=__version__, mmkd_member='a'
    )


def test_labels_of_the_run_colour_the_prediction(run: Runner) -> None:
    """The classes and the palette that mmseg draws with travel in the checkpoint."""
    meta = torch.load(Path(run.work_dir) / 'student/iter_2.pth', weights_only=False)['meta'][
        'dataset_meta'
    ]
    assert np.array_equal(meta['palette'], [[160, 60, 60], [60, 200, 50], [40, 120, 200]])
