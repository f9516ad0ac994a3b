"""FeatureModel: a backbone without a head as teacher and as student, without a label anywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from mmengine.registry import MODELS

from mmkd.apis.doctor.measure import measure_objectives
from mmkd.apis.doctor.report import Report
from mmkd.distiller.members.member import Member
from mmkd.models import FeatureModel

PREPROCESSOR = tiny.preprocessor()
VIT = dict(
    model_type='dinov2',
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
)
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def student(**overrides: Any) -> dict:
    backbone = tiny.segmentor(4)['backbone']
    model = dict(type='mmkd.FeatureModel', backbone=backbone, data_preprocessor=PREPROCESSOR)
    return dict(model=model | overrides, scope='mmseg')


def distiller(teacher: dict, **overrides: Any) -> dict:
    match = dict(on='feat', connectors=dict(student='auto'))
    losses = {kind: dict(type='FeatureMatchingLoss', penalty=kind) for kind in ('cosine', 'huber')}
    return (
        dict(
            type='mmkd.Distiller',
            student=student(),
            teacher=teacher,
            taps=dict(feat='auto:stages[-1]'),
            objectives={name: dict(loss=loss, **match) for name, loss in losses.items()},
            task_weight=0.0,
        )
        | overrides
    )


def folder_of(path: Path) -> str:
    """Write a small DINOv2 with weights and return the folder."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(**VIT)
    transformers.AutoModel.from_config(config).save_pretrained(path)
    return str(path)


def unlabelled() -> dict:
    """Return a batch whose samples hold no label."""
    data = tiny.batch()
    for sample in data['data_samples']:
        del sample.gt_sem_seg
    return data


def test_a_teacher_brings_its_weights_and_sees_its_own_pixels(tmp_path: Path) -> None:
    """The features that are learned are those of the folder's model on ImageNet's mean and std."""
    folder = folder_of(tmp_path)
    backbone = dict(type='mmkd.HFVisionBackbone', pretrained=folder, **IMAGENET)
    teacher = dict(model=dict(type='mmkd.FeatureModel', backbone=backbone))
    model = tiny.build(distiller(teacher))
    data = unlabelled()
    record, own = model.observe(**model.data_preprocessor(data, True))
    assert own == {}

    theirs = pytest.importorskip('transformers').AutoModel.from_pretrained(folder).eval()
    pixels = torch.stack(data['inputs']).flip(1).float() / 255  # BGR
    mean, std = (torch.tensor(IMAGENET[key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        tokens = theirs(pixel_values=(pixels - mean) / std).last_hidden_state[:, 1:]
    expected = tokens.transpose(1, 2).reshape(2, 8, 8, 8)
    torch.testing.assert_close(record['teacher']['feat'], expected, rtol=1e-4, atol=1e-4)


def test_a_step_without_labels_moves_the_backbone(tmp_path: Path) -> None:
    backbone = dict(type='mmkd.HFVisionBackbone', pretrained=folder_of(tmp_path), **IMAGENET)
    teacher = dict(model=dict(type='mmkd.FeatureModel', backbone=backbone))
    model = tiny.build(distiller(teacher))
    before = {key: value.clone() for key, value in model.student.state_dict().items()}
    record, _ = model.observe(**model.data_preprocessor(unlabelled(), True))
    values = {
        name: one.connectors['student'](record['student']['feat'], size=(8, 8))
        for name, one in model.objectives.items()
    }
    seen = record['teacher']['feat']
    expected = (1 - F.cosine_similarity(values['cosine'], seen)).mean()
    expected = expected + F.huber_loss(values['huber'], seen)
    model.student.load_state_dict(before)  # norms have moved
    logs = model.train_step(unlabelled(), tiny.sgd(model))
    torch.testing.assert_close(logs['loss'], expected, rtol=1e-4, atol=1e-5)
    moved = [k for k, v in model.student.state_dict().items() if not torch.equal(v, before[k])]
    assert {key.split('.')[0] for key in before} == {'backbone'}
    assert {'backbone.stem.0.weight', 'backbone.layer4.1.bn2.weight'} <= {*moved}


def test_a_backbones_weights_begin_a_segmentor() -> None:
    """What is exported has the names that a segmentor's backbone has."""
    learned = MODELS.build(dict(student()['model'], _scope_='mmseg'))
    segmentor = MODELS.build(dict(tiny.segmentor(4), _scope_='mmseg'))
    missing, unexpected = segmentor.load_state_dict(learned.state_dict(), strict=False)
    assert unexpected == []
    assert {key.split('.')[0] for key in missing} == {'decode_head', 'auxiliary_head'}


@pytest.mark.parametrize(
    ('backbone', 'brings'),
    [
        (dict(type='EfficientNetLite', pretrained=True), True),
        (dict(type='EfficientNetLite', pretrained=False), False),
        (dict(type='HFVisionBackbone', pretrained='weights/dinov2'), True),
        (dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='a.pth')), True),
        (dict(type='ResNet', init_cfg=dict(type='Kaiming')), False),
        (torch.nn.Identity(), False),
    ],
)
def test_which_teachers_bring_weights(backbone: Any, brings: bool) -> None:
    config = dict(type='mmkd.FeatureModel', backbone=backbone)
    assert Member.read('teacher', 'teacher', dict(model=config)).brings_weights is brings


@pytest.mark.bad_input
def test_a_teacher_without_weights_is_refused() -> None:
    backbone = dict(type='mmkd.HFVisionBackbone', config=VIT, **IMAGENET)
    teacher = dict(model=dict(type='mmkd.FeatureModel', backbone=backbone))
    pytest.importorskip('transformers')
    with pytest.raises(ValueError, match='teacher has no checkpoint: an untrained teacher teaches'):
        tiny.build(distiller(teacher))
    head = dict(tiny.segmentor(4), backbone=dict(type='mmkd.EfficientNetLite', pretrained=True))
    with pytest.raises(ValueError, match='teacher has no checkpoint'):  # its head is untrained
        tiny.build(tiny.distiller(teacher=dict(model=head)))


@pytest.mark.bad_input
def test_a_backbone_of_unknown_pixels_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r'nothing says on which mean and std the CIFARResNet was trained, and under others '
        r'its features mean little. Mend: data_preprocessor=dict\(',
    ):
        FeatureModel(dict(type='CIFARResNet', depth=8))


@pytest.mark.bad_input
def test_it_predicts_nothing() -> None:
    model = FeatureModel(dict(type='CIFARResNet', depth=8), dict(type='ImgDataPreprocessor'))
    with pytest.raises(ValueError, match="which has no head to predict must be one of.*'predict'"):
        model(torch.zeros(1, 3, 32, 32), mode='predict')


@pytest.mark.bad_input
def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(KeyError, match='CIFARResNett'):
        FeatureModel(dict(type='CIFARResNett'), dict(type='ImgDataPreprocessor'))


def test_the_doctor_takes_a_student_without_losses(tmp_path: Path) -> None:
    backbone = dict(type='mmkd.HFVisionBackbone', pretrained=folder_of(tmp_path), **IMAGENET)
    model = tiny.build(distiller(dict(model=dict(type='mmkd.FeatureModel', backbone=backbone))))
    report = Report()
    measure_objectives(model, model.data_preprocessor(unlabelled(), True), report)
    assert report.errors == []
    assert model.runs['teacher'].member.loads_its_own
