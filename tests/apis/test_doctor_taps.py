"""The doctor's list of taps: for every member, whatever else is wrong with the config."""

import re
from typing import Any

import pytest
from helpers import tiny
from mmengine.config import Config

from mmkd.__main__ import main
from mmkd.apis.doctor import list_taps

TEACHER = dict(model=tiny.segmentor(8), scope='mmseg', allow_untrained=True)


def config(**model: Any) -> Config:
    student = dict(model=tiny.segmentor(4), scope='mmseg')
    pair = dict(type='mmkd.Distiller', student=student, teacher=TEACHER)
    return Config(dict(model=pair | model, default_scope='mmseg'))


def rows(report: Any, member: str) -> dict[str, tuple]:
    title = next(title for title in report.tables if title.startswith(f'taps of {member},'))
    return {row[0]: row[1:] for row in report.tables[title][1]}


def test_each_member_is_listed() -> None:
    report = list_taps(config(), (32, 64))
    about = 'of one image of (32, 64)'
    assert list(report.tables) == [f'taps of {role}, {about}' for role in ('student', 'teacher')]
    assert rows(report, 'student')['decode_head.conv_seg'] == ('(1, 11, 4, 8)', '8', '= logits')
    assert rows(report, 'teacher')['backbone[1]'] == ('(1, 16, 4, 8)', '8', '= stages[1]')
    assert report.ok


def test_a_broken_config_is_listed_all_the_same() -> None:
    broken = dict(taps=dict(x='nowhere'), objectives=dict(pair=dict(los=3)))
    teacher = {**TEACHER, 'model': {**tiny.segmentor(8), 'neck': dict(type='NoNeck')}}
    report = list_taps(config(**broken, teacher=teacher), (32, 64))
    assert list(report.tables) == ['taps of student, of one image of (32, 64)']
    assert any('teacher' in error and 'NoNeck' in error for error in report.errors)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        (dict(data_preprocessor=dict(type='NoSuchThing')), 'NoSuchThing'),
        (dict(students=dict(a=TEACHER)), 'give student= .* or students='),
        (dict(student=dict(cfg='nowhere.py')), "'nowhere.py' is not there"),
    ],
)
def test_what_is_wrong_is_said_once(changes: dict, text: str) -> None:
    report = list_taps(config(**changes), (32, 64))
    assert len(report.errors) == 1
    assert re.search(text, report.errors[0])


def test_a_plain_model_is_listed() -> None:
    report = list_taps(Config(dict(model={**tiny.segmentor(4)}, default_scope='mmseg')), (32, 64))
    assert rows(report, 'student')['decode_head.dropout'][2] == ':input = feature, after dropout'


def test_the_command_prints_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['doctor', 'mmkd::demo/student.py', '--taps', '--size', '32', '32']) == 0
    printed = capsys.readouterr().out
    assert '= logits' in printed
    assert 'ready to train' not in printed


@pytest.mark.bad_input
def test_nothing_is_evaluated_while_taps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['doctor', 'mmkd::demo/student.py', '--taps', '--evaluate', '2'])
    assert ended.value.code == 2
    assert '--taps lists what taps may read and evaluates nothing' in capsys.readouterr().err
