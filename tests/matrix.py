"""Other Pythons and torches: the wheel is installed, tested and trains; ``make matrix``.

For each pair a fresh environment gets the wheel of mmkd with its extras ``onedl`` and ``test``, as
a user's would: newest versions of everything but torch. A selection of tests runs against what was
installed, then 20 iterations of the demo. What came out is a row of docs/get_started.md, and that
table is the memory too: a pair that has its result there is not run again, unless ``--again``.

An environment takes about 6 GB while it is tested, most of it torch. A Python that is not here is
reported so, and its row stays as it is.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from mmkd.apis.report import write_into
from mmkd.utils.checks import nearest
from mmkd.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'get_started.md'
BUILD = ROOT / 'build' / 'matrix'
PYTHONS = ('3.10', '3.11', '3.12', '3.13')  # as setup.py and README say
TORCHES = ('2.6.0', '2.13.0', '2.14.1')
CELLS = {f'py{py}-torch{torch}': (py, torch) for py in PYTHONS for torch in TORCHES}
COLUMNS = ('environment', 'tests of a selection', 'demo, 20 iterations', 'when')
NOT_RUN = ('not run by make matrix yet', '', '')
SELECTION = (
    'tests/losses/test_battery.py',
    'tests/distiller',
    'tests/engine/hooks/test_exact_resume.py',
    'tests/methods/test_classification.py',
    'tests/utils/test_checkpoints.py',
    'tests/apis/test_new_style.py',
)
COPIED = ('tests', 'configs', 'tools', 'pyproject.toml', 'model-index.yml', 'setup.py', 'docs')
Row = tuple[str, str, str]


class StepError(Exception):
    """A step of a cell ended with an error; its last line says which."""


def read_rows(text: str) -> dict[str, Row]:
    """Return cell -> the rest of its row, of a page with the table.

    >>> read_rows('| py3.11-torch2.6.0 | 9 passed | mIoU 4.1 | 2026-11-26 |')
    {'py3.11-torch2.6.0': ('9 passed', 'mIoU 4.1', '2026-11-26')}
    """
    found = re.findall(r'^\| (py\S+) \|(.*)\|(.*)\|(.*)\|$', text, re.MULTILINE)
    return {cell: (a.strip(), b.strip(), c.strip()) for cell, a, b, c in found if cell in CELLS}


def is_finished(row: Row | None) -> bool:
    """Return whether a row tells of a run that went to its end, well or not."""
    return row is not None and bool(row[2])


def find_python(version: str) -> Path | None:
    """Return the interpreter of a minor version, on the PATH or of pyenv; None without one."""
    root = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    below = sorted(root.glob(f'versions/{version}.*/bin/python'))
    on_path = shutil.which(f'python{version}')
    for python in [*below[-1:], *([Path(on_path)] if on_path else [])]:
        asked = subprocess.run(
            [python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'],
            capture_output=True,
            text=True,
        )
        if asked.stdout.strip() == version:  # pyenv's shims stand for versions that are not there
            return python
    return None


def run(command: Iterable[object], log: Path, **kwargs: object) -> str:
    """Run a command, append what it says to a log, and return that.

    Raises:
        StepError: It ended with another code than 0; says its last line.
    """
    words = [str(word) for word in command]
    keep = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**keep, 'OMP_NUM_THREADS': '1'},
        **kwargs,  # type: ignore[call-overload]
    )
    with open(log, 'a', encoding='utf-8') as file:
        file.write(f'$ {" ".join(words)}\n{done.stdout}\n')
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ['no word']
        raise StepError(lines[-1][:120])
    return done.stdout


def build_wheel() -> Path:
    """Build the wheel of this checkout, and copy what the tests need, without mmkd itself."""
    shutil.rmtree(ROOT / 'build' / 'lib', ignore_errors=True)  # modules that are gone since
    shutil.rmtree(BUILD / 'wheel', ignore_errors=True)
    shutil.rmtree(BUILD / 'checkout', ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    wheel = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w']
    run([*wheel, BUILD / 'wheel', ROOT], BUILD / 'wheel.log')
    for name in COPIED:  # on whose path the checkout's mmkd would stand before the installed one
        source, target = ROOT / name, BUILD / 'checkout' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)
    return next((BUILD / 'wheel').glob('mmkd-*.whl'))


def install(python: Path, torch: str, wheel: Path, folder: Path) -> Path:
    """Make an environment, install torch and the wheel, and return its interpreter."""
    shutil.rmtree(folder / 'venv', ignore_errors=True)
    own, log = folder / 'venv' / 'bin' / 'python', folder / 'log.txt'
    if shutil.which('uv'):
        run(['uv', 'venv', '--python', python, folder / 'venv'], log)
        pip: list[object] = ['uv', 'pip', 'install', '--python', own]
    else:
        run([python, '-m', 'venv', folder / 'venv'], log)
        pip = [own, '-m', 'pip', 'install', '--no-compile']
    run([*pip, f'torch=={torch}'], log)
    run([*pip, f'torch=={torch}', f'mmkd[onedl,test] @ file://{wheel}'], log)
    return own


def count_tests(said: str) -> str:
    """Return pytest's counts; nothing passed is no success.

    >>> count_tests('=== 3 passed, 1 skipped, 2 deselected in 4.0s ===')
    '3 passed, 1 skipped'

    Raises:
        StepError: No test passed.
    """
    counts = re.findall(r'\d+ (?:passed|failed|skipped|errors?)\b', said.splitlines()[-1])
    if not any(count.endswith('passed') for count in counts):
        raise StepError('no test passed')
    return ', '.join(counts)


def run_tests(python: Path, folder: Path) -> str:
    """Run the selection against what is installed."""
    found = run([python, '-c', 'import mmkd; print(mmkd.__file__)'], folder / 'log.txt', cwd=folder)
    if str(folder / 'venv') not in found:
        raise StepError(f'the mmkd that is tested is {found.strip()}')
    command = [python, '-m', 'pytest', '-q', '-m', 'not slow', '-p', 'no:cacheprovider']
    return count_tests(run([*command, *SELECTION], folder / 'log.txt', cwd=BUILD / 'checkout'))


def run_demo(python: Path, folder: Path) -> str:
    """Train the demo's student for 20 iterations, by the command that the wheel brings."""
    shutil.rmtree(folder / 'work', ignore_errors=True)
    command = [python.with_name('mmkd'), 'train', 'mmkd::demo/student.py', '--work-dir', 'work']
    options = ['--cfg-options', 'train_cfg.max_iters=20']
    said = run([*command, *options], folder / 'log.txt', cwd=folder)
    scores = re.findall(r'mIoU: +([\d.]+)', said)
    if not scores:
        raise StepError('no validation')
    return f'mIoU {float(scores[-1]):.2f}'


