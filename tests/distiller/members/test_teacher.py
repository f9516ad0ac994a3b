"""Teachers: frozen, silent, in any precision, compiled or not, outside the module tree."""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from helpers.detectors import detector
from helpers.runs import need_mmdet
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.distiller.members.member import Member
from mmkd.distiller.members.teacher import Teacher
from mmkd.structures.batch import Batch

TAPS = dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck', stage='backbone[2]')
PREPROCESSOR = tiny.preprocessor()
TEST = ConfigDict(  # every box that there is
    nms_pre=50,
    min_bbox_size=0,
    score_thr=0.0,
    nms=dict(type='nms', iou_threshold=1.0),
    max_per_img=50,
)


def build(config: dict) -> nn.Module:
    return MODELS.build({**config, '_scope_': 'mmseg'})


def trained(config: dict | None = None, seed: int = 1) -> nn.Module:
    """Return a model whose norms have statistics and weights as after training."""
    torch.manual_seed(seed)
    model = build(config or tiny.segmentor(8, dropout=0.5))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


def teacher(
    model: Any = None, taps: dict | None = None, source: dict | None = None, **options: Any
) -> Teacher:
    member = Member.parse('teacher', 'teacher', dict(model=model or trained(), **options))
    return Teacher(member, TAPS if taps is None else taps, build(source or PREPROCESSOR))


def batch(n: int = 2, size: int = 32, seed: int = 0) -> Batch:
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Batch(
        x,
        [
            SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
            for _ in range(n)
        ],
    )


def reference(x: Tensor, model: nn.Module | None = None) -> dict[str, Tensor]:
    """What the taps must read, by calling the parts of the plain model in eval mode."""
    model = (model or trained()).eval()
    with torch.no_grad():
        features = model.backbone(x)
        feat = model.decode_head._forward_feature(features)
        return dict(logits=model.decode_head.conv_seg(feat), feat=feat, stage=features[2])


def error(got: dict, expected: dict) -> dict[str, float]:
    """Largest difference of each tap, relative to its largest value."""
    return {
        k: ((got[k].float() - v).abs().max() / v.abs().max()).item() for k, v in expected.items()
    }


# ---------------------------------------------------------------------- what stays untouched


def test_taps_equal_the_plain_model() -> None:
    got = teacher().watch(batch())
    expected = reference(batch().inputs)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_frozen_and_without_gradient() -> None:
    run = teacher()
    assert not run.model.training
    assert not any(module.training for module in run.model.modules())
    assert not any(p.requires_grad for p in run.model.parameters())
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    got = [run.watch(batch(seed=seed)) for seed in range(2)]
    assert not any(
        t.requires_grad or t.grad_fn is not None for record in got for t in record.values()
    )
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_one_forward_in_tensor_mode_and_no_loss() -> None:
    run, data = teacher(), batch()
    with (
        mock.patch.object(
            EncoderDecoder, 'loss', side_effect=AssertionError('a teacher computes no loss')
        ),
        mock.patch.object(run.model, 'forward', wraps=run.model.forward) as forward,
    ):
        run.watch(data)
    assert forward.call_count == 1
    assert forward.call_args.kwargs['mode'] == 'tensor'


def test_dropout_and_drop_path_are_off() -> None:
    mit = dict(
        type='EncoderDecoder',
        data_preprocessor=PREPROCESSOR,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_heads=[1, 2],
            num_layers=[1, 2],
            num_stages=2,
            patch_sizes=[7, 3],
            strides=[4, 2],
            sr_ratios=[2, 1],
            out_indices=(0, 1),
            drop_rate=0.5,
            drop_path_rate=0.5,
            attn_drop_rate=0.5,
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=16,
            in_index=1,
            channels=8,
            num_convs=1,
            dropout_ratio=0.5,
            concat_input=False,
            num_classes=11,
            norm_cfg=dict(type='BN'),
        ),
    )
    for model in (trained(), trained(mit)):
        run = teacher(model, dict(logits='decode_head.conv_seg'))
        first, again = (run.watch(batch())['logits'] for _ in range(2))
        assert torch.equal(first, again)
        run.model.train()
        assert not torch.equal(
            run.watch(batch())['logits'], first
        )  # so there was something to switch off


