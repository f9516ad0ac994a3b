"""Settings as the text of a config that a person would write."""

from collections.abc import Mapping
from typing import Any

WIDTH = 100


def assignments(settings: Mapping[str, Any]) -> str:
    """Return settings as lines ``name = value``.

    >>> print(assignments(dict(task_weight=0.1, taps=dict(logits='auto'))))
    task_weight = 0.1
    taps = dict(logits='auto')
    """
    return '\n'.join(
        f'{name} = {as_text(value, len(name) + 3)}' for name, value in settings.items()
    )


def as_text(value: Any, used: int = 0, indent: int = 0) -> str:
    """Return a value as Python; what does not fit into a line is broken at its outermost commas.

    Args:
        value: Of dicts, lists, tuples and literals; of anything else its repr.
        used: Characters that stand before it in its line.
        indent: Spaces before that line.

    >>> print(as_text(dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits'), 80))
    dict(
        loss=dict(type='PixelWiseKLLoss', tau=4.0),
        on='logits',
    )
    """
    line = _in_a_line(value)
    parts = _parts(value)
    if not parts or indent + used + len(line) + 1 <= WIDTH:
        return line
    opening, closing = _brackets(value)
    inner = ' ' * (indent + 4)
    lines = [f'{inner}{key}{as_text(one, len(key), indent + 4)},' for key, one in parts]
    return '\n'.join([opening, *lines, ' ' * indent + closing])


def _in_a_line(value: Any) -> str:
    parts = _parts(value)
    if parts is None:
        return repr(value)
    opening, closing = _brackets(value)
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    inside = ', '.join(key + _in_a_line(one) for key, one in parts)
    return f'{opening}{inside}{comma}{closing}'


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """Return what stands before each part, and the part; None of a literal."""
    if isinstance(value, Mapping):
        named = _is_named(value)
        return [(f'{key}=' if named else f'{key!r}: ', one) for key, one in value.items()]
    return [('', one) for one in value] if isinstance(value, list | tuple) else None


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping):
        return ('dict(', ')') if _is_named(value) else ('{', '}')
    return ('[', ']') if isinstance(value, list) else ('(', ')')


def _is_named(value: Mapping) -> bool:
    return all(isinstance(key, str) and key.isidentifier() for key in value)
