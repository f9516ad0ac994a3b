"""Which modules of a model a tap may read, and which one was meant."""

import re

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_LIBRARIES = ('torch', 'mmengine', 'mmseg', 'mmdet', 'mmpretrain', 'mmkd')


def is_loss(module: nn.Module) -> bool:
    """Return whether a module is a loss, an accuracy, or a list of them: it gives a number.

    >>> is_loss(nn.ModuleList([nn.CrossEntropyLoss()])), is_loss(nn.Softmax())
    (True, False)
    """
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return len(module) > 0 and all(is_loss(child) for child in module.children())
    package, *folders = type(module).__module__.split('.')
    return type(module).__name__.endswith('Loss') or (
        package in _LIBRARIES and bool({'loss', 'losses'} & {*folders})
    )


def is_dropout(module: nn.Module) -> bool:
    """Return whether a module drops values, and changes nothing else.

    >>> is_dropout(nn.Dropout2d()), is_dropout(nn.Identity())
    (True, False)
    """
    return isinstance(module, _DropoutNd)


def tappable(modules: dict[str, nn.Module]) -> list[str]:
    """Return which modules of ``named_modules`` are worth a tap: no losses, containers, dropouts.

    >>> net = nn.Sequential(nn.ModuleList([nn.Linear(1, 1), nn.Dropout()]), nn.MSELoss())
    >>> tappable(dict(net.named_modules()))
    ['0.0']
    """
    losses = losses_of(modules)
    return [
        name
        for name, module in modules.items()
        if name
        and not within(name, losses)
        and not is_dropout(module)
        and type(module).forward is not nn.Module.forward
    ]


def losses_of(modules: dict[str, nn.Module]) -> list[str]:
    """Return the paths of the losses among ``named_modules``."""
    return [name for name, module in modules.items() if name and is_loss(module)]


def within(path: str, owners: list[str]) -> bool:
    """Return whether a module is one of ``owners`` or lies in one.

    >>> within('head.loss', ['head']), within('header', ['head'])
    (True, False)
    """
    return any(f'{path}.'.startswith(f'{owner}.') for owner in owners)


def child_of(modules: dict[str, nn.Module], path: str, key: int | str) -> str:
    """Return the path of the module that ``path[key]`` would be; '' where there is none.

    >>> net = nn.Sequential(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
    >>> child_of(dict(net.named_modules()), '0', -1)
    '0.1'
    """
    module = modules.get(path)
    if (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and isinstance(key, int)
        and -len(module) <= key < len(module)
    ):
        return f'{path}.{range(len(module))[key]}'
    return f'{path}.{key}' if f'{path}.{key}' in modules else ''


def dotted_path(modules: dict[str, nn.Module], text: str) -> str:
    """Return ``'head.1.conv'`` for ``'head[-1].conv'`` where there is such a module, else ''."""
    path, *parts = re.split(r'\.|(?=\[)', text)
    for part in parts:
        index = re.fullmatch(r'\[(-?\d+)\]', part)
        path = child_of(modules, path, int(index[1])) if index else f'{path}.{part}'
    return path if re.split('[#:]', path)[0] in modules else ''
