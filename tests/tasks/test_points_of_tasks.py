"""Points of depth estimators, detectors and text models: what recipes write is what is found."""

from collections.abc import Iterator

import pytest
import torch
from helpers import texts, tiny
from helpers.zoo import DETECTORS, lacks, member
from mmengine.registry import DefaultScope, init_default_scope

from mmkd.distiller import Distiller
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.tracing import trace_member
from mmkd.distiller.probe import probe_batch, probing

ROLES = ('student', 'teacher')


@pytest.fixture
def mmdet_scope() -> Iterator[None]:
    init_default_scope('mmdet')
    yield
    DefaultScope._instance_dict.clear()


def points_of(described: dict, role: str) -> dict[str, list[str]]:
    torch.manual_seed(0)
    one = Member.read(role, role, described)
    model = one.make()
    with probing():
        batch = probe_batch(dict(student=model), model.data_preprocessor)
        return trace_member(one, model, batch).points


@pytest.mark.parametrize('role', ROLES)
@pytest.mark.parametrize('bins', [8, 1])
def test_depth(role: str, bins: int) -> None:
    head = dict(
        type='mmkd.DepthHead',
        min_depth=0.5,
        max_depth=10.0,
        num_bins=bins,
        in_channels=32,
        in_index=3,
        channels=8,
        norm_cfg=dict(type='BN'),
    )
    plain = tiny.segmentor(4, auxiliary=False)
    model = {**plain, 'type': 'DepthEstimator', 'decode_head': head}
    points = points_of(dict(model=model, scope='mmseg'), role)
    assert points['logits'] == ['decode_head.conv_seg']  # before its unit: bins
    assert points['depth'] == ['decode_head.depth']  # metres
    assert points['feature'] == ['decode_head.dropout:input']


def test_features_of_depth_are_no_bins() -> None:
    """Where no dropout stands before the classifier, its input is tapped at the classifier."""
    models = []
    for far in (8.0, 10.0):
        head = dict(type='mmkd.DepthHead', min_depth=0.5, max_depth=far, num_bins=8, in_index=3)
        head |= dict(in_channels=32, channels=8, dropout_ratio=0.0)
        model = {**tiny.segmentor(4, auxiliary=False), 'type': 'DepthEstimator'}
        models.append({**model, 'decode_head': head})
    pair = dict(loss=dict(type='FeatureL1Loss'), on='feat')
    made = Distiller(
        student=dict(model=models[0], scope='mmseg'),
        teacher=dict(model=models[1], scope='mmseg', allow_untrained=True),
        taps=dict(feat='auto:feature', logits='auto'),
        objectives=dict(pair=pair),
    )
    assert made.runs['student'].taps.paths['feat'].text == 'decode_head.conv_seg:input'
    with pytest.raises(ValueError, match='compares bins of depth of other ranges'):
        Distiller(
            student=dict(model=models[0], scope='mmseg'),
            teacher=dict(model=models[1], scope='mmseg', allow_untrained=True),
            taps=dict(logits='auto'),
            objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
        )


@pytest.mark.parametrize('role', ROLES)
def test_text(role: str) -> None:
    points = points_of(dict(model=texts.classifier(3), scope='mmkd'), role)
    layers = [f'model.bert.encoder.layer.{i}' for i in range(3)]
    assert points['logits'] == ['model.classifier']
    assert points['hidden'] == layers
    assert points['query'] == [f'{layer}.attention.self:query' for layer in layers]
    assert points['key'] == [f'{layer}.attention.self:key' for layer in layers]


@pytest.mark.parametrize('role', ROLES)
@pytest.mark.parametrize(
    'name', ['fcos', 'rtmdet', pytest.param('faster_rcnn', marks=pytest.mark.slow)]
)
def test_detectors(name: str, role: str, mmdet_scope: None) -> None:
    one = DETECTORS[name]
    if lacks(one):
        pytest.skip(f'{name} needs {one.what}')
    points = points_of(member(one), role)
    levels = 3 if name == 'rtmdet' else 5
    expected = {
        'fcos': [f'bbox_head.conv_cls#{i}' for i in range(levels)],
        'rtmdet': [f'bbox_head.rtm_cls.{i}' for i in range(levels)],
        'faster_rcnn': None,  # a second stage scores proposals of its own
    }[name]
    assert points.get('logits') == expected
    assert points['neck'] == [f'neck[{i}]' for i in range(levels)]
