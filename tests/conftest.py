"""Fixtures that every test shares, and counts of what was tried against mmkd."""

import os
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmkd  # registers every component

# Tiny models: a second thread costs more than it gives. The variable is for processes that tests
# start: the order of sums depends on the number of threads, and they are compared bit by bit.
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
COUNTED = dict(
    fault='faults injected, and runs that lost something',
    hostile_file='hostile files, and harmful ones',
    bad_input='bad inputs, and unclear answers',
)
tried: Counter = Counter()
failed: Counter = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--counts', type=Path, help='write into this file how much was tried, and what failed'
    )


def pytest_runtest_logreport(report: Any) -> None:
    """Count a test of one of these kinds as one case, or as many as it says by
    ``record_property``.
    """
    said = dict(report.user_properties)
    for kind in [
        kind
        for kind in COUNTED
        if kind in report.keywords and report.when == 'call' and not report.skipped
    ]:
        tried[kind] += said.get('tried', 1)
        failed[kind] += said.get('failed', 1 if report.failed else 0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption('--counts')
    if path is None:
        return
    from mmkd.apis.report import write_into

    rows = [f'| {what} | {tried[kind]} | {failed[kind]} |' for kind, what in COUNTED.items()]
    where = (
        f'Python {platform.python_version()}, torch {torch.__version__}, mmkd {mmkd.__version__}.'
    )
    write_into(
        path, 'counts', '\n'.join(['| | tried | failed |', '|---|---|---|', *rows, '', where, ''])
    )


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return a finder of shared data: ``$MMKD_SHARED`` or ``shared/`` beside the checkout; skips
    where it is absent.
    """
    base = Path(os.environ.get('MMKD_SHARED') or ROOT.parent / 'shared')

    def find(relative: str) -> Path:
        path = base / relative
        if not path.exists():
            pytest.skip(f'{relative} is not there: set MMKD_SHARED to the folder that holds it')
        return path

    return find


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)
