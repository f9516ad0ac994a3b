"""Checks of arguments: a refusal names the argument, what was got, and what is allowed."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def nearest(
    name: str,
    choices: Iterable[str],
    count: int = 3,
    cutoff: float = 0.5,
    otherwise: str = '',
) -> str:
    """Return ``; did you mean 'x'?`` for the closest choices, or ``otherwise`` without any.

    Where the sentence ends here, ``otherwise='.'`` ends it with one mark either way.

    >>> nearest('logit', ['logits', 'feat'])
    "; did you mean 'logits'?"
    """
    matches = get_close_matches(name, list(choices), n=count, cutoff=cutoff)
    return f'; did you mean {" or ".join(map(repr, matches))}?' if matches else otherwise


def nearest_file(file: Path) -> str:
    """Return :func:`nearest` among the files beside ``file`` that end like it; '' without any.

    >>> nearest_file(Path('no/such/folder/x.py'))
    ''
    """
    return nearest(file.name, [other.name for other in file.parent.glob(f'*{file.suffix}')])


def printable(text: object, longest: int = 200) -> str:
    r"""Return a text of elsewhere as one line that no terminal takes for commands.

    >>> printable('a\nb\x1b[31m')
    'a b?[31m'
    """
    line = ' '.join(str(text).split())[:longest]
    return ''.join(c if c.isprintable() else '?' for c in line)


def check_keys(got: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raise TypeError for a key that ``where`` does not know.

    Raises:
        TypeError: names the key, its nearest match and every allowed key.
    """
    allowed = list(allowed)
    for key in got:
        if key not in allowed:
            raise TypeError(
                f'{where} got an unknown key {key!r}{nearest(str(key), allowed)} (allowed: '
                f'{", ".join(sorted(allowed))})'
            )


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``.

    >>> check_choice('pool', 'avg', ('avg', 'max'))
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(
            f'{name} must be one of {allowed}, got '
            f'{value!r}{nearest(str(value), map(str, allowed))}'
        )


def check_dict(name: str, value: Any, example: str) -> None:
    """Raise TypeError unless ``value`` is a dictionary with texts as keys, or None.

    >>> check_dict('taps', ['decode_head'], "dict(logits='decode_head.conv_seg')")
    Traceback (most recent call last):
    TypeError: taps must be a dictionary, got ['decode_head']. Mend:
    dict(logits='decode_head.conv_seg')
    """
    if value is not None and not (
        isinstance(value, dict) and all(isinstance(key, str) for key in value)
    ):
        raise TypeError(f'{name} must be a dictionary, got {value!r:.80}. Mend: {example}')


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0: of a weight, 0 is no effect."""
    if not _is_number(value) or value <= 0:
        raise ValueError(f'{name} must be a finite number above 0, got {value!r}')


def check_non_negative(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number, zero or above."""
    if not _is_number(value) or value < 0:
        raise ValueError(f'{name} must be a finite number, 0 or above, got {value!r}')


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a number from 0 to below 1, got {value!r}')


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to 1.

    >>> check_share('alpha', 0.5)
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f'{name} must be a number from 0 to 1, got {value!r}')


def check_count(name: str, value: int, least: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``.

    >>> check_count('images_per_class', 3, 1)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name} must be a whole number of at least {least}, got {value!r}')


def not_built(what: str, mend: str = '', call: str = 'build(student=…, teacher=…)') -> RuntimeError:
    """Return what to raise for parts that shapes decide, where they are asked for before those.

    >>> print(not_built('the generator is', 'teacher_channels=…'))
    the generator is not built, since the shapes are not known. Mend: teacher_channels=…, or
    build(student=…, teacher=…) before the optimizer is built (the Distiller calls it)
    """
    return RuntimeError(
        f'{what} not built, since the shapes are not known. Mend: {mend}{", or " if mend else ""}'
        f'{call} before the optimizer is built (the Distiller calls it)'
    )


def check_size(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a height and a width, or None.

    >>> check_size('grid', (14, 14)), check_size('grid', None)
    (None, None)
    """
    if value is None:
        return
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(
            f'{name} must be height and width, or None, got {value!r}. Mend: {name}=(16, 16)'
        )
    for side in value:
        check_count(name, side, 1)


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
