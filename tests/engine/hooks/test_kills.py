"""A run that is killed anywhere and resumed leaves what an uninterrupted one leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kills import kill_everywhere


def count(found: dict[str, list[str]], record_property: Callable) -> dict[str, list[str]]:
    """Return the faults that lost something, after all of them are counted."""
    lost = {fault: places for fault, places in found.items() if places}
    record_property('tried', len(found))
    record_property('failed', len(lost))
    return lost


@pytest.mark.fault
def test_killed_at_some_touches_of_the_disk(tmp_path: Path, record_property: Callable) -> None:
    found = dict(kill_everywhere(tmp_path, every=29, at_random=1))
    assert not count(found, record_property)
    assert len(found) > 3


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize('part', range(8))
def test_killed_at_touches_of_the_disk_and_at_random_times(
    part: int, tmp_path: Path, record_property: Callable
) -> None:
    """An eighth of all touches and of 30 random times, so that processes can divide them."""
    found = dict(kill_everywhere(tmp_path, share=slice(part, None, 8)))
    assert not count(found, record_property)
    assert len(found) > 12
