"""Members: every way to write one, its scope, its weights, and what is refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import MODELS, DefaultScope
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from mmkd.distiller.members.member import Member
from mmkd.distiller.members.plain_config import plain_model_cfg
from mmkd.distiller.members.renormalise import Renormalise
from mmkd.tasks.base import task_of
from mmkd.utils.pixels import pixel_statistics

PSPNET = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
UNTRAINED = dict(allow_untrained=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / 'segmentor_r18.py'
    Config(dict(default_scope='mmseg', model=tiny.segmentor(4))).dump(str(path))
    return path


def student(value: Any, name: str = 'student') -> Member:
    return Member.parse(name, 'student', value)


def teacher(**value: Any) -> Member:
    return Member.parse('teacher', 'teacher', value)


def model(channels: int = 4, **kwargs: Any) -> nn.Module:
    return MODELS.build({**tiny.segmentor(channels, **kwargs), '_scope_': 'mmseg'})


# ---------------------------------------------------------------------- ways to write one


@pytest.mark.parametrize(
    'form',
    [
        'model=',
        'model dict',
        'cfg=path',
        'path',
        'Path',
        'cfg=Path',
        'cfg=Config',
        'Config',
        'cfg=dict',
        'ConfigDict',
    ],
)
def test_every_form_builds_the_same_model(form: str, config: Path) -> None:
    value = {
        'model=': dict(model=tiny.segmentor(4)),
        'model dict': tiny.segmentor(4),
        'path': str(config),
        'cfg=path': dict(cfg=str(config)),
        'Path': config,
        'cfg=Path': dict(cfg=config),
        'cfg=Config': dict(cfg=Config.fromfile(config)),
        'Config': Config.fromfile(config),
        'cfg=dict': dict(cfg=dict(model=tiny.segmentor(4))),
        'ConfigDict': Config(dict(m=dict(model=tiny.segmentor(4)))).m,
    }[form]
    member = student(value)
    torch.manual_seed(5)
    built = member.build()
    torch.manual_seed(5)
    expected = model(4).state_dict()
    assert type(built) is EncoderDecoder
    assert (member.scope, member.where, member.checkpoint) == ('mmseg', 'student', None)
    assert built.state_dict().keys() == expected.keys()
    assert all(torch.equal(weights, expected[key]) for key, weights in built.state_dict().items())


def test_path_into_an_installed_package() -> None:
    member = student(
        dict(cfg=PSPNET, cfg_options={'model.pretrained': None, 'model.decode_head.num_classes': 7})
    )
    assert member.cfg.model.backbone.depth == 18
    assert (member.model.pretrained, member.model.decode_head.num_classes, member.scope) == (
        None,
        7,
        'mmseg',
    )
    assert student(PSPNET).model.pretrained == 'open-mmlab://resnet18_v1c'


def test_a_built_model_is_taken_as_it_is() -> None:
    net = model(4)
    for value in (net, dict(model=net)):
        assert student(value).build() is net
    assert (
        Member.parse('teacher', 'teacher', net).build() is net
    )  # it has its weights, so it needs no checkpoint


def test_configs_are_left_untouched(config: Path) -> None:
    cfg = Config.fromfile(config)
    written, given = cfg.pretty_text, tiny.segmentor(4)
    student(dict(cfg=cfg, cfg_options={'model.decode_head.num_classes': 3})).build()
    student(dict(model=given, cfg_options={'model.decode_head.num_classes': 3})).build()
    assert cfg.pretty_text == written
    assert given == tiny.segmentor(4)


@pytest.mark.parametrize(
    'options',
    [
        {'model.decode_head.num_classes': 3, 'model.auxiliary_head.num_classes': 3},
        {'model': dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))},
        {
            'model.decode_head.num_classes': 3,
            'model.backbone.norm_cfg': dict(_delete_=True, type='BN', momentum=0.5),
        },
        {
            'model.decode_head.num_classes': 3,
            'model.decode_head.loss_decode': dict(type='FocalLoss', gamma=1.0),
        },
    ],
)
def test_cfg_options(options: dict) -> None:
    assert (
        student(dict(model=tiny.segmentor(4), cfg_options=options)).build().decode_head.num_classes
        == 3
    )


def test_cfg_options_reach_into_lists() -> None:
    net = tiny.segmentor(4)
    net['auxiliary_head'] = [net['auxiliary_head']]
    built = student(dict(model=net, cfg_options={'model.auxiliary_head.0.num_classes': 3})).build()
    assert built.auxiliary_head[0].num_classes == 3


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'pretrained': None},
            r"cfg_options\['pretrained'\] changes nothing: the config has no 'pretrained'",
        ),
        ({'model.backbone.depht': 50}, r"model.backbone has no 'depht'; did you mean 'depth'"),
        (
            {'model': dict(backbone=dict(depht=50))},
            r"model.backbone has no 'depht'; did you mean 'depth'",
        ),
        ({'model.backbone.depth.x': 50}, r"model.backbone.depth has no 'x'"),
        ({'model.backbone.out_indices.7': 1}, r"model.backbone.out_indices has no '7'"),
    ],
)
def test_cfg_option_that_changes_nothing(options: dict, message: str) -> None:
    with pytest.raises(KeyError) as raised:
        student(dict(model=tiny.segmentor(4), cfg_options=options))
    assert re.search(message, raised.value.args[0])
    assert 'Options are relative to the whole config' in raised.value.args[0]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('value', 'error', 'message'),
    [
        (
            dict(model=tiny.segmentor(4), cfg='x.py'),
            ValueError,
            "student 'student' needs exactly one of 'cfg' .* and 'model'",
        ),
        (
            dict(checkpoint='x.pth'),
            ValueError,
            r"needs exactly one of 'cfg' .* got \['checkpoint'\]",
        ),
        (
            dict(modle=tiny.segmentor(4)),
            TypeError,
            "student 'student' got an unknown key 'modle'; did you mean 'model'",
        ),
        (
            dict(model=tiny.segmentor(4), chekpoint='x'),
            TypeError,
            "unknown key 'chekpoint'; did you mean 'checkpoint'",
        ),
        (
            dict(model=tiny.segmentor(4), precision='bf16'),
            TypeError,
            "'precision' is an option of teachers. Mend: a student's precision is its "
            "optim_wrapper's",
        ),
        (
            dict(model=tiny.segmentor(4), input_size=(8, 8)),
            TypeError,
            "'input_size' is an option of teachers",
        ),
        (
            3,
            TypeError,
            r"student 'student' must be dict\(cfg=…\) or dict\(model=…\), a config path, .*, got "
            r'int',
        ),
        (None, TypeError, 'got NoneType'),
        (
            dict(cfg=dict(modell=3)),
            ValueError,
            r"the config has no 'model' \(it has \['modell'\]\). Mend: dict\(model",
        ),
        (
            dict(model=nn.Identity(), cfg_options={'a': 1}),
            ValueError,
            'cfg_options change a config, but the model is built already',
        ),
        (
            PSPNET.replace('scapes', 'scape'),
            FileNotFoundError,
            "student 'student': the config 'mmseg::pspnet.*' is not there; did you mean "
            "'pspnet_r18-d8_4xb2-80k_cityscapes-5",
        ),
        (
            'mmsegg::pspnet/x.py',
            FileNotFoundError,
            "'mmsegg::pspnet/x.py' is not there: no such package is installed",
        ),
    ],
)
def test_refusals(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        student(value)


@pytest.mark.bad_input
def test_config_file_that_is_not_there(config: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"segmentor_r81.py' is not there; did you mean 'segmentor_r18.py'\? "
        r'\(relative paths start at ',
    ):
        student(str(config.with_name('segmentor_r81.py')))
    with pytest.raises(FileNotFoundError, match=r"nowhere/x.py' is not there \(relative"):
        student('nowhere/x.py')


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (
            dict(),
            ValueError,
            'teacher has no checkpoint: an untrained teacher teaches noise. Mend: checkpoint=',
        ),
        (dict(checkpoint=None), ValueError, 'teacher has no checkpoint'),
        (
            dict(precision='bf61', **UNTRAINED),
            ValueError,
            "precision of teacher must be one of .*got 'bf61'; did you mean 'bf16'",
        ),
        (
            dict(fuse=True, **UNTRAINED),
            TypeError,
            "teacher 'teacher' got an unknown key 'fuse'; did you mean 'fuse_bn'",
        ),
        (
            dict(input_size=64, **UNTRAINED),
            ValueError,
            r'input_size of teacher must be \(height, width\), two ints above 0, got 64',
        ),
        (dict(input_size=(64, 0), **UNTRAINED), ValueError, r'two ints above 0, got \(64, 0\)'),
        (
            dict(compile='yes', **UNTRAINED),
            TypeError,
            "compile of teacher must be True, False or a dict of torch.compile's arguments, got "
            "'yes'",
        ),
    ],
)
def test_teacher_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        teacher(model=tiny.segmentor(4), **options)


@pytest.mark.bad_input
def test_named_members_are_named_in_errors() -> None:
    with pytest.raises(ValueError, match="teacher 'big' has no checkpoint"):
        Member.parse('big', 'teacher', dict(model=tiny.segmentor(4)))


# ---------------------------------------------------------------------- scope


@pytest.mark.parametrize('active', ['mmseg', 'mmkd', 'mmengine'])
@pytest.mark.parametrize('kind', ['bare', 'prefixed', 'class', 'cfg'])
def test_a_member_builds_in_its_own_scope(active: str, kind: str) -> None:
    net: dict[str, Any] = tiny.segmentor(4)
    if kind == 'prefixed':
        net['type'] = 'mmseg.EncoderDecoder'  # its children stay bare
    if kind == 'class':
        net['type'] = EncoderDecoder
    value: Any = (
        dict(cfg=dict(model=net, default_scope='mmseg')) if kind == 'cfg' else dict(model=net)
    )
    with DefaultScope.overwrite_default_scope(active):
        assert type(student(value).build()) is EncoderDecoder
        assert DefaultScope.get_current_instance().scope_name == active


def test_the_order_of_scopes() -> None:
    net = tiny.segmentor(4)
    assert student(dict(cfg=dict(model=net, default_scope='a'), scope='b')).scope == 'a'
    assert student(dict(model=net | dict(type='c.Net'), scope='b')).scope == 'b'
    assert student(dict(model=net | dict(type='c.Net'))).scope == 'c'
    assert student(dict(model=net)).scope == 'mmseg'


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    'layout', ['bare', 'state_dict', 'half', 'bfloat16', 'distiller', 'named', 'module.']
)
def test_checkpoints_of_every_layout(layout: str, tmp_path: Path) -> None:
    source = model(4)
    own = source.state_dict()
    state = {
        'bare': own,
        'state_dict': dict(state_dict=own, meta=dict(iter=3)),
        'half': {k: v.half() if v.is_floating_point() else v for k, v in own.items()},
        'bfloat16': {k: v.bfloat16() if v.is_floating_point() else v for k, v in own.items()},
        'distiller': dict(
            state_dict={
                **{f'students.student.{k}': v for k, v in own.items()},
                'objectives.pixel.connectors.student.conv.weight': torch.ones(1),
            }
        ),
        'named': {
            **{f'students.student.{k}': v + 1 for k, v in own.items()},
            **{f'students.teacher.{k}': v for k, v in own.items()},
        },
        'module.': {f'module.{k}': v for k, v in own.items()},
    }[layout]
    torch.save(state, tmp_path / 'best.pth')
    built = teacher(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'best.pth')).build()
    tolerance = {'half': 1e-3, 'bfloat16': 8e-3}.get(layout, 0.0)
    for key, value in built.state_dict().items():
        assert value.dtype == own[key].dtype
        torch.testing.assert_close(value, own[key], rtol=tolerance, atol=tolerance)


@pytest.mark.bad_input
def test_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / 'iter_40000.pth').write_bytes(b'')
    with pytest.raises(
        FileNotFoundError, match=r"iter_4000.pth does not exist; did you mean 'iter_40000.pth'"
    ):
        teacher(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'iter_4000.pth')).build()


@pytest.mark.bad_input
def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save(model(4).state_dict(), tmp_path / 'whole.pth')
    content = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(content[: len(content) // 2])
    with pytest.raises(
        RuntimeError, match=r'cut.pth \(\d+ bytes\) is truncated or is no PyTorch checkpoint'
    ):
        teacher(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'cut.pth')).build()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('net', 'parts'),
    [
        (
            tiny.segmentor(8),
            ['of another shape', 'backbone.stem.0.weight (4, 3, 3, 3), the model has (2, 3, 3, 3)'],
        ),
        (
            tiny.segmentor(4, num_classes=19),
            [
                'decode_head.conv_seg.weight (19, 8, 1, 1), the model has (11, 8, 1, 1)',
                'another number of classes',
            ],
        ),
        (
            tiny.segmentor(4, auxiliary=False),
            ['missing: auxiliary_head.conv_seg.weight', 'auxiliary_head.convs.0.conv.we'],
        ),
        (
            tiny.segmentor(4, head='FCNHead'),
            [
                'missing: decode_head.psp_modules.0.1.conv.weight',
                'unexpected: decode_head.convs.0.conv.weight',
            ],
        ),
    ],
)
def test_checkpoint_of_another_architecture_lists_the_keys(
    net: dict, parts: list[str], tmp_path: Path
) -> None:
    torch.save(MODELS.build({**net, '_scope_': 'mmseg'}).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(
        RuntimeError, match=r'teacher from .*other.pth does not fit EncoderDecoder \(\d+ ent'
    ) as raised:
        teacher(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'other.pth')).build()
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.bad_input
def test_checkpoint_of_a_run_with_other_students(tmp_path: Path) -> None:
    state = {f'students.peer{i}.{k}': v for i in (1, 2) for k, v in model(4).state_dict().items()}
    torch.save(state, tmp_path / 'run.pth')
    with pytest.raises(KeyError) as raised:
        teacher(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'run.pth')).build()
    assert "no key begins with 'students.teacher.' or 'students.student.'" in raised.value.args[0]
    assert 'students.peer1., students.peer2.' in raised.value.args[0]


# ---------------------------------------------------------------------- small things


def test_ignore_index() -> None:
    for index in (0, 255):
        net = tiny.segmentor(4)
        net['decode_head']['ignore_index'] = index
        assert task_of(MODELS.build({**net, '_scope_': 'mmseg'})).ignore_index == index
    assert task_of(nn.Identity()).ignore_index == 255


@pytest.mark.bad_input
def test_plain_model_cfg_needs_no_download() -> None:
    member = student(PSPNET)
    assert plain_model_cfg(member).pretrained is None
    assert member.model.pretrained == 'open-mmlab://resnet18_v1c'
    with pytest.raises(
        TypeError,
        match='student was given as a built model, so no config can be written for it. Mend',
    ):
        plain_model_cfg(student(nn.Identity()))


def test_plain_model_cfg_switches_downloads_off_at_any_depth() -> None:
    loads = dict(type='Pretrained', checkpoint='https://models.example/a.pth')
    normal = dict(type='Normal', std=0.01)
    net = tiny.segmentor(4)
    net['backbone'] |= dict(pretrained='open-mmlab://resnet18_v1c', init_cfg=[normal, loads])
    net['decode_head'] |= dict(init_cfg=dict(loads), deeper=[dict(inner=dict(pretrained=True))])
    net['auxiliary_head'] |= dict(init_cfg=normal)
    net['neck'] = dict(type='TIMMBackbone', model_name='resnet18')  # its default is pretrained=True
    net['more'] = dict(init_cfg=[loads], part=dict(type='NoSuchClass'))
    member = student(dict(model=net))
    got = plain_model_cfg(member)
    assert got.backbone.pretrained is None
    assert got.backbone.init_cfg == [normal]
    assert got.decode_head.init_cfg is None
    assert got.decode_head.deeper[0].inner.pretrained is False
    assert got.auxiliary_head.init_cfg == normal
    assert got.neck.pretrained is False
    assert got.more.init_cfg is None
    assert 'pretrained' not in got.decode_head
    assert (
        member.model.backbone.pretrained == 'open-mmlab://resnet18_v1c'
    )  # its own config starts as it was written
    assert member.model.backbone.init_cfg == [normal, loads]


def test_a_data_preprocessor_beside_the_model_is_the_models() -> None:
    """So mmengine's Runner has it, and all configs of mmpretrain say it there alone."""
    net = tiny.segmentor(4)
    own = net.pop('data_preprocessor')
    beside = tiny.preprocessor(mean=7.0)
    cfg = Config(dict(model=net, data_preprocessor=beside))
    member = student(cfg)
    assert member.build().data_preprocessor.mean.flatten().tolist() == [7.0] * 3
    assert plain_model_cfg(member).data_preprocessor == beside
    changed = student(dict(cfg=cfg, cfg_options={'data_preprocessor.mean': [8.0] * 3}))
    assert changed.build().data_preprocessor.mean.flatten().tolist() == [8.0] * 3
    assert 'data_preprocessor' not in cfg.model
    both = student(Config(dict(model={**net, 'data_preprocessor': own}, data_preprocessor=beside)))
    assert both.build().data_preprocessor.mean.flatten().tolist() == [100.0] * 3


