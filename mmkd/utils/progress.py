"""A bar for what takes long; it is drawn on a terminal alone."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar('Item')


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items; a terminal shows on stderr how many are done, and the bar goes at the end.

    It is drawn between items, never beside one, so that it takes no time from what is measured.

    Args:
        items: What is worked on, one after the other.
        total: How many.
        what: Stands before the bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(what, total=total)
        progress.refresh()
        for item in items:
            yield item
            progress.advance(task)
            progress.refresh()
