"""Classifiers of mmpretrain, by its own configs, as students and as teachers."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from helpers.exported import load_and_run
from helpers.images import image
from helpers.runs import train
from helpers.states import checkpoint, differences
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

from mmkd.apis.doctor import diagnose

pytestmark = pytest.mark.zoo
# its data_preprocessor stands beside its model, as in all configs of mmpretrain
RESNET = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
DEIT = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
SMALL = {
    'model.backbone.img_size': 32,
    'model.backbone.patch_size': 8,
    'model.head.num_classes': 10,
    'model.train_cfg': None,  # without Mixup, which draws
    'data_preprocessor.num_classes': 10,
}
OTHER = {
    'data_preprocessor.mean': [103.53, 116.28, 123.675],
    'data_preprocessor.std': [57.375, 57.12, 58.395],
    'data_preprocessor.to_rgb': True,
}


def alone(path: str, options: dict[str, Any]) -> Any:
    """Build a classifier as mmpretrain does, with weights that are not those of its start."""
    cfg = get_config(path)
    cfg.merge_from_dict(options)
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
        model.init_weights()
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith(('running_mean', 'bias')):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    last = model.head.fc if path == RESNET else model.head.layers.head
    torch.nn.init.normal_(last.weight)
    model.eval()  # mmpretrain's returns None
    return model


def raw(number: int = 4) -> dict[str, Any]:
    """Return a batch as mmpretrain's data loader gives it: BGR images of bytes, with labels."""
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(5)
    images = [torch.randint(0, 256, (3, 32, 32), generator=generator).byte() for _ in range(number)]
    return dict(
        inputs=images, data_samples=[DataSample().set_gt_label(i % 10) for i in range(number)]
    )


@pytest.mark.parametrize(
    ('path', 'options', 'tap'), [(RESNET, {}, 'head.fc'), (DEIT, SMALL, 'head.layers.head')]
)
def test_a_teacher_predicts_what_it_predicts_alone(
    tmp_path: Path, path: str, options: dict[str, Any], tap: str
) -> None:
    """Under a student of another normalisation and channel order."""
    teacher = alone(path, options)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    model = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(cfg=RESNET, cfg_options=OTHER),
            teacher=dict(
                cfg=path,
                cfg_options=options,
                checkpoint=str(tmp_path / 'teacher.pth'),
                taps=dict(logits=tap),
            ),
            taps=dict(logits='head.fc'),
            objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
        )
    )
    data = raw()
    with torch.no_grad():
        expected = teacher.test_step(raw())
        record, own = model.observe(**model.data_preprocessor(data, True))
    logits = record['teacher']['logits']
    torch.testing.assert_close(
        logits.softmax(1),
        torch.stack([sample.pred_score for sample in expected]),
        atol=1e-5,
        rtol=0,
    )
    assert logits.softmax(1).max(1).values.min() > 0.2, 'it does not guess'
    student = model.student
    with torch.no_grad():
        mine = student(**student.data_preprocessor(raw(), True), mode='loss')
    torch.testing.assert_close(own['loss'], mine['loss'])


def run_config(folder: Path, student: dict, teacher: dict, **changes: Any) -> Config:
    """Return a run of two iterations on images of three classes, all of it mmpretrain's."""
    for part in ('train', 'val'):
        for label in range(3):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
            for number in range(4):
                file = folder / part / str(label) / f'{number}.png'
                cv2.imwrite(str(file), image(label, number, 32))

    def loader(part: str) -> dict:
        dataset = dict(
            type='CustomDataset',
            data_prefix=str(folder / part),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        )
        sampler = dict(type='InfiniteSampler' if part == 'train' else 'DefaultSampler')
        return dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(sampler, shuffle=part == 'train'),
            dataset=dataset,
        )

    model = dict(
        type='mmkd.Distiller',
        student=student,
        teacher=teacher,
        objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=1.0)),
        taps=dict(logits='head.fc'),
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(folder / 'work'),
            experiment_name=f'zoo_{folder.name}',
            model=model | changes,
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=False, max_iters=2, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            randomness=dict(seed=0),
            log_level='ERROR',
            visualizer=dict(type='Visualizer', name=f'zoo_{folder.name}'),
            default_hooks=dict(
                checkpoint=dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=2),
                logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            ),
            custom_hooks=[dict(type='mmkd.ExactResumeHook'), dict(type='mmkd.ExportStudentHook')],
        )
    )


@pytest.mark.parametrize(
    ('path', 'options', 'tap'), [(RESNET, {}, 'head.fc'), (DEIT, SMALL, 'head.layers.head')]
)
def test_a_student_trains_is_exported_and_loads_without_mmkd(
    tmp_path: Path, path: str, options: dict[str, Any], tap: str
) -> None:
    student = dict(cfg=path, cfg_options=options, taps=dict(logits=tap))
    teacher = dict(cfg=RESNET, cfg_options=OTHER, allow_untrained=True)
    cfg = run_config(tmp_path, student, teacher)
    report = diagnose(cfg)
    assert report.errors == []
    runner = train(cfg)
    trained = runner.model.student
    trained.eval()
    folder = tmp_path / 'work' / 'student'
    text = (folder / 'config.py').read_text()
    assert 'mmkd' not in text.replace('mmkd_', '')
    images = trained.data_preprocessor(raw())['inputs']
    seen = load_and_run(folder / 'config.py', folder / 'iter_2.pth', images, tmp_path)
    with torch.no_grad():
        own = trained(images, mode='tensor')
    torch.testing.assert_close(seen, own[-1] if isinstance(own, tuple | list) else own)
    saved = checkpoint(runner, 'iter_2.pth')['state_dict']
    assert differences(saved, dict(runner.model.state_dict())) == []
    first = Config.fromfile(folder / 'config.py').model.data_preprocessor
    own_cfg = get_config(path).data_preprocessor
    assert (first.mean, first.to_rgb) == (own_cfg.mean, own_cfg.to_rgb), 'its own preprocessing'
    shutil.rmtree(tmp_path / 'work')
