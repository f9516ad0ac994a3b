"""Taps: names for tensors inside a model, read while one forward runs."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.distiller.taps.sides import SIDES
from mmkd.distiller.taps.tap_path import TapPath
from mmkd.distiller.taps.tappable import child_of, dotted_path, losses_of, tappable, within
from mmkd.utils.checks import nearest


@dataclass
class _Reading:
    """What one tap saw during one forward."""

    values: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


def remove(handles: Sequence[Any]) -> None:
    """Take hooks off again, the last one first: two may have wrapped one forward."""
    for handle in reversed(handles):
        handle.remove()


class Taps:
    """The taps of one model: hooks exist only while a ``recording()`` block runs.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> taps = Taps(model, dict(hidden='0'))
    >>> with taps.recording() as seen:
    ...     _ = model(torch.ones(1, 2))
    >>> tuple(taps.read(seen)['hidden'].shape), len(model[0]._forward_hooks)
    ((1, 3), 0)

    Args:
        model: The model; it is left as it was after each recording.
        paths: Tap name -> path, see :class:`TapPath`.
        where: How errors call the model.

    Raises:
        ValueError: A path does not follow the grammar, or names a loss.
        KeyError: A module does not exist; the message names the nearest ones, and points.
    """

    def __init__(self, model: nn.Module, paths: dict[str, str], where: str = 'model') -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        self.model, self.where = model, where
        self.paths = {name: self._parse(name, path, modules) for name, path in paths.items()}
        self._meant = {
            name: child_of(modules, path.module, path.index[0]) if path.index else ''
            for name, path in self.paths.items()
        }  # the module that an index may be meant for
        losses = losses_of(modules)
        for name, path in self.paths.items():
            if path.module not in modules:
                raise KeyError(
                    f'{self._call(name)}: {where} has no module {path.module!r}'
                    f'{nearest(path.module, tappable(modules), otherwise=".")} Mend: '
                    f'{_mend(name, where)}'
                )
            if within(path.module, losses):
                raise ValueError(self._is_a_loss(name, modules, losses))

    def only(self, names: Iterable[str]) -> 'Taps':
        """Return some of the taps of the same model."""
        part = copy.copy(self)
        part.paths = {name: self.paths[name] for name in names}
        return part

    def _parse(self, name: str, path: str, modules: dict[str, nn.Module]) -> TapPath:
        try:
            return TapPath.parse(path)
        except ValueError as error:
            dotted = dotted_path(modules, path) if isinstance(path, str) else ''
            meant = f'. Mend: {dotted!r}' if dotted else ''
            raise ValueError(f'tap {name!r} of {self.where}: {error}{meant}') from None

    def _is_a_loss(self, name: str, modules: dict[str, nn.Module], losses: list[str]) -> str:
        path = self.paths[name].module
        loss = min((owner for owner in losses if within(path, [owner])), key=len)
        parent = loss.rpartition('.')[0]
        offered = tappable(modules)
        others = [module for module in offered if module.rpartition('.')[0] == parent]
        others = others or offered[-4:]
        return (
            f'{self._call(name)}: {loss!r} is a loss ({type(modules[loss]).__name__}): it gives a '
            'number, and nothing that could be compared. Mend: tap what comes before it, one of '
            f'{others[:4]}'
        )

    def _call(self, name: str) -> str:
        return f"tap {name!r} of {self.where} ('{self.paths[name].text}')"

    @contextmanager
    def recording(self) -> Iterator[dict[str, _Reading]]:
        """Hook the modules for the forwards inside the block, and unhook them whatever happens."""
        seen, handles = self.hook()
        try:
            yield seen
        finally:
            remove(handles)

    def hook(self) -> tuple[dict[str, _Reading], list[Any]]:
        """Install the hooks and return where they write, and their handles."""
        seen = {name: _Reading() for name in self.paths}
        # Looked up now: the Runner replaces SyncBN modules after the model was built.
        modules = {name: self.model.get_submodule(path.module) for name, path in self.paths.items()}
        handles: list[Any] = []
        try:
            for name in seen:
                handles += self._hook_one(name, modules[name], seen[name])
        except BaseException:
            remove(handles)
            raise
        return seen, handles

    def _hook_one(self, name: str, module: nn.Module, reading: _Reading) -> list[Any]:
        path, where = self.paths[name], self._call(name)

        def take(value: Any) -> None:
            value = path.select(value, where, self._meant[name])
            _refuse_no_tensor(value, path, where)
            reading.values.append(value)
            if not torch.compiler.is_compiling():
                reading.versions.append(value._version)

        return SIDES[path.side].hook(module, path, take, where)

    def read(self, seen: dict[str, _Reading]) -> dict[str, Any]:
        """Return tap name -> tensor (a list of them for ``#*``) and check what happened.

        Raises:
            RuntimeError: A tap never ran, ran several times without ``#``, or was changed in place
                after it was read.
        """
        record: dict[str, Any] = {}
        for name, reading in seen.items():
            path, values = self.paths[name], reading.values
            if not values:
                raise RuntimeError(self._never_ran(name))
            if any(v._version != old for v, old in zip(values, reading.versions, strict=False)):
                raise RuntimeError(
                    f'{self._call(name)} was changed in place after it was read (an in-place ReLU '
                    'or add follows it). Mend: tap the module that makes the change, or set its '
                    'inplace=False'
                )
            if path.call is None and len(values) > 1:
                raise RuntimeError(
                    f'{self._call(name)} ran {len(values)} times in one forward. Mend: '
                    f"'{path.module}#0' … '{path.module}#{len(values) - 1}' for one call, "
                    f"'{path.module}#*' for the list"
                )
            if path.call not in (None, '*') and int(path.call) >= len(values):
                raise RuntimeError(
                    f'{self._call(name)}: the module ran {len(values)} times, so #{path.call} is '
                    f'not there. Mend: #0 … #{len(values) - 1}, in both members if both are read '
                    '(FPN levels)'
                )
            record[name] = list(values) if path.call == '*' else values[int(path.call or 0)]
        return record

    def _never_ran(self, name: str) -> str:
        path = self.paths[name]
        module = self.model.get_submodule(path.module)
        inner = {f'{path.module}.{child}': m for child, m in module.named_modules() if child}
        below = tappable(inner)
        direct = [child for child in below if child.count('.') == path.module.count('.') + 1]
        children = (direct or below)[:4]
        if type(module).forward is nn.Module.forward:
            meant = self._meant[name]
            return (
                f'{self._call(name)} never ran: a {type(module).__name__} is a container and has '
                f'no forward. Mend: {repr(meant) if meant else f"tap one of {children}"}'
            )
        return (
            f"{self._call(name)} never ran in this forward. A teacher runs mode='tensor', which "
            "leaves out auxiliary heads and losses; a student runs mode='loss'; and mmseg calls a "
            "head's forward past its hooks. Mend: tap a module that this forward runs"
            f'{", for instance one of " + str(children) if children else ""}'
        )


def _mend(name: str, where: str) -> str:
    """Return how a tap is found: by a point, or in the doctor's list."""
    return (
        "'auto:logits' is its class map, 'auto:feature' what its classifier reads; mmkd doctor "
        f"CONFIG --taps lists what ran. Of this member alone: taps=dict({name}='…') in {where}"
    )


def _refuse_no_tensor(value: Any, path: TapPath, where: str) -> None:
    if value is None:
        raise TypeError(
            f'{where}: the {path.side} is a NoneType, not a Tensor. A fused attention kernel '
            "returns None in place of probabilities. Mend: ':query' and ':key' in its place; "
            "options=dict(attn_implementation='eager') of a Hugging Face model, without dropout of "
            'attention; or another module'
        )
    if not isinstance(value, Tensor):
        size = f' of {len(value)}' if hasattr(value, '__len__') else ''
        key = '[0][i]' if path.side == 'input' and not path.index else '[i]'
        raise TypeError(
            f'{where}: the {path.side} is a {type(value).__name__}{size}, not a Tensor. Mend: '
            f"choose one with '{path.text}{key}'"
        )
