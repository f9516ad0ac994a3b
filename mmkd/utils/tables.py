"""Tables on the terminal, as the tools print them."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 150


def make_console() -> Console:
    """Return a console; a file or a pipe gets lines that do not depend on a window."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Print one table; what it says is plain text, so brackets in tap paths stay what they are."""
    table = Table(title=Text(title), title_justify='left', title_style='bold', header_style='bold')
    for column in columns:
        table.add_column(Text(column), overflow='fold')
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console.print(table)
