"""Bad input, tried as a new user would: what is wrong, where, what is allowed, and the mend, before
training starts.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.registry import MODELS
from torch import nn

pytestmark = pytest.mark.bad_input
TEACHER = dict(model=tiny.segmentor(8), allow_untrained=True)
PIXEL = tiny.objectives()['pixel']
PAIR = tiny.objectives()['pair']
HOLISTIC = tiny.holistic()


def message(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value.args[0])


def refuse(error: type[Exception], pattern: str, **overrides: Any) -> None:
    """The Distiller of ``tiny`` with these overrides is refused when it is built."""
    drop = [key for key, value in overrides.items() if value is None]
    cfg = {key: value for key, value in tiny.distiller(**overrides).items() if key not in drop}
    text = message(error, lambda: MODELS.build(cfg))
    assert re.search(pattern, text), text


def pixel(**changes: Any) -> dict:
    return dict(pixel=PIXEL | changes)


# ---------------------------------------------------------------------- taps


@pytest.mark.parametrize(
    ('taps', 'error', 'pattern'),
    [
        (
            dict(logits='decode_head.conv_sge'),
            KeyError,
            r"tap 'logits' of student \('decode_head.conv_sge'\): student has no module .*; did "
            r"you mean 'decode_head.conv_seg'",
        ),
        (
            dict(logits='decode_head:outputs'),
            ValueError,
            r'a tap is module\[#call\]\[:input\|:output\|:query\|:key\|:scores\]\[index\], '
            'for instance',
        ),
        (
            dict(logits='decode_head.psp_modules.0.1', feat='decode_head.psp_modules'),
            TypeError,
            "tap 'feat' of teacher .* the output is a list of 2, not a Tensor. Mend: choose one "
            "with 'decode_head.psp_modules.i.'",
        ),
        (
            dict(logits='decode_head.convs'),
            KeyError,
            "has no module 'decode_head.convs'; did you mean 'decode_head.conv_seg'",
        ),
        (
            dict(logits='auxiliary_head.convs'),
            RuntimeError,
            r"tap 'logits' of teacher \('auxiliary_head.convs'\) never ran in this forward. A "
            r'teacher runs '
            r"mode='tensor', which "
            'leaves out auxiliary heads',
        ),
        (
            dict(logits='backbone.layer1.0.bn1'),
            RuntimeError,
            'was changed in place after it was read .an in-place ReLU or add',
        ),
        (
            dict(logits='backbone.layer1.0.relu'),
            RuntimeError,
            "ran 2 times in one forward. Mend: 'backbone.layer1.0.relu#0'",
        ),
        (
            dict(logits='backbone.layer1[0]'),
            TypeError,
            r'is a Tensor of shape \(1, 8, 16, 16\), and \[0\] would take a sample of the batch. '
            r"Mend: 'backbone.layer1.0' for a child module",
        ),
        (
            dict(logits='backbone'),
            TypeError,
            r"the output is a tuple of 4, not a Tensor. Mend: choose one with 'backbone\[i\]'",
        ),
        (dict(logits='backbone[4]'), IndexError, r'index 0 \[4\] is not in a tuple of 4 items'),
        (dict(logits='decode_head'), RuntimeError, "mmseg calls a head's forward past its hooks"),
        (
            dict(my_loss='decode_head.conv_seg'),
            ValueError,
            "tap name 'my_loss': names are identifiers without 'loss'",
        ),
    ],
)
def test_taps(taps: dict, error: type[Exception], pattern: str) -> None:
    refuse(
        error,
        pattern,
        taps=dict(logits='decode_head.conv_seg') | taps,
        objectives=pixel(on='feat' if 'feat' in taps else 'logits'),
    )


def test_tap_on_a_container_that_never_runs() -> None:
    net = tiny.segmentor(4)
    net['auxiliary_head'] = [net['auxiliary_head']]
    refuse(
        RuntimeError,
        r"tap 'logits' of student \('auxiliary_head'\) never ran: a ModuleList is a container and "
        r"has no forward. Mend: tap one of \['auxiliary_head.0'\]",
        student=dict(model=net, taps=dict(logits='auxiliary_head')),
        objectives=pixel(),
    )


# ---------------------------------------------------------------------- members


@pytest.mark.parametrize(
    ('overrides', 'error', 'pattern'),
    [
        (
            dict(teacher=dict(model=tiny.segmentor(8))),
            ValueError,
            'teacher has no checkpoint: an untrained teacher teaches noise',
        ),
        (
            dict(teacher=TEACHER | dict(compiled=True)),
            TypeError,
            "teacher 'teacher' got an unknown key 'compiled'; did you mean 'compile'",
        ),
        (
            dict(student=dict(modell=tiny.segmentor(4))),
            TypeError,
            "student 'student' got an unknown key 'modell'; did you mean 'model'",
        ),
        (dict(student=None), ValueError, 'a Distiller needs student= or students='),
        (
            dict(students=dict(a=tiny.segmentor(4))),
            ValueError,
            r'give student= \(one member\) or students= \(named '
            r'members\), '
            'not both',
        ),
        (
            dict(
                student=None,
                students=dict(teacher=tiny.segmentor(4)),
                objectives=dict(
                    pixel=PIXEL
                    | dict(on=None, reads=dict(student='teacher.logits', teacher='teacher.logits'))
                ),
            ),
            ValueError,
            r"a student and a teacher share a name: \['teacher'\]",
        ),
        (
            dict(student=None, students={'my.peer': tiny.segmentor(4)}),
            ValueError,
            "student name 'my.peer': names are identifiers",
        ),
        (
            dict(student=None, students=dict(keys=tiny.segmentor(4))),
            ValueError,
            "student name 'keys': .* attribute of ModuleDict",
        ),
        (
            dict(
                student=None,
                students=dict(one=tiny.segmentor(4), two=tiny.segmentor(4, num_classes=19)),
            ),
            ValueError,
            r"the students disagree on classes: \{'one': 11, 'two': 19\}. Mend: the same classes, "
            r'in the same order',
        ),
        (dict(teacher=None, teachers=dict(closs=TEACHER)), ValueError, "teacher name 'closs'"),
        (
            dict(predict_with='studnet'),
            KeyError,
            "predict_with='studnet' names no student; did you mean 'student'",
        ),
        (
            dict(teachr=TEACHER),
            TypeError,
            "Distiller got an unknown key 'teachr'; did you mean 'teacher'",
        ),
        (
            dict(objektives={}),
            TypeError,
            "Distiller got an unknown key 'objektives'; did you mean 'objectives'",
        ),
    ],
)
def test_members(overrides: dict, error: type[Exception], pattern: str) -> None:
    refuse(error, pattern, **overrides)


def test_teacher_file_missing_truncated_and_of_another_architecture(tmp_path: Path) -> None:
    weights = MODELS.build({**tiny.segmentor(8, num_classes=19), '_scope_': 'mmseg'}).state_dict()
    torch.save(weights, tmp_path / 'teacher_best.pth')
    content = (tmp_path / 'teacher_best.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(content[: len(content) // 2])

    def teacher(name: str) -> dict:
        return dict(model=tiny.segmentor(8), checkpoint=str(tmp_path / name))

    refuse(
        FileNotFoundError,
        "teacher_bets.pth does not exist; did you mean 'teacher_best.pth'",
        teacher=teacher('teacher_bets.pth'),
    )
    refuse(
        RuntimeError,
        'half.pth .* is truncated or is no PyTorch checkpoint; copy or download it again',
        teacher=teacher('half.pth'),
    )
    refuse(
        RuntimeError,
        r'teacher from .*teacher_best.pth does not fit EncoderDecoder .*\n.*of another shape: '
        r'decode_head.conv_seg.weight \(19, 16, 1, 1\), the model has \(11, 16, 1, '
        r'1\)(.|\n)*Mend: is this '
        'the checkpoint of another architecture, or of another number of classes',
        teacher=teacher('teacher_best.pth'),
    )


def test_students_of_different_normalisation() -> None:
    students = dict(
        one=tiny.segmentor(4), two=tiny.segmentor(4, data_preprocessor=tiny.preprocessor(mean=0.0))
    )
    objectives = dict(
        pixel=PIXEL | dict(on=None, reads=dict(student='one.logits', teacher='two.logits'))
    )
    refuse(
        ValueError,
        r"the students 'one' and 'two' have data preprocessors of different mean, std, padding "
        r'value or channel order, but see one batch. Mend: data_preprocessor=dict\(...\)',
        student=None,
        teacher=None,
        students=students,
        objectives=objectives,
    )
    model = MODELS.build(
        dict(
            type='mmkd.Distiller',
            students=students,
            objectives=objectives,
            taps=dict(logits='decode_head.conv_seg'),
            data_preprocessor=tiny.preprocessor(),
        )
    )
    assert model.data_preprocessor.mean.flatten().tolist() == [100.0] * 3


# ---------------------------------------------------------------------- objectives


@pytest.mark.parametrize(
    ('objectives', 'error', 'pattern'),
    [
        ({}, ValueError, 'objectives is empty: a Distiller without objectives is plain training'),
        (
            pixel(weight=0),
            ValueError,
            "weight of objective 'pixel' must be a finite number above 0, got 0",
        ),
        (
            pixel(weight=float('nan')),
            ValueError,
            "weight of objective 'pixel' must be a finite number above 0, got nan",
        ),
        (
            pixel(wieght=1),
            TypeError,
            "objective 'pixel' got an unknown key 'wieght'; did you mean 'weight'",
        ),
        (pixel(on='logit'), KeyError, "member 'student' has no tap 'logit'; did you mean 'logits'"),
        (
            pixel(on=None, reads=dict(student='student.logits', teacher='techer.logits')),
            KeyError,
            r"'techer.logits' names no member; did you mean 'teacher'\? \(members: \['student', "
            r"'teacher'\]\)",
        ),
        (
            pixel(loss=dict(type='PixelWiseKLLoss', tua=1.0)),
            TypeError,
            "PixelWiseKLLoss got an unknown key 'tua'; did you mean 'tau'",
        ),
        (
            pixel(loss=dict(type='PixelWiseKL')),
            KeyError,
            "'PixelWiseKL' is not registered; did you mean 'PixelWiseKLLoss'",
        ),
        (
            pixel(on='feat'),
            ValueError,
            r"objective 'pixel': student='student.feat' \(1, 8, 8, 8\) has 8 channels, but the "
            r'class logits of its model have 11. Mend: tap class logits \(of most segmentors '
            r"'decode_head.conv_seg'\)",
        ),
        (
            pixel(loss=dict(type='FeatureL1Loss'), on='feat', connectors=dict(teacher='auto')),
            ValueError,
            r'teacher has 16 channels, student 8; a connector of the teacher would never be '
            r'trained',
        ),
        (
            pixel(connectors=dict(image='auto')),
            KeyError,
            "objective 'pixel': connectors name 'image', which it does not read",
        ),
        (
            pixel(connectors=dict(student=dict(type='Connector', in_channels=3, out_channels=11))),
            RuntimeError,
            "objective 'pixel': the connector of 'student' got student='student.logits' .* 3 "
            'channels',
        ),
        (
            dict(pair=PAIR | dict(loss=dict(type='PairWiseAffinityLoss', patch=8))),
            ValueError,
            r"objective 'pair': PairWiseAffinityLoss got student='student.feat' \(1, 8, 8, 8\).* "
            r'patch \(8, 8\) leaves a single node',
        ),
        (
            dict(keys=PIXEL),
            ValueError,
            "objective name 'keys': names are identifiers without 'loss' or a dot",
        ),
        (dict(kd_loss=PIXEL), ValueError, "objective name 'kd_loss'"),
    ],
)
def test_objectives(objectives: dict, error: type[Exception], pattern: str) -> None:
    refuse(error, pattern, objectives=objectives)


def test_wrong_class_counts() -> None:
    refuse(
        ValueError,
        r"objective 'pixel': PixelWiseKLLoss compares class logits of models that know other "
        r'classes: '
        r"\{'student.logits': 11, 'teacher.logits': 19\}\. .*Mend: members of the same classes, or "
        'compare features',
        teacher=dict(model=tiny.segmentor(8, num_classes=19), allow_untrained=True),
    )


def test_other_map_size() -> None:
    refuse(
        ValueError,
        r"objective 'pair': PairWiseAffinityLoss got student='student.feat' \(1, 8, 8, 8\), "
        r"teacher='teacher.feat' \(1, 16, 12, 12\): .* mend: connectors=dict\(student='auto'\)",
        teacher=TEACHER | dict(input_size=(96, 96)),
    )


@pytest.mark.parametrize(
    ('phases', 'error', 'pattern'),
    [
        (
            [
                dict(name='a', optimizer='a', task=True, objectives=['pixel', 'pair']),
                dict(name='b', optimizer='b', objectives=['pixel']),
            ],
            ValueError,
            "two phases name the objective 'pixel'",
        ),
        (
            [dict(name='a', optimizer='a', task=True, objectives=['pixel'])],
            ValueError,
            "no phase names the objective 'pair'",
        ),
        (
            [dict(name='a', optimizer='a', task=True, objectives=['pixel', 'piar'])],
            KeyError,
            "did you mean 'pair'",
        ),
    ],
)
def test_phases(phases: list, error: type[Exception], pattern: str) -> None:
    refuse(error, pattern, phases=phases)


def test_fused_taps() -> None:
    refuse(
        ValueError,
        r"tap 'feat' of teacher \('backbone.layer1.0.conv1'\) reads a convolution or norm that "
        r'fuse_bn=True '
        'folds together',
        teacher=TEACHER | dict(fuse_bn=True),
        taps=dict(feat='backbone.layer1.0.conv1'),
        objectives=dict(pair=PAIR),
    )


# ---------------------------------------------------------------------- while training


def step(data: dict | None = None, **overrides: Any) -> Any:
    model = tiny.build(tiny.distiller(**overrides))
    return model.train_step(data or tiny.batch(), tiny.sgd(model))


def test_labels_out_of_range_name_ids_and_files() -> None:
    data = tiny.batch()
    data['data_samples'][1].gt_sem_seg.data[0, 3, 4] = 11
    data['data_samples'][1].gt_sem_seg.data[0, 5, 6] = 200
    text = message(ValueError, lambda: step(data))
    assert (
        'labels hold the ids [11, 200], but the student has 11 classes (0 … 10; 255 is ignored)'
        in text
    )
    assert '(from labels_1.png). Mend: reduce_zero_label, a label_map, or num_classes' in text


def test_ignore_index_is_the_students() -> None:
    net = tiny.segmentor(4)
    net['decode_head']['ignore_index'] = net['auxiliary_head']['ignore_index'] = 11
    data = tiny.batch()
    data['data_samples'][0].gt_sem_seg.data[0, :8] = 11
    logs = step(data, student=dict(model=net))
    assert logs['decode.loss_ce'] > 0
    assert '[255]' in message(
        ValueError, lambda: step(tiny.batch(ignore=0.5), student=dict(model=net))
    )


@pytest.mark.parametrize(
    ('backbone', 'tap'),
    [
        (dict(frozen_stages=1), 'backbone.layer1'),
        (dict(frozen_stages=0), 'backbone.stem'),
        (dict(with_cp=True), 'backbone.layer1.0.conv2'),
    ],
)
def test_tap_without_gradient(backbone: dict, tap: str) -> None:
    """Mmcv's activation checkpointing runs its blocks without gradient, and recomputes
    them afterwards.
    """
    net = tiny.segmentor(4)
    net['backbone'] |= backbone
    overrides = dict(student=dict(model=net), taps=dict(feat=tap), objectives=dict(pair=PAIR))
    text = message(RuntimeError, lambda: step(**overrides))
    assert (
        "objective 'pair': student='student.feat' carries no gradient, so the student would learn "
        'nothing' in text
    )
    assert 'frozen_stages' in text
    assert 'with_cp=True' in text
    assert 'Mend: tap a trained layer, or with_cp=False' in text


def test_a_critic_that_nothing_trains() -> None:
    text = message(ValueError, lambda: step(objectives=dict(pixel=PIXEL, holistic=HOLISTIC)))
    assert (
        "objective 'holistic' has a critic, but there is one optimizer and nothing would train it. "
        'Mend: ' in text
    )


def test_a_built_member_and_cfg_options() -> None:
    refuse(
        ValueError,
        "student 'student': cfg_options change a config, but the model is built already",
        student=dict(model=nn.Identity(), cfg_options={'model.x': 1}),
    )