# ---------------------------------------------------------------------- weights that cannot be


@pytest.mark.bad_input
@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_weights_that_are_not_finite_are_refused_by_member_and_file(
    role: str, tmp_path: Path
) -> None:
    state = model(8).state_dict()
    state['decode_head.conv_seg.bias'][3] = float('nan')
    torch.save(state, tmp_path / 'best.pth')
    member = Member.parse(
        'big', role, dict(model=tiny.segmentor(8), checkpoint=str(tmp_path / 'best.pth'))
    )
    with pytest.raises(
        FloatingPointError,
        match=rf"^{role} 'big' from .*best.pth has weights that are NaN or Inf: "
        r'decode_head.conv_seg.bias. Mend: a checkpoint of before',
    ):
        member.build()


# ---------------------------------------------------------------------- re-normalisation

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
LITE = dict(mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True)
GREY = dict(mean=[127.0], std=[64.0], bgr_to_rgb=True)
RAW = dict(mean=None, std=None, bgr_to_rgb=False)
RAW_RGB = dict(mean=None, std=None, bgr_to_rgb=True)
ALL = dict(imagenet=IMAGENET, caffe=CAFFE, lite=LITE, grey=GREY, raw=RAW, raw_rgb=RAW_RGB)


def preprocess(config: dict, data: dict, **overrides: Any) -> tuple[nn.Module, Tensor, list]:
    config = (
        dict(type='SegDataPreProcessor', size=(24, 20), pad_val=0, seg_pad_val=255)
        | config
        | overrides
    )
    module = MODELS.build({**config, '_scope_': 'mmseg'})
    out = module(data, True)
    return module, out['inputs'], out['data_samples']