def run_cell(python: Path, torch: str, wheel: Path, folder: Path) -> Row:
    """Return the row of one environment; it is removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'log.txt').unlink(missing_ok=True)
    when = f'{date.today()}, mmkd {__version__}'
    try:
        try:
            own = install(python, torch, wheel, folder)
        except StepError as error:
            return f'could not be installed: {cell_text(error)}', '', ''
        tests = _told(run_tests, own, folder)
        return tests, _told(run_demo, own, folder), when
    finally:
        shutil.rmtree(folder / 'venv', ignore_errors=True)


def _told(step: Callable[[Path, Path], str], python: Path, folder: Path) -> str:
    try:
        return step(python, folder)
    except StepError as error:
        return f'FAILED: {cell_text(error)}'


def cell_text(error: object) -> str:
    """Return a message that leaves a Markdown table whole."""
    return ' '.join(str(error).replace('|', '/').split())


def choose(only: list[str] | None, rows: dict[str, Row], again: bool) -> list[str]:
    """Return the cells to run: those asked for, without those that are finished.

    Raises:
        SystemExit: There is no such cell; names the nearest one.
    """
    for name in only or ():
        if name not in CELLS:
            raise SystemExit(
                f'there is no cell {name!r}{nearest(name, CELLS)} ({", ".join(CELLS)})'
            )
    asked = only or list(CELLS)
    return [cell for cell in asked if again or not is_finished(rows.get(cell))]


def table(rows: dict[str, Row]) -> str:
    """Return the table of all cells, run or not."""
    lines = [COLUMNS, ('---',) * len(COLUMNS)]
    lines += [(cell, *rows.get(cell, NOT_RUN)) for cell in CELLS]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def run_all(
    cells: list[str],
    rows: dict[str, Row],
    find: Callable[[str], Path | None] = find_python,
    tried: Callable[[Path, str, Path, Path], Row] = run_cell,
    page: Path = PAGE,
    build: Callable[[], Path] = build_wheel,
) -> bool:
    """Run cells one after the other, writing the page after each; return whether all went well."""
    wheel, well = None, True
    for cell in cells:
        version, torch = CELLS[cell]
        python = find(version)
        if python is None:
            print(f'{cell}: Python {version} is not here', flush=True)
            continue
        wheel = wheel or build()
        rows[cell] = tried(python, torch, wheel, BUILD / cell)
        print(f'{cell}: {"; ".join(filter(None, rows[cell]))}', flush=True)
        well = well and is_finished(rows[cell]) and 'FAILED' not in ''.join(rows[cell])
        write_into(page, 'matrix', table(rows))
    return well


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--only', nargs='+', metavar='CELL', help=f'of {", ".join(CELLS)}')
    parser.add_argument('--again', action='store_true', help='also what has its result already')
    args = parser.parse_args()
    rows = read_rows(PAGE.read_text(encoding='utf-8'))
    if not run_all(choose(args.only, rows, args.again), rows):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