def test_autocast_of_the_student_leaves_the_teacher_alone() -> None:
    run, expected = teacher(), reference(batch().inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = run.watch(batch())
        assert torch.is_autocast_enabled('cpu')
    assert got['logits'].dtype == torch.float32
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_no_hooks_afterwards_and_only_read_taps_are_hooked() -> None:
    run = teacher(taps=dict(logits='decode_head.conv_seg'))
    during = []
    run.model.backbone.register_forward_hook(
        lambda *_: during.append(sum(len(m._forward_hooks) for m in run.model.modules()))
    )
    assert list(run.watch(batch())) == ['logits']
    assert during == [2]  # the tap's and this one
    assert len(run.model.decode_head.conv_seg._forward_hooks) == 0


def test_sync_bn_is_reverted() -> None:
    run = teacher(trained(tiny.segmentor(8, norm='SyncBN')))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in run.model.modules())
    assert torch.equal(run.watch(batch())['logits'], reference(batch().inputs)['logits'])


# ---------------------------------------------------------------------- its inputs


def test_identical_preprocessors_pass_the_tensor_on() -> None:
    data, same = batch(), tiny.preprocessor(mean=123.675, std=58.395)
    run = teacher(trained(tiny.segmentor(8, data_preprocessor=same)), source=same)
    assert run.prepare(data) is data.inputs
    half = teacher(
        trained(tiny.segmentor(8, data_preprocessor=same)), source=same, precision='bf16'
    )
    assert torch.equal(
        half.prepare(data), data.inputs.bfloat16()
    )  # mean and std are read before the cast rounds them


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_another_normalisation_is_undone(precision: str) -> None:
    data = tiny.batch(2, size=32)
    source = build(tiny.preprocessor(32, mean=0.48 * 255, std=0.23 * 255, bgr_to_rgb=False))
    own = build(tiny.preprocessor(32, mean=123.675, std=58.395))
    model = trained(
        tiny.segmentor(8, data_preprocessor=tiny.preprocessor(32, mean=123.675, std=58.395))
    )
    member = Member.parse('teacher', 'teacher', dict(model=model, precision=precision))
    expected = own(copy.deepcopy(data), True)['inputs']
    out = source(data, True)
    got = Teacher(member, TAPS, source).prepare(Batch(out['inputs'], out['data_samples']))
    # bf16 has 8 bits: half a unit in the last place of a value below 4 is 2^-7
    torch.testing.assert_close(
        got.float(), expected, rtol=0, atol=1e-5 if precision == 'fp32' else 2**-7
    )


def test_input_size() -> None:
    run, data = teacher(input_size=(48, 64)), batch()
    seen = run.prepare(data)
    torch.testing.assert_close(
        seen, F.interpolate(data.inputs, (48, 64), mode='bilinear', align_corners=False)
    )
    assert run.watch(data)['logits'].shape == (2, 11, 6, 8)
    assert torch.equal(run.watch(data)['logits'], reference(seen)['logits'])


