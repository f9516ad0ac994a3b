"""Fixtures that every test shares, and counts of what was tried against mmkd."""

import gc
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMORY = Path('/dev/shm')
COUNTED = dict(
    fault='faults injected, and runs that lost something',
    hostile_file='hostile files, and harmful ones',
    bad_input='bad inputs, and unclear answers',
)
tried: Counter = Counter()
failed: Counter = Counter()
_frozen_modules = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--counts', help='write into this file how much was tried, and what failed')
    parser.addoption(
        '--every-architecture',
        action='store_true',
        help='run what is marked so too: the whole zoo in place of a sample (make zoo)',
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the rest of the zoo to ``make zoo``."""
    if config.getoption('--every-architecture'):
        return
    left = [item for item in items if item.get_closest_marker('every_architecture')]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_configure() -> None:
    """Write into memory where there is plenty: checkpoints wait for a disk, again and again."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    if usable and disk_usage(MEMORY).free > 12 * 2**30:  # all tests write 8 GiB
        os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', str(MEMORY))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the memory back; a worker's folder lies in that of the process that hands out tests."""
    made = getattr(getattr(config, '_tmp_path_factory', None), '_basetemp', None)
    if made is not None and made.is_relative_to(MEMORY) and not hasattr(config, 'workerinput'):
        rmtree(made, ignore_errors=True)


def pytest_report_header() -> str:
    found = find_spec('mmkd')
    return f'mmkd: {found.origin if found else "not installed"}'


def pytest_sessionstart(session: pytest.Session) -> None:
    """Import mmkd before any test does: it mends the stack and registers every component."""
    # Tiny models: a second thread costs more than it gives. The variable is for processes that
    # tests start: the order of sums depends on the number of threads, and they are compared bit
    # by bit.
    os.environ['OMP_NUM_THREADS'] = '1'
    hands_out = session.config.getoption('dist', 'no') != 'no'
    if hands_out and not hasattr(session.config, 'workerinput'):
        return  # this process runs no test: the workers of pytest-xdist do
    gc.disable()  # until all is imported and collected: nothing of it is garbage
    import torch

    import mmkd  # noqa: F401

    torch.set_num_threads(1)


def pytest_runtest_logreport(report: Any) -> None:
    """Count a test of these kinds as one case, or as many as it says by ``record_property``."""
    if report.when != 'call' or report.skipped:
        return
    said = dict(report.user_properties)
    for kind in COUNTED.keys() & report.keywords.keys():
        tried[kind] += said.get('tried', 1)
        failed[kind] += said.get('failed', 1 if report.failed else 0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption('--counts')
    if path is None or hasattr(session.config, 'workerinput'):
        return  # with pytest-xdist the reports of all workers reach the process that started them
    import torch

    import mmkd
    from mmkd.apis.report import write_into

    rows = [f'| {what} | {tried[kind]} | {failed[kind]} |' for kind, what in COUNTED.items()]
    where = (
        f'Python {platform.python_version()}, torch {torch.__version__}, mmkd {mmkd.__version__}.'
    )
    write_into(
        Path(path),
        'counts',
        '\n'.join(['| | tried | failed |', '|---|---|---|', *rows, '', where, '']),
    )


def pytest_collection_finish() -> None:
    _freeze_what_lives()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Keep the heap small: tests import more, and pytest keeps a report of each."""
    yield
    if nextitem is None or nextitem.path != item.path or len(sys.modules) > _frozen_modules:
        _freeze_what_lives()


def _freeze_what_lives() -> None:
    """Take what was imported and what is cached out of garbage collection.

    mmengine collects at every data set that it builds. On a heap with all these libraries that
    takes 0.2 s each time, half of what a tiny training takes.
    """
    global _frozen_modules
    _frozen_modules = len(sys.modules)
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return a finder of shared data; it skips where they are absent.

    They are looked for in ``$MMKD_SHARED``, else in ``shared/`` beside the checkout.
    """
    base = Path(os.environ.get('MMKD_SHARED') or ROOT.parent / 'shared')

    def find(relative: str) -> Path:
        path = base / relative
        if not path.exists():
            pytest.skip(f'{relative} is not there: set MMKD_SHARED to the folder that holds it')
        return path

    return find


@pytest.fixture(scope='session')
def fresh_import() -> subprocess.CompletedProcess:
    """Return what a new interpreter says that imports nothing but mmkd."""
    code = (
        'import mmkd, sys; from mmengine.registry import MODELS; found = '
        "MODELS.get('mmkd.PixelWiseKLLoss') is mmkd.losses.PixelWiseKLLoss; print('registered' * "
        "found, 'mmseg.datasets' * ('mmseg.datasets' in sys.modules))"
    )
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)


@pytest.fixture(scope='session', autouse=True)
def _unformatted_configs() -> Iterator[None]:
    """Leave dumped configs unformatted: the formatter takes longer than most trainings here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))
        yield


@pytest.fixture(scope='session', autouse=True)
def _impatient_loaders() -> Iterator[None]:
    """Wait half a second for the workers of a data loader that ends as garbage, not 5 s.

    After an error it does, and then the last word to its workers is lost.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 0.5)
        yield


@contextmanager
def _own_scope() -> Iterator[None]:
    """Leave mmengine's default scope as it was: a Runner sets it for all that comes after it."""
    from mmengine.registry import DefaultScope

    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(scope='module', autouse=True)
def _scope_of_the_module() -> Iterator[None]:
    with _own_scope():
        yield


@pytest.fixture(autouse=True)
def _scope_of_the_test() -> Iterator[None]:
    with _own_scope():
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    import torch

    torch.manual_seed(0)
