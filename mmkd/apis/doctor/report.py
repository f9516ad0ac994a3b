"""What the doctor found: tables, errors, warnings, notes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from mmkd.utils.explain import explain
from mmkd.utils.tables import print_table


@dataclass
class Report:
    """Everything found about a config; errors are what would stop or spoil the training.

    >>> report = Report()
    >>> report.error(KeyError('no such tap'))
    >>> report.error('no such tap')  # the same again is said once
    >>> report.errors, report.ok
    (['no such tap'], False)
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def error(self, problem: str | BaseException) -> None:
        """Add an error, unless it was said already."""
        _add(self.errors, problem)

    def warn(self, problem: str | BaseException) -> None:
        """Add a warning."""
        _add(self.warnings, problem)

    def note(self, text: str) -> None:
        """Add what is worth knowing and no problem."""
        _add(self.notes, text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table, unless it has no rows."""
        if rows:
            self.tables[title] = (columns, rows)

    def print(self, console: Console, verdict: bool = True) -> None:
        """Print tables, then notes, warnings, errors, and the verdict, unless that is not asked."""
        for title, (columns, rows) in self.tables.items():
            print_table(console, title, columns, rows)
        for kind, style, texts in (
            ('note', 'cyan', self.notes),
            ('warning', 'yellow', self.warnings),
            ('ERROR', 'bold red', self.errors),
        ):
            for text in texts:
                console.print(f'[{style}]{kind}:[/] ', end='')
                console.print(text, markup=False, highlight=False)
        if not verdict:
            return
        said = 'this would not train as meant' if self.errors else 'ready to train'
        console.print(f'{said} (errors: {len(self.errors)}, warnings: {len(self.warnings)})')


def _add(texts: list[str], problem: str | BaseException) -> None:
    text = explain(problem)
    if text not in texts:
        texts.append(text)