def test_a_detector_of_another_size_learns_and_predicts_by_boxes_of_that_size() -> None:
    """Its loss is that of the same boxes in its pixels, its boxes are those of the image."""
    need_mmdet()
    from mmdet.utils import register_all_modules

    from mmkd.tasks.detection import det_sample

    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    model = MODELS.build(detector(4) | dict(_scope_='mmdet', test_cfg=TEST)).eval()
    source = MODELS.build(detector(4)['data_preprocessor'] | dict(_scope_='mmdet'))
    taps = dict(feat='neck[0]')
    member = Member.parse('teacher', 'teacher', dict(model=model, input_size=(192, 128)))
    run = Teacher(member, taps, source, model)
    x = torch.randn(1, 3, 96, 128)
    box, label = torch.tensor([[20.0, 30.0, 80.0, 60.0]]), torch.tensor([1])
    given = Batch(x, [det_sample(box, label, (96, 128))])
    seen = F.interpolate(x, (192, 128), mode='bilinear', align_corners=False)
    scale = torch.tensor([1.0, 2.0, 1.0, 2.0])
    there = det_sample(box * scale, label, (192, 128))
    expected = sum(part.sum() for part in model(seen, [there], mode='loss').values())
    got = run.loss_with('feat', given, lambda feat: feat.detach().requires_grad_())
    torch.testing.assert_close(got, expected)

    def predicted(samples: list | None) -> Tensor:
        found = run.model(run.prepare(given), samples, mode='predict')[0].pred_instances
        return found.bboxes

    boxes = predicted(run.samples(given))
    torch.testing.assert_close(boxes * scale, predicted([there]))


# ---------------------------------------------------------------------- speed options keep the
# logits

# Relative to a tap's largest value. Worst of 20 seeds: bf16 1.6e-2, fp16 1.7e-3, channels_last
# 1.3e-6, fuse_bn 9.4e-7.
TOLERANCE = dict(bf16=3e-2, fp16=4e-3, channels_last=4e-6, fuse_bn=4e-6, compile=4e-6)


@pytest.mark.parametrize(
    'options',
    [
        dict(precision='bf16'),
        dict(precision='fp16'),
        dict(channels_last=True),
        dict(fuse_bn=True),
        dict(precision='bf16', channels_last=True, fuse_bn=True),
    ],
    ids=lambda o: '+'.join(str(v) for v in o),
)
def test_options_leave_the_taps_within_tolerance(options: dict) -> None:
    allowed = max(TOLERANCE.get(key, TOLERANCE.get(value, 0.0)) for key, value in options.items())
    for seed in range(3):
        got = teacher(trained(seed=seed), **options).watch(batch(seed=seed))
        assert (
            max(error(got, reference(batch(seed=seed).inputs, trained(seed=seed))).values())
            < allowed
        )


def test_precision_and_layout_are_what_was_asked_for() -> None:
    run = teacher(precision='bf16', channels_last=True)
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert run.watch(batch())['logits'].dtype == torch.bfloat16
    conv = run.model.backbone.layer1[0].conv1.weight
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert run.prepare(batch()).is_contiguous(memory_format=torch.channels_last)


def test_fuse_bn_folds_and_stays_frozen() -> None:
    run = teacher(fuse_bn=True)
    norms = [m for m in run.model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == []
    assert not any(p.requires_grad for p in run.model.parameters())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'path',
    [
        'backbone.layer1.0.conv1',
        'backbone.layer1.0.bn1',
        'backbone.layer1.0.conv2:input',
        'decode_head.bottleneck.conv#0',
        'decode_head.psp_modules.0.1.bn',
    ],
)
def test_fuse_bn_refuses_taps_whose_meaning_changes(path: str) -> None:
    taps = dict(inner=path)
    with pytest.raises(
        ValueError,
        match=r"tap 'inner' of teacher \('.*'\) reads a convolution or norm that fuse_bn=Tr"
        'ue folds together, so it would give another tensor. Mend: tap the whole blo',
    ):
        teacher(quiet(), taps, fuse_bn=True)


def quiet() -> nn.Module:
    """A teacher without in-place activations, so that convolutions and norms can be tapped at
    all.
    """
    model = trained()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@pytest.mark.parametrize(
    'path',
    [
        'backbone.layer1.0',
        'backbone.layer4',
        'decode_head.bottleneck',
        'backbone[0]',
        'decode_head.conv_seg',
        'decode_head.conv_seg:input',
    ],
)
def test_fuse_bn_allows_blocks_and_heads(path: str) -> None:
    plain, fused = (
        teacher(taps=dict(t=path), fuse_bn=fuse).watch(batch()) for fuse in (False, True)
    )
    assert error(fused, plain)['t'] < TOLERANCE['fuse_bn']


