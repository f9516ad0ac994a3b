"""A run that is killed anywhere and resumed leaves what an uninterrupted one leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kills import kill_everywhere


@pytest.mark.fault
@pytest.mark.parametrize(
    ('every', 'at_random'), [(29, 1), pytest.param(1, 30, marks=pytest.mark.slow)]
)
def test_killed_at_touches_of_the_disk_and_at_random_times(
    every: int, at_random: int, tmp_path: Path, record_property: Callable
) -> None:
    found = dict(kill_everywhere(tmp_path, every, at_random))
    lost = {fault: places for fault, places in found.items() if places}
    record_property('tried', len(found))
    record_property('failed', len(lost))
    assert len(found) > (100 if every == 1 else 3)
    assert not lost