def images() -> dict:
    """Two images smaller than the size that the preprocessors pad to, one of them larger than the
    other.
    """
    data = tiny.batch(2, size=20)
    data['inputs'][1] = data['inputs'][1][:, :16, :12]
    data['data_samples'][1].gt_sem_seg = data['data_samples'][1].gt_sem_seg[:16, :12]
    return data


@pytest.mark.parametrize('target', ALL)
@pytest.mark.parametrize('source', ALL)
def test_renormalised_equals_normalised_by_the_teachers_own(source: str, target: str) -> None:
    from_module, inputs, samples = preprocess(ALL[source], images())
    to_module, expected, _ = preprocess(ALL[target], images())
    got = Renormalise(from_module, to_module)(inputs, samples)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert (got[0, :, 20:] == 0).all()  # padding stays 0 after the change
    assert (got[1, :, 16:] == 0).all()
    assert (got[1, :, :, 12:] == 0).all()
    assert (got is inputs) == (source == target)


class Mmpretrain(nn.Module):
    """Normalises as mmpretrain's ClsDataPreprocessor does, and has its attributes."""

    flag = 'to_rgb'

    def __init__(self, mean: list, std: list, flip: bool) -> None:
        super().__init__()
        self._enable_normalize, self.pad_value = True, 0
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1))
        setattr(self, self.flag, flip)

    def forward(self, pixels: Tensor) -> Tensor:
        return ((pixels.flip(1) if getattr(self, self.flag) else pixels) - self.mean) / self.std