@pytest.mark.bad_input
def test_fuse_bn_refuses_norms_that_run_before_their_convolution() -> None:
    """mmcv's fuse_conv_bn goes by the order of registration, which is the same for order=('norm',
    'act', 'conv').
    """
    model = trained()
    model.decode_head.bottleneck.order = ('norm', 'act', 'conv')
    conv = model.decode_head.bottleneck.conv
    model.decode_head.bottleneck.conv = nn.Conv2d(
        conv.in_channels, conv.in_channels, 3, padding=1, bias=False
    )
    model.decode_head.bottleneck.bn = copy.deepcopy(trained_norm(conv.in_channels))
    model.decode_head.conv_seg = nn.Conv2d(conv.in_channels, 11, 1)
    with pytest.raises(
        ValueError,
        match="fuse_bn=True changes tap 'logits' of teacher: a norm runs before its conv",
    ):
        teacher(model, dict(logits='decode_head.conv_seg'), fuse_bn=True)


def trained_norm(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    norm.running_var.uniform_(0.2, 4.0)
    norm.running_mean.normal_()
    return norm


# ---------------------------------------------------------------------- compile


def shallow() -> nn.Module:
    """One stage and one convolution: little to trace."""
    backbone = dict(
        type='ResNetV1c',
        depth=18,
        base_channels=4,
        stem_channels=4,
        num_stages=1,
        out_indices=(0,),
        strides=(1,),
        dilations=(1,),
        norm_cfg=dict(type='BN'),
    )
    head = dict(
        type='FCNHead',
        in_channels=4,
        in_index=0,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type='BN'),
    )
    return trained(tiny.segmentor(4, auxiliary=False, backbone=backbone, decode_head=head))


SHALLOW = dict(
    logits='decode_head.conv_seg',
    feat='decode_head.convs',
    first='backbone[0]',
    inner='backbone.layer1.0',
)


def observe_plainly(data: Batch) -> dict[str, Tensor]:
    return teacher(shallow(), SHALLOW).watch(data)


def test_compiled_taps_fire_on_every_iteration_after_a_prediction() -> None:
    """The probe and TeacherCheckHook's predict come first in a run; plain hooks would never fire
    after them.
    """
    torch._dynamo.reset()
    graphs = []
    run = teacher(
        shallow(),
        SHALLOW,
        compile=dict(backend=lambda graph, inputs: graphs.append(graph) or graph.forward),
    )
    run.watch(batch(), compiled=False)
    run.model(batch().inputs, batch().data_samples, mode='predict')
    for seed in range(4):
        assert (
            max(error(run.watch(batch(seed=seed)), observe_plainly(batch(seed=seed))).values())
            < 1e-6
        )
    assert len(graphs) == 1  # compiled once, in one piece
    run.model(
        batch(seed=7).inputs, batch().data_samples, mode='predict'
    )  # leaves nothing in the next record
    got = run.watch(batch(n=3, seed=5))
    assert got['logits'].shape[0] == 3
    assert max(error(got, observe_plainly(batch(n=3, seed=5))).values()) < 1e-6


def test_compiled_once_and_with_the_given_arguments() -> None:
    run = teacher(compile=dict(mode='max-autotune'))
    with mock.patch('torch.compile', side_effect=lambda function, **_: function) as compiler:
        for _ in range(3):
            got = run.watch(batch())
    assert compiler.call_count == 1
    assert compiler.call_args.kwargs == dict(mode='max-autotune')
    assert max(error(got, reference(batch().inputs)).values()) < 1e-6
    with mock.patch('torch.compile', side_effect=lambda function, **_: function) as compiler:
        teacher(compile=True).watch(batch())
        teacher(compile=False).watch(batch())
    assert [call.kwargs for call in compiler.call_args_list] == [{}]


