"""mmengine's new-style configs, with classes in place of names, train as their old twins do."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.runs import write_images
from helpers.states import checkpoint, differences
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model
from torch import nn

from mmkd.apis.doctor import diagnose
from mmkd.apis.launch import build_runner, load_config, train
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.engine.schedules import Schedule, build_schedule
from mmkd.utils.config_file import read_config
from mmkd.utils.literals import read_config_text
from mmkd.utils.plain_values import with_plain_values

ROOT = Path(__file__).resolve().parents[2]
BASE = """
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.runner import IterBasedTrainLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.visualization import SegLocalVisualizer
from mmkd.hooks import ExactResumeHook, ExportStudentHook, LengthCheckHook, RunRecordHook
from mmkd.hooks import SafeCheckpointHook

dataset = dict(
    type=BaseSegDataset, data_root='DATA', img_suffix='.png', seg_map_suffix='.png',
    data_prefix=dict(img_path='img', seg_map_path='ann'), metainfo=dict(classes=('a', 'b', 'c')),
    pipeline=[
        dict(type=LoadImageFromFile), dict(type=LoadAnnotations),
        dict(type=RandomFlip, prob=0.5), dict(type=PackSegInputs)])
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dataset)
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dataset)
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
default_scope = 'mmseg'
log_level = 'ERROR'
randomness = dict(seed=0)
visualizer = dict(type=SegLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name='NAME')
experiment_name = 'NAME'
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=SafeCheckpointHook, by_epoch=False, interval=2))
custom_hooks = [
    dict(type=LengthCheckHook), dict(type=ExactResumeHook), dict(type=ExportStudentHook),
    dict(type=RunRecordHook)]
"""
MEMBER = """
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor
from torch.nn import BatchNorm2d, ReLU

norm_cfg = dict(type=BatchNorm2d, requires_grad=True)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor, mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, size=(40, 40),
        pad_val=0, seg_pad_val=255),
    backbone=dict(
        type=ResNetV1c, depth=18, base_channels=WIDTH, stem_channels=WIDTH, num_stages=4,
        out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=norm_cfg),
    decode_head=dict(
        type=FCNHead, in_channels=8 * WIDTH, in_index=3, channels=2 * WIDTH, num_convs=1,
        concat_input=False, num_classes=3, norm_cfg=norm_cfg, act_cfg=dict(type=ReLU),
        loss_decode=dict(type=CrossEntropyLoss), align_corners=False),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""
RUN = """
from mmengine.config import read_base
from mmengine.optim import OptimWrapper, PolyLR
from torch.optim import SGD, Adam
from mmkd import Distiller, PhaseOptimWrapperConstructor
from mmkd.losses import AdversarialLoss, HolisticCritic, PairWiseAffinityLoss, PixelWiseKLLoss
from mmkd.noise import GaussianInput

with read_base():
    from .NAME_base import *

model = dict(
    type=Distiller,
    student=dict(cfg='FOLDER/NAME_student.py'),
    teacher=dict(cfg='FOLDER/NAME_teacher.py', allow_untrained=True),
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.convs'),
    noise=[dict(type=GaussianInput, std=0.1)],
    objectives=dict(
        pixel=dict(loss=dict(type=PixelWiseKLLoss), on='logits', weight=10.0),
        pair=dict(loss=dict(type=PairWiseAffinityLoss), on='feat', weight=10.0),
        holistic=dict(
            loss=dict(
                type=AdversarialLoss, activation='softmax',
                critic=dict(type=HolisticCritic, channels=(8, 16))),
            on='logits', reads=dict(image='batch.inputs'), weight=0.1)))
optim_wrapper = dict(
    constructor=PhaseOptimWrapperConstructor,
    student=dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.05, momentum=0.9)),
    critic=dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-3)))
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, begin=0, by_epoch=False)]
"""
# the names that the old style has for some classes
OF_MMKD = r'(Distiller|GaussianInput|PhaseOptimWrapperConstructor|\w+Loss|\w+Critic|\w+Hook)'
OF_MMENGINE = ('CrossEntropyLoss', 'IterTimerHook', 'LoggerHook', 'ParamSchedulerHook')


