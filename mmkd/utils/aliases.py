"""Packages by the names that they had until 0.1, which users go on to import."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# old name -> where its names live now, all below ``mmkd``
ALIASES: dict[str, tuple[str, ...]] = {
    'adapters': ('models',),
    'benchmark': ('apis.benchmark',),
    'doctor': ('apis.doctor',),
    'hooks': ('engine.hooks', 'losses.quest.hook', 'losses.fitted.hook'),
    'launch': ('apis.launch', 'apis.prepare', 'apis.starting_weights'),
    'metrics': ('evaluation',),
    'modules': ('connectors', 'losses'),
    'schedules': ('engine.schedules',),
}


class Alias(ModuleType):
    """A module of names that live elsewhere; they are looked up when they are asked for.

    Modules below an old package are not found: one module under two names would register its
    classes twice.

    Args:
        name: The old name.
        homes: The modules that have its names now.
    """

    def __init__(self, name: str, homes: tuple[str, ...]) -> None:
        super().__init__(name, f'What was ``{name}`` until 0.1; now {", ".join(homes)}.')
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        """Return what the first home has by this name."""
        if name.startswith('__'):
            raise AttributeError(name)
        for home in self._homes:
            found = getattr(import_module(home), name, None)
            if found is not None:
                return found
        raise AttributeError(
            f'{self.__name__} has no {name!r}. Mend: look in {" and ".join(self._homes)}'
        )

    def __dir__(self) -> list[str]:
        """Return the names of all homes."""
        return sorted({name for home in self._homes for name in dir(import_module(home))})


def add_aliases(package: ModuleType) -> None:
    """Let the old names be imported and be attributes of the package.

    >>> from mmkd.hooks import ScheduleHook
    >>> ScheduleHook.__module__
    'mmkd.engine.hooks.schedule'
    """
    for old, homes in ALIASES.items():
        name = f'{package.__name__}.{old}'
        alias = Alias(name, tuple(f'{package.__name__}.{home}' for home in homes))
        sys.modules[name] = alias
        setattr(package, old, alias)
