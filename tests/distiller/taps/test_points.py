"""Points: what is found in a traced forward, how it is named, and what is refused."""

import pytest
import torch
from helpers import tiny
from mmengine.registry import MODELS
from torch import nn

import mmkd  # noqa: F401
from mmkd.distiller import Distiller
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.tracing import Traced, rows_of, trace_member
from mmkd.distiller.probe import probe_batch, probing
from mmkd.distiller.taps.points import choose, own_points, read_point
from mmkd.distiller.taps.taps import Taps
from mmkd.distiller.taps.tracing import trace

PIXEL = dict(loss=dict(type='PixelWiseKLLoss'), on='logits')
PAIR = dict(
    loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', connectors=dict(student='auto')
)


def traced(model: dict | nn.Module, role: str = 'student', **options: object) -> Traced:
    torch.manual_seed(0)
    member = Member.read(role, role, dict(model=model, scope='mmseg', **options))
    built = member.make()
    with probing():
        batch = probe_batch(dict(student=built), built.data_preprocessor)
        return trace_member(member, built, batch)


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('dropout', [0.0, 0.1])
def test_a_segmentor(role: str, dropout: float) -> None:
    points = traced(tiny.segmentor(4, dropout=dropout), role).points
    assert points['logits'] == ['decode_head.conv_seg']
    before = 'decode_head.dropout:input' if dropout else 'decode_head.conv_seg:input'
    assert points['feature'] == [before]
    assert points['stages'] == [f'backbone[{i}]' for i in range(4)]
    assert set(points) == {'logits', 'feature', 'stages'}


def test_a_classifier_and_its_stages() -> None:
    model = dict(
        type='mmkd.ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8),
        num_classes=10,
        in_channels=64,
    )
    points = traced(model).points
    assert points['logits'] == ['head.fc']
    assert points['feature'] == ['head.fc:input']


def test_what_a_point_stands_for_is_the_tensor_that_the_model_uses() -> None:
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'}).eval()
    points = traced(tiny.segmentor(4), 'teacher').points
    taps = Taps(model, dict(logits=points['logits'][0], feat=points['feature'][0]))
    x = torch.randn(1, 3, 64, 64)
    with taps.recording() as seen, torch.no_grad():
        answer = model(x)
    record = taps.read(seen)
    assert torch.equal(record['logits'], answer)
    assert torch.equal(model.decode_head.conv_seg(record['feat']), answer)


def test_auto_trains_as_the_written_taps_do() -> None:
    written = dict(logits='decode_head.conv_seg', feat='decode_head.dropout:input')
    values = []
    for taps in (written, dict(logits='auto', feat='auto:feature')):
        torch.manual_seed(0)
        model = Distiller(
            student=dict(model=tiny.segmentor(4), scope='mmseg'),
            teacher=dict(model=tiny.segmentor(8), scope='mmseg', allow_untrained=True),
            taps=taps,
            objectives=dict(pixel=PIXEL, pair=PAIR),
        )
        assert {tap: path.text for tap, path in model.runs['student'].taps.paths.items()} == written
        torch.manual_seed(1)
        losses = model(**model.data_preprocessor(tiny.batch(), True), mode='loss')
        values.append({key: value for key, value in losses.items() if 'loss' in key})
    assert values[0].keys() == values[1].keys()
    for key, value in values[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(values[1][key])), key


def test_a_member_says_where_its_point_is() -> None:
    found = traced(tiny.segmentor(4), points=dict(feature='decode_head.bottleneck')).points
    assert found['feature'] == ['decode_head.bottleneck']
    assert found['logits'] == ['decode_head.conv_seg']


def test_which_of_several() -> None:
    found = dict(stages=['a', 'b', 'c'], logits=['x', 'y'])
    assert choose('m', 'auto:stages[-1]', found, 'teacher') == 'c'
    assert choose('m', 'auto:logits', found, 'teacher') == 'x'  # the finest level
    assert choose('m', 'auto:logits[1]', found, 'teacher') == 'y'


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('tap', 'error', 'text'),
    [
        ('auto:feture', KeyError, r"no point 'feture'; did you mean 'feature'.*Mend: 'auto:feat"),
        ('auto', KeyError, r"there is no point 'm'"),
        ('auto:stages', KeyError, r"there are 3 stages. Mend: 'auto:stages\[0\]' … 'auto:stages"),
        ('auto:stages[3]', KeyError, r"there are 3 stages. Mend: 'auto:stages\[2\]' is the last"),
        ('auto:neck[0]', KeyError, r"no 'neck' was found in its forward \(found: stages \(3\)\)"),
        ('auto:stages[x]', ValueError, r"a point is 'auto', 'auto:feature' or 'auto:stages\[1\]'"),
    ],
)
def test_what_no_point_is(tap: str, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        choose('m', tap, dict(stages=['a', 'b', 'c']), 'teacher')


@pytest.mark.bad_input
def test_points_of_a_member_are_checked() -> None:
    with pytest.raises(KeyError, match=r"no point 'logit'; did you mean 'logits'"):
        own_points(dict(logit='x'), 'student')
    with pytest.raises(TypeError, match='logits must be a tap or a list of taps, got 3. Mend'):
        own_points(dict(logits=3), 'student')
    with pytest.raises(TypeError, match=r'points of .*student.* must be a dict'):
        Member.read('student', 'student', dict(model=tiny.segmentor(4), points='decode_head'))
    assert read_point('logits', 'auto', 'x') == ('logits', None)


@pytest.mark.bad_input
def test_what_could_be_tapped_is_told_where_nothing_is_found() -> None:
    with pytest.raises(KeyError) as raised:
        traced(tiny.segmentor(4)).choose('feat', 'auto:neck[0]', 'student')
    text = raised.value.args[0]
    assert "no 'neck' was found" in text
    assert "'decode_head.conv_seg' (11, 8, 8)" in text
    assert "Mend: points=dict(neck='…')" in text


@pytest.mark.bad_input
def test_a_missing_module_leads_to_the_points() -> None:
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    with pytest.raises(KeyError, match=r"'auto:feature' what its classifier reads; mmkd doctor"):
        Taps(model, dict(feat='decode_head.bottlneck'))


@pytest.mark.parametrize('head', ['decode_head', 'decode_head.conv_seg'])
def test_tracing_leaves_no_trace(head: str) -> None:
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'}).eval()
    x = torch.randn(1, 3, 64, 64)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    found = trace(model, x, lambda: model(x))
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys(), name
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    call = found.of(head)[-1]
    assert call.hooked is (head != 'decode_head')  # mmseg calls it past its hooks
    assert torch.equal(call.output, found.returned)


def test_tracing_ends_with_an_error_and_gives_forwards_back() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    own = lambda x: x / 0  # noqa: E731
    net[0].forward = own
    with pytest.raises(TypeError):
        trace(net, torch.ones(1), lambda: net('x'))
    assert net[0].forward is own


def test_rows_tell_shape_stride_and_marks() -> None:
    rows = {row.tap: row for row in rows_of(traced(tiny.segmentor(4)))}
    conv = rows['decode_head.conv_seg']
    assert (conv.shape, conv.stride, conv.marks) == ((1, 11, 8, 8), '8', '= logits')
    assert rows['decode_head.dropout'].marks == ':input = feature, after dropout'
    assert rows['backbone[0]'].marks == '= stages[0]'
    assert 'auxiliary_head.conv_seg' in rows  # a student computes its losses
    assert not any('layer1.0' in tap for tap in rows)
    assert 'auxiliary_head.conv_seg' not in {
        row.tap for row in rows_of(traced(tiny.segmentor(4), 'teacher'))
    }