def as_old(text: str) -> str:
    """Return the old-style twin: names in place of classes, ``_base_`` in place of read_base."""

    def name(match: re.Match) -> str:
        key, kind = match.groups()
        kind = {'BatchNorm2d': 'BN'}.get(kind, kind)
        own = re.fullmatch(OF_MMKD, kind) and kind not in OF_MMENGINE
        return f"{key}='mmkd.{kind}'" if own else f"{key}='{kind}'"

    text = re.sub(r'with read_base\(\):\n    from \.(\w+) import \*', r"_base_ = './\1.py'", text)
    text = re.sub(r'^from .*\n', '', text, flags=re.M)
    return re.sub(r'\b(type|constructor)=([A-Z]\w+)', name, text)


def write(folder: Path, name: str) -> str:
    """Write a run's four files in one style; return the run's path."""
    write_images(folder / 'data')
    files = dict(base=BASE, run=RUN)
    files |= {'student': MEMBER.replace('WIDTH', '4'), 'teacher': MEMBER.replace('WIDTH', '8')}
    for part, text in files.items():
        text = text.replace('DATA', str(folder / 'data'))
        text = text.replace('FOLDER', str(folder)).replace('NAME', name)
        (folder / f'{name}_{part}.py').write_text(as_old(text) if name == 'old' else text)
    return str(folder / f'{name}_run.py')


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Train the same thing by two configs, as tools/train.py does."""
    folder = tmp_path_factory.mktemp('styles')
    trained = {}
    for name in ('old', 'new'):
        cfg = load_config(write(folder, name), work_dir=str(folder / name))
        assert is_distiller(cfg)
        trained[name] = build_runner(prepare_config(cfg))
        train(trained[name])
    return SimpleNamespace(folder=folder, **trained)


def test_the_twins_train_to_the_same_bits(runs: SimpleNamespace) -> None:
    old, new = (checkpoint(run, 'iter_2.pth') for run in (runs.old, runs.new))
    assert any('.critic.' in key for key in old['state_dict'])
    assert len(old['state_dict']) > 100
    assert differences(old['state_dict'], new['state_dict']) == []
    assert differences(old['optimizer'], new['optimizer']) == []
    assert new['param_schedulers'] == old['param_schedulers']
    assert old['param_schedulers']['student'][0]['end'] == 2, 'the length was followed'


def test_the_export_holds_names_and_loads(runs: SimpleNamespace) -> None:
    texts = [
        (Path(run.work_dir) / 'student' / 'config.py').read_text() for run in (runs.old, runs.new)
    ]
    assert '<class' not in texts[1]
    assert "type='mmseg.EncoderDecoder'" in texts[1]
    bare = re.sub(r"type='(mmseg|mmengine)\.", "type='", texts[1])
    assert bare.replace('new', 'old') == texts[0]
    folder = Path(runs.new.work_dir) / 'student'
    model = init_model(str(folder / 'config.py'), str(folder / 'iter_2.pth'), device='cpu')
    found = inference_model(model, str(runs.folder / 'data/img/0.png'))
    assert found.pred_sem_seg.data.shape == (1, 40, 40), 'no annotations are asked for'
    assert (
        differences(
            {k: v for k, v in model.state_dict().items() if 'data_preprocessor' not in k},
            {
                k: v
                for k, v in runs.new.model.student.state_dict().items()
                if 'data_preprocessor' not in k
            },
        )
        == []
    )


def test_the_doctor_accepts_it(runs: SimpleNamespace) -> None:
    report = diagnose(load_config(str(runs.folder / 'new_run.py'), work_dir=str(runs.folder / 'd')))
    assert report.errors == []
    old = diagnose(load_config(str(runs.folder / 'old_run.py'), work_dir=str(runs.folder / 'd')))
    assert report.warnings == old.warnings


def test_a_bare_runner_takes_the_classes(runs: SimpleNamespace) -> None:
    """As mmengine reads it, without the tools: prepare_config is all that a run needs."""
    cfg = Config.fromfile(runs.folder / 'new_run.py')
    cfg.work_dir, cfg.experiment_name = str(runs.folder / 'bare'), 'bare'
    cfg.visualizer.name = 'bare'
    assert isinstance(cfg.model.type, type)
    runner = Runner.from_cfg(prepare_config(cfg))
    runner.train()
    assert differences(runner.model.state_dict(), runs.new.model.state_dict()) == []


def test_a_distiller_is_built_from_classes(runs: SimpleNamespace) -> None:
    from mmengine.registry import MODELS

    member = Config.fromfile(runs.folder / 'new_student.py')
    cfg = Config.fromfile(runs.folder / 'new_run.py')
    cfg.model.student = dict(model=member.model)
    cfg.model.teacher = dict(cfg=member, allow_untrained=True)
    model = MODELS.build(cfg.model)
    assert type(model.student.decode_head).__name__ == 'FCNHead'
    assert model.runs['student'].member.model.type == 'mmseg.EncoderDecoder'


def test_imported_names_are_no_settings(tmp_path: Path) -> None:
    (tmp_path / 'x.py').write_text(
        'from mmengine.visualization import Visualizer\n'
        'from mmengine.hooks import CheckpointHook\n'
        'hooks = [dict(type=CheckpointHook, by_epoch=False)]\n'
    )
    assert 'Visualizer' in Config.fromfile(tmp_path / 'x.py')
    cfg = read_config(str(tmp_path / 'x.py'))
    assert cfg.to_dict() == dict(hooks=[dict(type='CheckpointHook', by_epoch=False)])


class Unregistered(Schedule):
    """A schedule that no registry knows."""

    def __init__(self, length: int = 3, begin: int = 0) -> None:
        self.length, self.begin = length, begin

    def __call__(self, step: int) -> float:
        return 2.0


class OfAUser(nn.Module):
    """A class of a user's own module, registered there."""


