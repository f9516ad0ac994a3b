"""Configs of plain values: classes by their registered names, Configs within as dictionaries.

A config of mmengine's new style names classes (``type=EncoderDecoder``), which it holds unbuilt
until they are asked for. What mmkd, mmengine and mmcv compare are names, and names are what a
checkpoint and an exported config can hold.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import mmengine.registry as roots
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry

# whose names count, with those below them; mmkd adds its own
ROOTS = [value for value in vars(roots).values() if isinstance(value, Registry)]


def with_plain_values(cfg: Config) -> Config:
    """Write a config of the new style as one of the old style, in place, and return it.

    What stands under ``type`` becomes the name that it is registered by, with its scope; what is
    registered nowhere, the path that it is imported from. The names that the file imports are no
    settings, and go. A Config within a config becomes a dictionary, which can be dumped.

    >>> from torch import nn
    >>> cfg = Config(dict(act_cfg=dict(type=nn.ReLU), student=Config(dict(model=dict(a=1)))))
    >>> with_plain_values(cfg).to_dict()
    {'act_cfg': {'type': 'ReLU'}, 'student': {'cfg': {'model': {'a': 1}}}}
    """
    for name in getattr(cfg, '_imported_names', ()):
        dict.pop(cfg._cfg_dict, name, None)
    _write(cfg._cfg_dict, _Names())
    return cfg


class _Names:
    """The names of what is registered; collected when the first is asked for."""

    def __init__(self) -> None:
        self._found: dict[int, str] | None = None

    def of(self, kind: Any) -> Any:
        """Return the name of a class or function; anything else as it is."""
        if isinstance(kind, LazyObject | LazyAttr):
            kind = kind.build()
        if not callable(kind):
            return kind
        if self._found is None:
            self._found = _registered()
        return self._found.get(id(kind)) or _path(kind)


def _path(kind: Any) -> Any:
    path = getattr(kind, '__qualname__', '<')
    return kind if '<' in path else f'{kind.__module__}.{path}'  # a local one is found by no path


def _registered() -> dict[int, str]:
    """Return id -> name of what is in the registries and in those below them.

    What a module of a user's registers goes by its path: a config of the new style imports the
    module, and what is written of that config does not.
    """
    found: dict[int, str] = {}
    every = (*ROOTS, *chain.from_iterable(map(_below, ROOTS)))
    packages = {'torch', 'mmcv', '__main__'} | {registry.scope for registry in every}
    for root in ROOTS:
        below = list(_below(root))
        taken = {name for child in below for name in child.module_dict}
        for registry in (root, *below):
            _note(registry, taken if registry is root else None, packages, found)
    return found


def _below(registry: Registry) -> Iterator[Registry]:
    for child in registry.children.values():
        yield child
        yield from _below(child)


def _note(
    registry: Registry, taken: set[str] | None, packages: set[str], found: dict[int, str]
) -> None:
    for name, kind in registry.module_dict.items():
        if str(getattr(kind, '__module__', '__main__')).partition('.')[0] not in packages:
            continue
        # a root's own go by their bare names, which mmcv compares, where no other has that name
        bare = taken is not None and name not in taken
        known = found.get(id(kind))
        if known is None or (name == getattr(kind, '__name__', '') and not known.endswith(name)):
            found[id(kind)] = name if bare else f'{registry.scope}.{name}'


def _write(node: Any, names: _Names) -> Any:
    """Return a part of a config with plain values; dictionaries are changed in place."""
    if isinstance(node, list | tuple):
        parts = [_write(part, names) for part in node]
        changed = any(one is not other for one, other in zip(parts, node, strict=True))
        return type(node)(parts) if changed else node
    if isinstance(node, Config):
        return with_plain_values(node)._cfg_dict
    if isinstance(node, dict):
        for key, value in list(dict.items(node)):  # ConfigDict's own would build what is unbuilt
            plain = names.of(value) if key == 'type' else _write(value, names)
            if isinstance(value, Config) and key != 'cfg':
                plain = ConfigDict(cfg=plain)
            if plain is not value:
                dict.__setitem__(node, key, plain)
    return node
