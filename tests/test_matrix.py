"""tests/matrix.py: what is run, what is not, what is written down; nothing is installed here."""

import sys
from pathlib import Path
from typing import Any

import matrix
import pytest

GOOD = ('9 passed', 'mIoU 4.12', '2026-11-26, mmkd 0.1.0')


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / 'page.md'
    path.write_text('before\n<!-- report matrix -->\n<!-- end of report matrix -->\nafter\n')
    return path


def run_all(page: Path, cells: list[str], rows: dict, result: Any = GOOD, there: Any = ()) -> bool:
    def find(version: str) -> Path | None:
        return Path('/python') if version in there else None

    def tried(*args: Any) -> tuple:
        return result

    return matrix.run_all(cells, rows, find, tried, page, lambda: Path('mmkd.whl'))


def test_every_python_and_torch_of_the_claim_has_a_cell() -> None:
    setup = (matrix.ROOT / 'setup.py').read_text()
    assert 'PYTHONS = range(10, 14)' in setup
    assert matrix.PYTHONS == ('3.10', '3.11', '3.12', '3.13')
    assert len(matrix.CELLS) == 12
    assert set(matrix.read_rows(matrix.PAGE.read_text())) == set(matrix.CELLS), 'the page has all'


def test_a_wheel_has_nothing_of_an_earlier_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / 'build/lib/mmkd/gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()

    def build(command: list, log: Path) -> str:
        assert not stale.exists()
        folder = tmp_path / 'build/matrix/wheel'
        folder.mkdir()
        (folder / 'mmkd-1.whl').touch()
        return ''

    monkeypatch.setattr(matrix, 'ROOT', tmp_path)
    monkeypatch.setattr(matrix, 'BUILD', tmp_path / 'build/matrix')
    monkeypatch.setattr(matrix, 'COPIED', ())
    monkeypatch.setattr(matrix, 'run', build)
    assert matrix.build_wheel().name == 'mmkd-1.whl'


def test_a_finished_cell_is_not_run_again(page: Path) -> None:
    cell = 'py3.11-torch2.13.0'
    assert run_all(page, [cell], {}, there=['3.11'])
    rows = matrix.read_rows(page.read_text())
    assert rows[cell] == GOOD
    assert rows['py3.12-torch2.6.0'] == matrix.NOT_RUN
    assert page.read_text().startswith('before\n')
    assert cell not in matrix.choose(None, rows, again=False)
    assert len(matrix.choose(None, rows, again=False)) == 11
    assert matrix.choose([cell], rows, again=False) == []
    assert matrix.choose([cell], rows, again=True) == [cell]


def test_a_python_that_is_not_here_has_not_passed(
    page: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = {'py3.12-torch2.6.0': GOOD}
    run_all(
        page, ['py3.13-torch2.6.0', 'py3.12-torch2.6.0', 'py3.11-torch2.6.0'], rows, there=['3.11']
    )
    said = capsys.readouterr().out
    assert 'py3.13-torch2.6.0: Python 3.13 is not here' in said
    rows = matrix.read_rows(page.read_text())
    assert rows['py3.13-torch2.6.0'] == matrix.NOT_RUN
    assert rows['py3.12-torch2.6.0'] == GOOD, 'what was run elsewhere stays'


@pytest.mark.parametrize(
    ('result', 'finished'),
    [
        (('FAILED: boom', 'mIoU 4.12', '2026-11-26'), True),
        (('could not be installed: no wheel', '', ''), False),
    ],
)
def test_what_fails_is_told_and_not_taken_for_passed(
    page: Path, result: tuple, finished: bool
) -> None:
    assert not run_all(page, ['py3.11-torch2.6.0'], {}, result, ['3.11'])
    rows = matrix.read_rows(page.read_text())
    assert rows['py3.11-torch2.6.0'] == result
    left = matrix.choose(['py3.11-torch2.6.0'], rows, again=False)
    assert left == ([] if finished else ['py3.11-torch2.6.0'])


@pytest.mark.bad_input
def test_an_unknown_cell_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        SystemExit, match="no cell 'py3.11-torch2.6'; did you mean 'py3.11-torch2.6"
    ):
        matrix.choose(['py3.11-torch2.6'], {}, again=False)


def test_counts_of_pytest() -> None:
    assert matrix.count_tests('x\n7 passed, 1 skipped, 2 deselected in 3s') == '7 passed, 1 skipped'
    with pytest.raises(matrix.StepError, match='no test passed'):
        matrix.count_tests('3 skipped in 1s')


def test_a_step_that_fails_says_its_last_line(tmp_path: Path) -> None:
    code = "print('a'); print('the | reason'); raise SystemExit(3)"
    with pytest.raises(matrix.StepError, match=r'^the \| reason$') as error:
        matrix.run([sys.executable, '-c', code], tmp_path / 'log.txt')
    assert matrix.cell_text(error.value) == 'the / reason'
    assert 'the | reason' in (tmp_path / 'log.txt').read_text()


def test_this_python_is_found() -> None:
    assert matrix.find_python('9.9') is None
