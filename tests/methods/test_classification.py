"""Classification end to end: two tiny classifiers through a Runner, resume, export, mmpretrain,
every logit loss.
"""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.classification import classifier, config, distiller
from helpers.runs import train
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd import export_student
from mmkd.apis.doctor.checkup import diagnose
from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.structures.batch import Batch
from mmkd.tasks import Classification, generated_batch


def weights(runner: Runner) -> dict[str, Tensor]:
    """Return the state dict of a run's model."""
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def test_training_resumes_exactly(tmp_path: Path) -> None:
    """Three iterations equal one, a stop, and two more; the teacher stays, accuracy picks the best
    checkpoint.
    """
    teacher = MODELS.build(classifier(4))
    teacher.init_weights()
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    model = distiller(teacher=dict(model=classifier(4), checkpoint=str(tmp_path / 'teacher.pth')))
    whole = train(config(tmp_path, model, name='whole'))
    train(config(tmp_path, model, max_iters=1, name='parts'))
    rest = train(config(tmp_path, model, name='parts'), resume=True)
    expected, actual = weights(whole), weights(rest)
    assert expected.keys() == actual.keys()
    assert not any('teacher' in key for key in expected)
    for key, value in expected.items():
        assert torch.equal(value, actual[key]), key
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, whole.model.teacher.state_dict()[key]), key
    scalars = whole.message_hub.log_scalars
    assert {
        'train/loss_cls',
        'train/kd.loss',
        'train/pair.loss',
        'val/accuracy/top1',
    } <= scalars.keys()
    right = 6 * scalars['val/accuracy/top1'].data[0][-1] / 100  # of six validation images
    assert right == pytest.approx(round(right))
    assert len(list((tmp_path / 'whole').glob('best_accuracy_top1_iter_*.pth'))) == 1


def test_the_exported_student_predicts_the_same(tmp_path: Path) -> None:
    """Its config and weights alone give a classifier, and with them mmkd test's accuracy."""
    runner = train(config(tmp_path, max_iters=2))
    path, written = export_student(tmp_path / 'run/iter_2.pth', tmp_path / 'student.pth')
    exported = Config.fromfile(written)
    model = MODELS.build(exported.model)
    model.load_state_dict(torch.load(path, weights_only=False)['state_dict'])
    model.eval()
    runner.model.eval()
    batch = runner.model.data_preprocessor(generated_batch(3, (16, 16), Classification(3)))
    expected = runner.model(batch['inputs'], None, mode='predict')
    for theirs, own in zip(expected, model(batch['inputs'], None, mode='predict'), strict=True):
        assert torch.equal(theirs.pred_score, own.pred_score)
        assert own.pred_label.item() == theirs.pred_logits.argmax().item()
    assert torch.equal(model.data_preprocessor.mean, runner.model.data_preprocessor.mean)
    exported.merge_from_dict(
        dict(
            work_dir=str(tmp_path / 'test'),
            load_from=str(path),
            experiment_name='exported',
            visualizer=dict(name='exported'),
            log_level='ERROR',
        )
    )
    assert build_runner(prepare_config(exported)).test() == runner.test()


def test_labels_that_no_class_has() -> None:
    """They are named; 255 is a class like others where there are so many, torch's −100 does not
    count.
    """
    model = MODELS.build(distiller())
    data = model.data_preprocessor(generated_batch(2, (16, 16), Classification(3)), True)
    data['data_samples'][1].gt_label[:] = 7
    with pytest.raises(
        ValueError, match=r'ids \[7\], but the student has 3 classes .*Mend: num_classes'
    ):
        model(**data, mode='loss')
    batch = Batch(
        torch.zeros(3, 3, 1, 1),
        [BaseDataElement(gt_label=torch.tensor([i])) for i in (255, -100, 0)],
    )
    assert batch.valid.tolist() == [True, False, True]
    assert batch.check_labels(256)
    nothing = Batch(torch.zeros(1, 3, 1, 1), [BaseDataElement(gt_label=torch.tensor([-100]))])
    assert not nothing.check_labels(3)
    assert nothing.tell_void() == (
        'no valid position: every label of this batch is the ignore index -100. Mend: a data set '
        'with labels'
    )


