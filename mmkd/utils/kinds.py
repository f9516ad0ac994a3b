"""How a config names a class."""

from collections.abc import Mapping
from typing import Any


def bare_name(kind: Any) -> str:
    """Return the name of a ``type``, a text or a class, without its scope; '' of anything else.

    >>> bare_name('mmkd.Distiller'), bare_name(dict), bare_name(None)
    ('Distiller', 'dict', '')
    """
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]


def is_made(value: Any) -> bool:
    """Return whether a member is made of others; what is stored is made of nothing.

    >>> is_made(dict(kind='ema', of='student')), is_made('pspnet.py')
    (True, False)
    """
    return isinstance(value, Mapping) and 'kind' in value and not is_stored(value)


def is_stored(value: Any) -> bool:
    """Return whether a member is read from what ``mmkd store`` wrote.

    >>> is_stored(dict(kind='stored', path='out')), is_stored(dict(kind='ema', of='student'))
    (True, False)
    """
    return isinstance(value, Mapping) and value.get('kind') == 'stored'
