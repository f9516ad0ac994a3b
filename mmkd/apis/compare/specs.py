"""What is compared, as the command line names it: ``alone``, ``kd:weight=3``, ``kd+cwd``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.apis.pairing import read_method

ALONE = 'alone'
PLAIN = 'kd'  # what a method is compared with beside the student alone


@dataclass(frozen=True)
class Spec:
    """One row of the comparison.

    Args:
        text: As the command line says it.
        methods: Names, or ``dict(type=name, option=…)``; none of the student alone.
    """

    text: str
    methods: tuple[str | dict[str, Any], ...] = ()

    @property
    def method(self) -> Any:
        """What a config says: one method, or a list of them."""
        return list(self.methods) if len(self.methods) > 1 else self.methods[0]

    @property
    def folder(self) -> str:
        """Name of its folder, of letters that every file system takes.

        >>> Spec('dist:weight=2,tau=0.5').folder, Spec('kd+cwd').folder
        ('dist_weight_2_tau_0.5', 'kd+cwd')
        """
        return re.sub(r'[^\w.+-]+', '_', self.text).strip('_')


def read_spec(text: str) -> Spec:
    """Return a row by its text.

    Raises:
        ValueError: The student alone with a method or an option; something else behind the colon.

    >>> read_spec('kd:weight=1e+3+cwd').methods, read_spec('alone').methods
    (({'type': 'kd', 'weight': 1000.0}, 'cwd'), ())
    """
    if text == ALONE:
        return Spec(text)
    # not that of a number such as 1e+3
    parts = re.split(r'\+(?=[A-Za-z])', text)
    if any(part.partition(':')[0] == ALONE for part in parts):
        raise ValueError(
            f'{ALONE!r} is the student without a teacher: it has no options and no method beside '
            f'it, got {text!r}. Mend: {ALONE} and the methods, apart from each other'
        )
    return Spec(text, tuple(read_method(part, '--methods') for part in parts))


def read_specs(texts: Sequence[str]) -> tuple[Spec, ...]:
    """Return the rows in their order.

    Raises:
        ValueError: Two of them are the same, or would share a folder.
    """
    specs = tuple(map(read_spec, texts))
    seen: dict[str, str] = {}
    for spec in specs:
        if spec.folder in seen:
            raise ValueError(
                f'--methods names {seen[spec.folder]!r} and {spec.text!r}, which would share the '
                f'folder {spec.folder!r}. Mend: each once'
            )
        seen[spec.folder] = spec.text
    return specs
