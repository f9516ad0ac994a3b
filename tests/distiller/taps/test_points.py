"""Points: what is found in a traced forward, how it is named, and what is refused."""

from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
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
    with pytest.raises(ValueError, match="says where a point is, got 'auto:stages"):
        own_points(dict(logits='auto:stages[0]'), 'student')
    with pytest.raises(KeyError, match="no point 'logit'"):  # whatever the taps are
        Member.read('student', 'student', dict(model=tiny.segmentor(4), points=dict(logit='x')))
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


# ---------------------------------------------------------------- heads of one's own


class Own(FCNHead):
    """An FCNHead whose answer is made in another way."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.up, self.side = nn.Upsample(scale_factor=2), nn.Conv2d(self.channels, 11, 1)
        self.late = nn.Sequential(nn.Conv2d(11, 11, 1), nn.ReLU(inplace=True))

    def forward(self, inputs: Any) -> Any:
        return self.answer(super().forward(inputs), inputs)

    def answer(self, scores: Any, inputs: Any) -> Any:
        return scores


class Interpolating(Own):
    def answer(self, scores: Any, inputs: Any) -> Any:
        return nn.functional.interpolate(scores, scale_factor=2)


class Upsampling(Own):
    def answer(self, scores: Any, inputs: Any) -> Any:
        return self.up(scores)


class Scaling(Own):
    def answer(self, scores: Any, inputs: Any) -> Any:
        return 2 * scores


class Summing(Own):
    def answer(self, scores: Any, inputs: Any) -> Any:
        return scores + self.side(self.convs(inputs[self.in_index]))


class InPlace(Own):
    def answer(self, scores: Any, inputs: Any) -> Any:
        return self.late(scores)


class Telling(Own):
    """Answers with no map at all."""

    def answer(self, scores: Any, inputs: Any) -> Any:
        return dict(tokens=scores.flatten(2))

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: Any) -> dict:
        return dict(loss=seg_logits['tokens'].mean())


def own(head: type, **changes: Any) -> dict:
    model = tiny.segmentor(4, head='FCNHead', auxiliary=False)
    return {**model, 'decode_head': {**model['decode_head'], 'type': head, **changes}}


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize(
    ('head', 'logits', 'feature'),
    [
        (Interpolating, 'decode_head.conv_seg', 'decode_head.dropout:input'),
        (Upsampling, 'decode_head.conv_seg', 'decode_head.dropout:input'),
        (Scaling, 'decode_head:scores', 'decode_head.dropout:input'),
        (InPlace, 'decode_head.late.1', 'decode_head.late.0:input'),
    ],
)
def test_scores_are_taken_before_what_is_done_to_them(
    head: type, logits: str, feature: str, role: str
) -> None:
    points = traced(own(head), role).points
    assert points['logits'] == [logits]
    assert points['feature'] == [feature]


def test_a_sum_of_scores_is_tapped_and_has_no_feature() -> None:
    found = traced(own(Summing))
    assert found.points['logits'] == ['decode_head:scores']
    with pytest.raises(KeyError, match="no 'feature' was found.*Mend: points=dict"):
        found.choose('feat', 'auto:feature', 'student')


def test_a_tap_of_an_in_place_chain_is_one_that_can_be_read() -> None:
    model = Distiller(
        student=dict(model=own(InPlace), scope='mmseg'),
        teacher=dict(model=own(Own), scope='mmseg', allow_untrained=True),
        taps=dict(logits='auto'),
        objectives=dict(pixel=PIXEL),
    )
    losses = model(**model.data_preprocessor(tiny.batch(), True), mode='loss')
    assert losses['pixel.loss'] > 0


def test_an_in_place_dropout_is_not_passed() -> None:
    model = MODELS.build({**own(Own), '_scope_': 'mmseg'})
    model.decode_head.dropout = nn.Dropout2d(0.1, inplace=True)
    assert traced(model).points['feature'] == ['decode_head.conv_seg:input']


def test_points_of_its_own_serve_a_model_that_answers_without_a_map() -> None:
    found = traced(own(Telling), points=dict(logits='decode_head.conv_seg'))
    assert found.prediction is None
    assert found.points['logits'] == ['decode_head.conv_seg']
    assert found.choose('x', 'auto:stages[0]', 'student') == 'backbone[0]'
    with pytest.raises(KeyError, match=r"no 'feature' was found.*since it does not predict \("):
        found.choose('feat', 'auto:feature', 'student')


class Mixing(nn.Module):
    """Calls its classifier once past its hooks, and gives it its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Named()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mix.forward(None, feat=x)
        return self.mix(None, feat=x)


def test_two_calls_past_the_hooks_are_two() -> None:
    net, x = Named(), torch.randn(2, 3)
    outer = nn.Sequential(net)
    found = trace(outer, x, lambda: (net.forward(None, x), net.forward(None, x)))
    first, second = found.of('0')
    assert found.calls.index(second) > found.calls.index(first)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, other: None, feat: torch.Tensor) -> torch.Tensor:
        return self.fc(feat).relu()


def test_calls_are_counted_as_hooks_count_them() -> None:
    net, x = Mixing(), torch.randn(1, 3)
    found = trace(net, x, lambda: net(x))
    call = [call for call in found.of('mix') if call.hooked][-1]
    assert found.tap(call) == 'mix'
    assert list(call.inputs) == [0, 'feat']
    taps = Taps(net, dict(feat='mix:input[feat]'))
    with taps.recording() as seen:
        net(x)
    assert torch.equal(taps.read(seen)['feat'], x)


def test_stages_of_blocks_are_no_blocks() -> None:
    block = dict(backbone=dict(type='SwinTransformer', embed_dims=8, depths=(2, 2, 1, 1)))
    swin = tiny.segmentor(8, auxiliary=False) | block
    swin['backbone'] |= dict(num_heads=(1, 2, 2, 2), window_size=4, pretrain_img_size=64)
    points = traced(swin).points
    depths = [
        f'backbone.stages.{i}.blocks.{j}' for i, n in enumerate((2, 2, 1, 1)) for j in range(n)
    ]
    assert points['hidden'] == depths
    assert 'query' not in points  # biases of positions come on top


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


def test_scripted_modules_are_passed_by() -> None:
    net = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.ReLU()))
    x = torch.ones(1, 2)
    assert [call.path for call in trace(net, x, lambda: net(x)).calls] == ['0']
    assert 'forward' not in vars(net[0])


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
