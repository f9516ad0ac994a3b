"""Points of every architecture of mmseg's zoo: the tensors that a reader of each head would tap."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.zoo import ZOO, lacks, member, with_weights
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.models.utils import resize
from torch import nn

from mmkd.distiller.members.frozen import frozen_mode, run_frozen
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.stand_in import stand_in
from mmkd.distiller.members.tracing import trace_member
from mmkd.distiller.probe import probe_batch, probing
from mmkd.distiller.taps.taps import Taps
from mmkd.structures.batch import Batch
from mmkd.tasks.base import last_head, task_of

QUICK = ('pspnet',)
SAMPLE = (  # one of each kind of head
    *('ann', 'danet', 'ddrnet', 'encnet', 'icnet', 'knet', 'mask2former', 'maskformer', 'ocrnet'),
    *('pidnet', 'point_rend', 'segformer', 'segmenter', 'setr-mla'),
)
QUERIES = ('mask2former', 'maskformer', 'san', 'segmenter')


def marks(name: str) -> tuple:
    if name in QUICK:
        return ()
    return (pytest.mark.slow,) if name in SAMPLE else (pytest.mark.every_architecture,)


def cases(names: Iterable[str]) -> list:
    return [pytest.param(name, marks=marks(name)) for name in names]


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    init_default_scope('mmseg')
    yield
    DefaultScope._instance_dict.clear()


def build(name: str, role: str, folder: Path) -> tuple[Member, nn.Module, Batch]:
    missing = lacks(ZOO[name])
    if missing:
        pytest.skip(f'{name} needs {missing}')
    torch.manual_seed(0)
    found = member(ZOO[name])
    if ZOO[name].weights:
        found = with_weights(found, role, folder)
    described = Member.read(role, role, dict(found, allow_untrained=True))
    model = described.build()
    if described.checkpoint is None:
        model.init_weights()
    with probing():
        return described, model, probe_batch({role: model}, model.data_preprocessor, ZOO[name].size)


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('name', cases(ZOO))
def test_points_are_those_of_the_table(name: str, role: str, tmp_path: Path) -> None:
    described, model, batch = build(name, role, tmp_path)
    with probing():
        points = trace_member(described, model, batch).points
    one = ZOO[name]
    assert len(points['logits']) == 1
    chosen = dict(logits=points['logits'][0], feature=points['feature'][0])
    expected = dict(logits=one.logits or 'decode_head:scores', feature=one.feature)
    if role == 'teacher' and name in ('point_rend', 'san'):  # losses run a part of them twice
        expected = {point: re.sub(r'#\d', '', tap) for point, tap in expected.items()}
    if role == 'student':
        model = stand_in(model, role, torch.Generator().manual_seed(0))
    taps = {**chosen, **{f'expected_{point}': tap for point, tap in expected.items()}}
    both = Taps(model, taps)
    torch.manual_seed(0)  # SegNeXt's bases are drawn in every forward
    with torch.no_grad(), both.recording() as seen:
        if role == 'student':
            model(batch.inputs, batch.data_samples, mode='loss')
        else:
            run_frozen(model.eval(), frozen_mode(model), batch.inputs, batch.data_samples)
    record = both.read(seen)
    if role == 'teacher' and name not in (*QUERIES, 'point_rend'):  # whose points are no map
        check_prediction(model, batch, record)
    for point in chosen:
        assert torch.equal(record[point], record[f'expected_{point}']), (chosen, expected)


def check_prediction(model: nn.Module, batch: Batch, record: dict) -> None:
    """The map is what the model predicts from, and the feature what the classifier reads."""
    head = last_head(model)
    torch.manual_seed(0)
    with torch.no_grad():
        predicted = task_of(model).predict(model, batch.inputs)
    size = predicted.shape[2:]
    aligned = head.align_corners
    resized = resize(record['logits'], size, mode='bilinear', align_corners=aligned)
    assert torch.equal(resized, predicted)
    if hasattr(head, 'conv_seg'):
        assert torch.equal(head.conv_seg(record['feature']), record['logits'])


@pytest.mark.parametrize('name', cases(QUERIES))
def test_assembled_maps_are_what_the_model_predicts(name: str, tmp_path: Path) -> None:
    _, model, batch = build(name, 'teacher', tmp_path)
    model.eval()
    taps = Taps(model, dict(scores='decode_head:scores'))
    with torch.no_grad(), taps.recording() as seen:
        predicted = task_of(model).predict(model, batch.inputs)
    scores = taps.read(seen)['scores']
    if name != 'segmenter':  # sums of probabilities
        assert (predicted >= 0).all()
        scores = scores.exp()
    size = scores.shape[2:]
    metas = [dict(img_shape=size, pad_shape=size, ori_shape=size, batch_input_shape=size)]
    with torch.no_grad():  # at the size of the masks nothing is resized
        exact = at_mask_size(model, batch.inputs, metas)
    torch.testing.assert_close(scores, exact, rtol=1e-4, atol=1e-6)


def at_mask_size(model: nn.Module, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
    resized = model.decode_head.predict
    features = {}
    model.decode_head.predict = lambda x, *rest: features.setdefault('x', x)
    try:
        task_of(model).predict(model, inputs)
    finally:
        del model.decode_head.predict
    return resized(features['x'], metas, model.test_cfg)
