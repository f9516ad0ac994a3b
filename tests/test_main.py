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
        ('--help', r'^usage: mmkd \{benchmark'),
    ],
)
def test_a_tool_that_is_not_there(
    argument: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd', *([argument] if argument else [])])
    with pytest.raises(SystemExit, match=message) as raised:
        door.main()
    assert all(tool in str(raised.value) for tool in TOOLS)


def test_a_tool_runs_from_any_folder(tmp_path: Path) -> None:
    code, said = program(Path(door.__file__), 'export-student', 'none.pth', 'out', cwd=tmp_path)
    assert code == 1
    assert 'checkpoint none.pth does not exist' in said
    assert 'Traceback' not in said
