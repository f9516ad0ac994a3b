"""How a config names a class."""

from typing import Any


def bare_name(kind: Any) -> str:
    """Return the name of a ``type``, a text or a class, without its scope; '' of anything else.

    >>> bare_name('mmkd.Distiller'), bare_name(dict), bare_name(None)
    ('Distiller', 'dict', '')
    """
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]