@pytest.mark.bad_input
def test_compiled_tap_that_never_fires_is_an_error() -> None:
    torch._dynamo.reset()
    model = shallow()
    model.auxiliary_head = nn.Sequential(nn.Conv2d(4, 4, 1))
    run = teacher(model, dict(logits='auxiliary_head.0'), compile=dict(backend='eager'))
    with pytest.raises(
        RuntimeError,
        match=r"tap 'logits' of teacher \('auxiliary_head.0'\) never ran in this "
        r"forward. A teacher runs mode='tensor', which leaves out auxiliary heads",
    ):
        run.watch(batch())


@pytest.mark.slow
def test_inductor_leaves_the_taps_within_tolerance() -> None:
    torch._dynamo.reset()
    run = teacher(shallow(), SHALLOW, compile=True)
    run.model(batch().inputs, batch().data_samples, mode='predict')
    for seed in range(2):
        got = run.watch(batch(seed=seed))
        assert max(error(got, observe_plainly(batch(seed=seed))).values()) < TOLERANCE['compile']


# ---------------------------------------------------------------------- heads that read more than
# features


class Querying(FCNHead):
    """Reads image sizes beside features, as heads of queries do; predicts at the images' size."""

    sizes: list = []

    def forward(self, inputs: Any, metas: list) -> Tensor:
        for meta in metas:  # of its own: it may write into them
            meta['batch_input_shape'] = meta['img_shape']
        self.sizes.append([meta['pad_shape'] for meta in metas])
        return super().forward(inputs)

    def predict(self, inputs: Any, metas: list, test_cfg: Any) -> Tensor:
        return self.predict_by_feat(self.forward(inputs, metas), metas)


class Refining(FCNHead):
    """Its forward takes points, as PointRend's does; the map is made in predict."""

    def get_points_test(self) -> None:
        raise NotImplementedError

    def forward(self, points: Tensor, coarse: Tensor) -> Tensor:
        raise TypeError('expected Tensor as element 0 in argument 0, but got tuple')

    def predict(self, inputs: Any, coarse: Tensor, metas: list, test_cfg: Any) -> Tensor:
        return self.predict_by_feat(coarse, metas)


def unusual(kind: type) -> dict:
    net = tiny.segmentor(8, head='FCNHead', auxiliary=False)
    if kind is Querying:
        net['decode_head']['type'] = kind
        return net
    return net | dict(
        type='CascadeEncoderDecoder',
        num_stages=2,
        decode_head=[net['decode_head'], net['decode_head'] | dict(type=kind)],
    )


@pytest.mark.parametrize(
    ('kind', 'tap'), [(Querying, 'decode_head.conv_seg'), (Refining, 'decode_head.0.conv_seg')]
)
@pytest.mark.parametrize(
    'options', [{}, dict(fuse_bn=True), dict(compile=dict(backend='eager'))], ids=str
)
def test_heads_that_only_predict_teach_too(kind: type, tap: str, options: dict) -> None:
    torch._dynamo.reset()
    Querying.sizes = []
    run = teacher(trained(unusual(kind)), dict(logits=tap, feat='backbone[3]'), **options)
    plain, data = trained(unusual(kind)).eval(), batch()
    seen = []
    plain.get_submodule(tap).register_forward_hook(lambda _, args, output: seen.append(output))
    with torch.no_grad():
        expected = plain.encode_decode(
            data.inputs,
            [dict(sample.metainfo) | dict(pad_shape=(32, 32)) for sample in data.data_samples],
        )
        features = plain.backbone(data.inputs)[3]
    before = [dict(sample.metainfo) for sample in data.data_samples]
    got = run.watch(data)
    assert max(error(got, dict(logits=seen[0], feat=features)).values()) < 4e-6
    torch.testing.assert_close(
        F.interpolate(got['logits'], (32, 32), mode='bilinear'), expected, rtol=1e-5, atol=1e-5
    )
    assert [dict(sample.metainfo) for sample in data.data_samples] == before
    assert not any(value.requires_grad for value in got.values())
    assert not run.model.training