def test_names_of_classes() -> None:
    """Bare where mmcv compares names, with the scope elsewhere, by path where unregistered."""
    import mmcv.transforms
    import mmseg.datasets

    from mmkd.engine.schedules.values import Linear

    def name(kind: object) -> object:
        return with_plain_values(Config(dict(part=dict(type=kind)))).part.type

    assert name(nn.GELU) == 'GELU'
    assert name(nn.BatchNorm2d) == 'BN'
    # two libraries have one name for two classes
    assert name(mmcv.transforms.LoadAnnotations) == 'mmengine.LoadAnnotations'
    assert name(mmseg.datasets.LoadAnnotations) == 'mmseg.LoadAnnotations'
    assert name('as it is') == 'as it is'
    assert name(Linear) == 'linear', "a registry of mmkd's own"
    assert name(nn.SyncBatchNorm) == 'torch.nn.modules.batchnorm.SyncBatchNorm'

    MODELS.register_module(name='OfAUser', module=OfAUser, force=True)
    assert name(OfAUser) == f'{__name__}.OfAUser', 'registered by a module that is read no more'

    class Local:
        pass

    assert name(Local) is Local, 'no path leads to it'
    unregistered = name(Unregistered)
    assert unregistered == f'{__name__}.Unregistered'
    assert type(build_schedule(dict(type=unregistered))) is Unregistered


@pytest.mark.bad_input
def test_a_path_to_no_class_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match='a schedule'):
        build_schedule(dict(type='no.such.Schedule', length=3))


def test_a_config_within_a_config_can_be_dumped() -> None:
    inner = Config(dict(model=dict(type='FCNHead')))
    cfg = Config(dict(model=dict(student=inner, teacher=dict(cfg=inner), teachers=[1, (inner,)])))
    plain = dict(model=dict(type='FCNHead'))
    assert with_plain_values(cfg).to_dict() == dict(
        model=dict(student=dict(cfg=plain), teacher=dict(cfg=plain), teachers=[1, (plain,)])
    )
    assert read_config_text(cfg.pretty_text, 'it').to_dict() == cfg.to_dict()


def test_the_config_of_the_guide_is_read(tmp_path: Path) -> None:
    guide = (ROOT / 'docs/user_guides/new_style.md').read_text()
    (block,) = re.findall(r'```python\n(.*?)```', guide, re.DOTALL)
    (tmp_path / 'run.py').write_text(block)
    (tmp_path / 'my_data.py').write_text('train_cfg = dict(max_iters=2)\n')
    cfg = read_config(str(tmp_path / 'run.py'))
    assert is_distiller(cfg)
    assert cfg.model.objectives.pixel.loss.type == 'mmkd.PixelWiseKLLoss'
    assert cfg.optim_wrapper.student.optimizer == dict(type='SGD', lr=0.01, momentum=0.9)
    assert cfg.train_cfg.max_iters == 2
    assert [hook.type for hook in cfg.custom_hooks] == [
        'mmkd.ExactResumeHook',
        'mmkd.ExportStudentHook',
    ]
