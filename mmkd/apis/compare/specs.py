"""What is compared, as the command line names it: ``alone``, ``kd:weight=3``, ``recipe.py``."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mmkd.apis.pairing import read_method

ALONE = 'alone'
PLAIN = 'kd'  # what a method is compared with beside the student alone
RECIPE = '.py'  # ends what is a config of its own
OWN_NAME = re.compile(r'[^/\\:=]+')
BEHIND = re.compile(r'\.py(:(?!:)|\+)')


@dataclass(frozen=True)
class Spec:
    """One row of the comparison.

    Args:
        text: As the command line says it; of a recipe its own name, or that of its file.
        methods: Names, or ``dict(type=name, option=…)``; none of the student alone.
        recipe: Config that says all of a run itself, a path or ``pkg::path``.
    """

    text: str
    methods: tuple[str | dict[str, Any], ...] = ()
    recipe: str | None = None

    @property
    def alone(self) -> bool:
        """Whether it is the student of the pair without a teacher."""
        return not self.methods and self.recipe is None

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
        ValueError: The student alone with a method or an option; something else behind the colon;
            a recipe with options, without a name, or of a name that is taken.

    >>> read_spec('kd:weight=1e+3+cwd').methods, read_spec('alone').methods
    (({'type': 'kd', 'weight': 1000.0}, 'cwd'), ())
    >>> read_spec('few-labels=configs/x.py'), read_spec('mmkd::funmatch/long.py').text
    (Spec(text='few-labels', methods=(), recipe='configs/x.py'), 'long')
    """
    if text == ALONE:
        return Spec(text)
    if text.endswith(RECIPE):
        return _read_recipe(text)
    if BEHIND.search(text):
        raise ValueError(
            f'a recipe stands alone: it says all of its run itself, got {text!r}. Mend: a config '
            "with _base_ = ['that.py'] and what is changed; --iters is the length of every row"
        )
    # not that of a number such as 1e+3
    parts = re.split(r'\+(?=[A-Za-z])', text)
    if any(part.partition(':')[0] == ALONE for part in parts):
        raise ValueError(
            f'{ALONE!r} is the student without a teacher: it has no options and no method beside '
            f'it, got {text!r}. Mend: {ALONE} and the methods, apart from each other'
        )
    return Spec(text, tuple(read_method(part, '--methods') for part in parts))


def _read_recipe(text: str) -> Spec:
    name, _, path = text.partition('=')
    if not path or not OWN_NAME.fullmatch(name):
        name, path = PurePath(text.split('::')[-1]).stem, text
    spec = Spec(name, recipe=path)
    if name in (ALONE, PLAIN) or not spec.folder.strip('.'):
        raise ValueError(
            f'the recipe {path!r} would be called {name!r}: {ALONE} and {PLAIN} are the rows of '
            f'the pair that others are compared with. Mend: a name of its own, few-labels={path}'
        )
    return spec


def read_specs(texts: Sequence[str]) -> tuple[Spec, ...]:
    """Return the rows in their order.

    Raises:
        ValueError: Two of them are the same, or would share a folder.
    """
    specs = tuple(map(read_spec, texts))
    folders: dict[str, str] = {}
    recipes: dict[str, str] = {}
    for text, spec in zip(texts, specs, strict=True):
        if spec.folder in folders:
            own = '' if spec.recipe is None else f', or a name of its own: NAME={spec.recipe}'
            raise ValueError(
                f'--methods names {folders[spec.folder]!r} and {text!r}, which would share the '
                f'folder {spec.folder!r}. Mend: each once{own}'
            )
        folders[spec.folder] = text
        path = os.path.normpath(spec.recipe or '')
        if spec.recipe is not None and path in recipes:
            raise ValueError(
                f'--methods names the recipe {spec.recipe!r} twice, as {recipes[path]!r} and '
                f'{spec.text!r}. Mend: each once'
            )
        recipes[path] = spec.text
    return specs