def test_heads_that_only_predict_see_the_size_of_their_own_images() -> None:
    Querying.sizes = []
    run = teacher(
        trained(unusual(Querying)), dict(logits='decode_head.conv_seg'), input_size=(48, 64)
    )
    assert run.watch(batch())['logits'].shape == (2, 11, 6, 8)
    assert Querying.sizes == [[(48, 64), (48, 64)]]


@pytest.mark.parametrize(
    ('head', 'mode'), [('FCNHead', 'tensor'), ('PSPHead', 'tensor'), (Querying, 'encode_decode')]
)
def test_other_heads_run_in_tensor_mode(head: Any, mode: str) -> None:
    net = unusual(Querying) if head is Querying else tiny.segmentor(8, head=head)
    assert teacher(trained(net), {}).mode == mode
    cascade = tiny.segmentor(8, head='FCNHead', auxiliary=False)
    ocr = dict(cascade['decode_head'], type='OCRHead', ocr_channels=8)
    for key in ('num_convs', 'concat_input'):
        ocr.pop(key)
    cascade |= dict(
        type='CascadeEncoderDecoder', num_stages=2, decode_head=[cascade['decode_head'], ocr]
    )
    run = teacher(trained(cascade), dict(logits='decode_head.1.conv_seg'))
    assert run.mode == 'tensor'
    assert run.watch(batch())['logits'].shape == (2, 11, 4, 4)


# ---------------------------------------------------------------------- weights that cannot teach


@pytest.mark.bad_input
def test_weights_beyond_the_range_of_the_precision() -> None:
    model = trained()
    model.decode_head.conv_seg.weight.data[0] = 1e5
    with pytest.raises(
        FloatingPointError,
        match=r"^teacher has weights beyond the range of precision='fp16': "
        r"decode_head.conv_seg.weight became Inf. Mend: precision='bf16'",
    ):
        teacher(copy.deepcopy(model), precision='fp16')
    for precision in ('bf16', 'fp32'):
        teacher(copy.deepcopy(model), precision=precision)


@pytest.mark.bad_input
def test_a_built_teacher_of_nan_is_refused() -> None:
    model = trained()
    model.backbone.layer1[0].conv1.weight.data[0] = float('inf')
    with pytest.raises(
        FloatingPointError,
        match='^teacher has weights that are NaN or Inf: backbone.layer1.0.conv1',
    ):
        teacher(model)


# ---------------------------------------------------------------------- outside the module tree


@pytest.mark.bad_input
def test_auxiliary_head_of_a_teacher_never_runs() -> None:
    """A teacher runs mode='tensor', which leaves auxiliary heads out."""
    with pytest.raises(
        RuntimeError,
        match=r"tap 'aux' of teacher \('auxiliary_head.conv_seg'\) never ran in this "
        r"forward. A teacher runs mode='tensor', which leaves out auxiliary heads",
    ):
        teacher(taps=dict(aux='auxiliary_head.conv_seg')).watch(batch())


def test_a_teacher_moves_keeps_its_precision_and_is_not_copied() -> None:
    run = teacher(precision='bf16')
    assert not isinstance(run, nn.Module)
    assert copy.deepcopy(dict(large=run))['large'] is run
    seen, losses = run.observe(batch())
    assert losses == {}
    assert torch.equal(seen['logits'], run.watch(batch())['logits'])
    run.to(torch.device('meta'))
    assert {(p.device.type, p.dtype) for p in run.model.parameters()} == {('meta', torch.bfloat16)}