class OldMmseg(Mmpretrain):
    """As mmsegmentation's own until 1.2."""

    flag = 'channel_conversion'


class Mmengine(Mmpretrain):
    """As what derives from mmengine's."""

    flag = '_channel_conversion'


@pytest.mark.parametrize('target', [Mmpretrain, OldMmseg, Mmengine])
@pytest.mark.parametrize('source', [Mmpretrain, OldMmseg, Mmengine])
@pytest.mark.parametrize('flips', [(False, False), (False, True), (True, False), (True, True)])
def test_channel_order_by_any_librarys_name(
    source: type, target: type, flips: tuple[bool, bool]
) -> None:
    """Powers of two: the error is 0.0, not only small."""
    pixels = torch.randint(0, 256, (2, 3, 4, 5)).float()
    own = source([16.0, 32.0, 64.0], [8.0, 16.0, 32.0], flips[0])
    other = target([128.0, 64.0, 8.0], [4.0, 2.0, 16.0], flips[1])
    got = Renormalise(own, other)(own(pixels))
    assert (got - other(pixels)).abs().max() == 0.0


def test_renormalise_pads_with_the_targets_value() -> None:
    from_module, inputs, samples = preprocess(IMAGENET, images())
    before = inputs.clone()
    to_module, expected, _ = preprocess(IMAGENET, images(), pad_val=7)
    torch.testing.assert_close(Renormalise(from_module, to_module)(inputs, samples), expected)
    assert torch.equal(inputs, before)  # the student's batch stays what it was


def test_renormalise_without_samples_and_in_half_precision() -> None:
    from_module, inputs, _ = preprocess(IMAGENET, images())
    to_module, expected, _ = preprocess(LITE, images())
    got = Renormalise(from_module, to_module)(inputs.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(
        got[0, :, :20, :20].float(), expected[0, :, :20, :20], rtol=0.02, atol=0.02
    )


def test_members_are_shared_by_deep_copies() -> None:
    """EMA deep-copies the Distiller; a description may hold a built teacher."""
    member = Member.parse('teacher', 'teacher', nn.Linear(2, 2))
    assert copy.deepcopy(member) is member


@pytest.mark.bad_input
def test_a_standard_deviation_of_zero() -> None:
    with pytest.raises(
        ValueError,
        match=r'std of a data_preprocessor must be above 0, got \[50.0, 0.0, 50.0\]. Mend',
    ):
        pixel_statistics(ImgDataPreprocessor(mean=[100.0] * 3, std=[50.0, 0.0, 50.0]))