def test_a_teacher_no_better_than_chance_is_named(tmp_path: Path) -> None:
    """One that says the same of every image is right for one class of three."""
    runner = build_runner(prepare_config(config(tmp_path, max_iters=1)))
    with torch.no_grad():
        runner.model.teacher.head.fc.weight.zero_()
    messages: list[str] = []
    runner.logger.warning = messages.append  # type: ignore[method-assign]
    runner.train()
    assert any(
        "teacher 'teacher' is hardly better than chance (accuracy/top1 33.33 of 3 classes)" in m
        for m in messages
    )


@pytest.mark.parametrize('fake_data', [False, True])
def test_the_doctor_finds_nothing_wrong(tmp_path: Path, fake_data: bool) -> None:
    """On real and on generated data: it knows the classes, measures the objectives and takes a
    step.
    """
    report = diagnose(config(tmp_path), fake_data=fake_data, batches=2, device='cpu')
    assert report.errors == []
    rows = {row[0]: row for row in report.tables['objectives'][1]}
    assert {'task', 'kd', 'pair'} == rows.keys()
    assert abs(float(rows['task'][-2]) - math.log(3)) < 0.3  # of an untrained student
    assert [row[3] for row in report.tables['taps'][1] if row[1] == 'feat'] == [
        f'(2, {channels}, {side}, {side})'
        for side in [8 if fake_data else 4]
        for channels in (8, 16)
    ]
    if not fake_data:
        assert ('ignored labels', '0.0 %') in [tuple(row) for row in report.tables['data'][1]]


LOGIT_LOSSES: dict[str, dict] = dict(
    PixelWiseKLLoss=dict(tau=2.0), DirichletNLLLoss={}, ProxyDirichletLoss={}, EnsembleKLLoss={}
)


@pytest.mark.parametrize('name', LOGIT_LOSSES)
@pytest.mark.parametrize('masked', [False, True])
def test_every_logit_loss_takes_classes_without_positions(name: str, masked: bool) -> None:
    """(N, C) has the value and the gradient of (N, C, 1, 1), with a mask as well."""
    loss = MODELS.build(dict(type=f'mmkd.{name}', **LOGIT_LOSSES[name]))
    teachers = 'teachers' in loss.forward.__code__.co_varnames
    student, teacher = torch.randn(4, 5), torch.randn(*((3,) if teachers else ()), 4, 5)
    mask = torch.tensor([True, False, True, True]) if masked else None
    values, gradients = [], []
    for shape in ((), (1, 1)):
        x = student.view(*student.shape, *shape).clone().requires_grad_()
        known = {'teachers' if teachers else 'teacher': teacher.view(*teacher.shape, *shape)}
        value = loss(
            student=x, **known, **({} if mask is None else dict(mask=mask.view(4, *shape)))
        )
        gradients.append(torch.autograd.grad(value, x)[0].view(4, 5))
        values.append(value)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][1].abs().max() == 0 if masked else gradients[0][1].abs().max() > 0


@pytest.fixture
def mmpretrain() -> Any:
    """Return mmpretrain; its import fails in more ways than by absence (it needs torchvision)."""
    try:
        return importlib.import_module('mmpretrain.models')
    except Exception as error:
        pytest.skip(f'mmpretrain does not import: {type(error).__name__}: {error}')


def test_mmpretrain_members(mmpretrain: Any) -> None:
    """A real mmpretrain classifier as student and as teacher: its own loss, its logits, one
    step.
    """

    def real(depth: int) -> dict:
        return dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
            backbone=dict(type='ResNet_CIFAR', depth=depth, num_stages=4, out_indices=(3,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=3,
                in_channels=512,
                loss=dict(type='CrossEntropyLoss'),
            ),
        )

    model = MODELS.build(
        distiller(
            student=dict(model=real(18)),
            teacher=dict(model=real(18), allow_untrained=True),
            objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
        )
    )
    data = generated_batch(2, (32, 32), Classification(3))
    structures = importlib.import_module('mmpretrain.structures')
    data['data_samples'] = [
        structures.DataSample(gt_label=s.gt_label) for s in data['data_samples']
    ]
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert set(losses) == {'loss', 'kd.loss'}
    assert losses['loss'].item() == pytest.approx(1.0986, abs=1.0)
