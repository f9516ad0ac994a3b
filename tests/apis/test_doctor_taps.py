"""The doctor's list of taps: for every member, whatever else is wrong with the config."""

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
    return {row[0]: row[1:] for row in report.tables[f'taps of {member}'][1]}


def test_each_member_is_listed() -> None:
    report = list_taps(config(), (32, 64))
    assert list(report.tables) == ['taps of student', 'taps of teacher']
    assert rows(report, 'student')['decode_head.conv_seg'] == ('(1, 11, 4, 8)', '8', '= logits')
    assert rows(report, 'teacher')['backbone[1]'] == ('(1, 16, 4, 8)', '8', '= stages[1]')
    assert report.ok


def test_a_broken_config_is_listed_all_the_same() -> None:
    broken = dict(taps=dict(x='nowhere'), objectives=dict(pair=dict(los=3)))
    teacher = {**TEACHER, 'model': {**tiny.segmentor(8), 'neck': dict(type='NoNeck')}}
    report = list_taps(config(**broken, teacher=teacher), (32, 64))
    assert list(report.tables) == ['taps of student']
    assert any('teacher' in error and 'NoNeck' in error for error in report.errors)


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
