"""The tools by name, wherever mmkd is installed."""

import sys
from pathlib import Path

import pytest
from helpers.processes import program

from mmkd import __main__ as door

TOOLS = {file.stem for file in (Path(__file__).parents[1] / 'tools').glob('*.py')}


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('trian', r"mmkd has no tool 'trian'; did you mean 'train'"),
        (None, r'^usage: mmkd \{benchmark,demo,doctor,'),
    ],
)
def test_a_tool_that_is_not_there(
    argument: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd', *([argument] if argument else [])])
    with pytest.raises(SystemExit, match=message) as raised:
        door.main()
    assert all(tool in str(raised.value) for tool in TOOLS)


@pytest.mark.parametrize('argument', ['--help', '-h', 'help'])
def test_help_says_what_each_tool_is_for(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd', argument])
    door.main()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err
    assert lines[0].startswith('usage: mmkd {benchmark,demo,doctor,')
    assert {line.split()[0] for line in lines[2:]} == TOOLS
    (doctor,) = [line for line in lines if line.startswith('  doctor ')]
    assert doctor.endswith(
        'Check a config before training by it: members, taps, objectives, optimizers, cost.'
    )


def test_help_is_no_mistake(tmp_path: Path) -> None:
    code, said = program(Path(door.__file__), '--help', cwd=tmp_path)
    assert code == 0
    assert 'usage: mmkd {' in said


def test_a_tool_runs_from_any_folder(tmp_path: Path) -> None:
    code, said = program(Path(door.__file__), 'export-student', 'none.pth', 'out', cwd=tmp_path)
    assert code == 1
    assert 'checkpoint none.pth does not exist' in said
    assert 'Traceback' not in said
