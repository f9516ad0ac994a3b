"""Errors of a member's forward: who, in which mode, on what, and when."""

from typing import Any
from unittest import mock

import pytest
import torch
from helpers import tiny
from mmengine.registry import MODELS
from torch import nn

from mmkd.distiller.members.blame import blaming, during


def told(error: Exception, model: nn.Module | None = None) -> Exception:
    with (
        pytest.raises(Exception, match='.') as info,
        blaming('student', model or nn.ReLU(), 'loss', torch.ones(2, 3)),
    ):
        raise error
    return info.value


class Awkward(Exception):  # noqa: N818
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f'{one} and {two}')


class Mute(Exception):  # noqa: N818
    def __init__(self, text: str) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (ValueError('bad'), ValueError),
        (KeyError('bad'), KeyError),
        (NotImplementedError('bad'), NotImplementedError),
        (Awkward(1, 2), RuntimeError),
        (Mute('bad'), RuntimeError),
        (UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad'), RuntimeError),
    ],
)
def test_the_type_stays_where_it_can_be_made_of_a_text(
    error: Exception, kind: type[Exception]
) -> None:
    got = told(error)
    assert type(got) is kind
    assert got.__cause__ is error
    assert got.args == (f"student (ReLU), mode='loss', inputs (2, 3): {error}",)


def test_the_last_head_is_named() -> None:
    net = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    assert str(told(ValueError('bad'), net)).startswith(
        'student (EncoderDecoder with PSPHead), mode='
    )
    cascade, detector = nn.Module(), nn.Module()
    cascade.decode_head = nn.ModuleList([nn.ReLU(), nn.GELU()])
    detector.roi_head = nn.Module()
    detector.roi_head.bbox_head = nn.Tanh()
    assert 'Module with GELU' in str(told(ValueError('bad'), cascade))
    assert 'Module with Tanh' in str(told(ValueError('bad'), detector))


def test_taps_name_the_member_themselves() -> None:
    error = ValueError("tap 'feat' of student ('x') never ran")
    assert told(error) is error


def test_when_is_said_inside_alone() -> None:
    with during('before training'):
        assert 'inputs (2, 3), before training: bad' in str(told(ValueError('bad')))
    assert 'inputs (2, 3): bad' in str(told(ValueError('bad')))


def broken(*_: Any, **__: Any) -> None:
    raise ValueError('not enough values to unpack')


@pytest.mark.bad_input
@pytest.mark.parametrize(('member', 'mode'), [('student', 'loss'), ('teacher', 'tensor')])
def test_members_are_named_in_the_probe_and_in_training(member: str, mode: str) -> None:
    net = {
        'student': tiny.segmentor(4, auxiliary=False),
        'teacher': tiny.segmentor(8, auxiliary=False),
    }
    net[member]['decode_head']['type'] = 'FCNHead'
    net[member]['decode_head'].pop('pool_scales')
    cfg = tiny.distiller(
        student=dict(model=net['student']),
        objectives=tiny.objectives(pair=None),
        teacher=dict(model=net['teacher'], allow_untrained=True),
    )
    head = 'mmseg.models.decode_heads.FCNHead.forward'
    start = rf"^{member} \(EncoderDecoder with FCNHead\), mode='{mode}', inputs "
    with (
        mock.patch(head, broken),
        pytest.raises(
            ValueError,
            match=start
            + (r"\(1, 3, 64, 64\), in mmkd's probe, before training: not enough values to unpack"),
        ),
    ):
        MODELS.build(cfg)
    model = tiny.build(cfg)
    with (
        mock.patch(head, broken),
        pytest.raises(ValueError, match=start + r'\(2, 3, 64, 64\): not enough values'),
    ):
        model.train_step(tiny.batch(), tiny.sgd(model))


@pytest.mark.bad_input
def test_a_norm_with_one_value_a_channel_is_mended() -> None:
    model = tiny.build(tiny.distiller())  # pools to 1×1
    with pytest.raises(
        ValueError,
        match=r'student \(.*\(1, 3, 64, 64\): Expected more than 1 value per channel.*Mend: '
        r'BatchNorm in training needs two values .*batch_size=2, drop_last=True',
    ):
        model.train_step(tiny.batch(1), tiny.sgd(model))
