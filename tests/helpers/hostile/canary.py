"""What a file may name and must not reach."""

from typing import Any

CALLED: list[str] = []


def fire(*args: Any, **kwargs: Any) -> None:
    """Say that it was called."""
    CALLED.append('fire')


class Canary:
    """Says so whatever is done to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> 'Canary':
        CALLED.append('new')
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        CALLED.append('init')

    def __setstate__(self, state: Any) -> None:
        CALLED.append('setstate')

    def __setitem__(self, key: Any, value: Any) -> None:
        CALLED.append('setitem')

    def __hash__(self) -> int:
        CALLED.append('hash')
        return 0

    def append(self, item: Any) -> None:
        """Stand in for a list's."""
        CALLED.append('append')

    def extend(self, items: Any) -> None:
        """Stand in for a list's."""
        CALLED.append('extend')

    def add(self, item: Any) -> None:
        """Stand in for a set's."""
        CALLED.append('add')
