"""A run that is killed anywhere and resumed leaves what an uninterrupted one leaves."""
from pathlib import Path

import pytest
from hooks.kills import kill_everywhere
from runs import unformatted_configs  # noqa: F401  a fixture that every test here uses


def test_killed_now_and_then(tmp_path: Path) -> None:
    found = dict(kill_everywhere(tmp_path, every=29, at_random=1))
    assert len(found) > 3
    assert not {fault: lost for fault, lost in found.items() if lost}


@pytest.mark.slow
def test_killed_at_every_touch_of_the_disk_and_at_random_times(tmp_path: Path) -> None:
    found = dict(kill_everywhere(tmp_path))
    assert len(found) > 100
    assert not {fault: lost for fault, lost in found.items() if lost}
