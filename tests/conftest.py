"""Fixtures that every test shares."""
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mmkd  # noqa: F401  registers every component

# Tiny models: a second thread costs more than it gives. The variable is for processes that tests start: the order of
# sums depends on the number of threads, and they are compared bit by bit.
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return a finder of shared data: ``$MMKD_SHARED`` or ``shared/`` beside the checkout; skips where it is absent."""
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
