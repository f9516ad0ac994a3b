"""Endings: the modules that lead from one tap of a model to another, run again on other tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from mmkd.distiller.taps.tappable import is_dropout
from mmkd.losses.functional import state_in_dtype
from mmkd.structures.trace import Call, Trace, is_same, tensors

_PLAIN = (type(None), bool, str)  # what a call may be given beside its tensor: no sizes of an image


@dataclass(frozen=True)
class Link:
    """One module of an ending.

    Args:
        path: Of the module in its model.
        place: Where in its arguments the tensor stands.
        given: Its arguments, by place or by name.
        index: Where in its output the next tensor stands.
    """

    path: str
    place: tuple
    given: dict[int | str, Any]
    index: tuple

    def run(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return what the module makes of a tensor, in its dtype."""
        name, *inner = self.place
        given = {**self.given, name: _put(self.given[name], inner, x)}
        args = [value for key, value in given.items() if isinstance(key, int)]
        named = {key: value for key, value in given.items() if isinstance(key, str)}
        module = model.get_submodule(self.path)
        own = [one.dtype for one in (*module.parameters(), *module.buffers())]
        if all(dtype == x.dtype or not dtype.is_floating_point for dtype in own):
            output = module(*args, **named)
        else:
            output = functional_call(module, state_in_dtype(module, x.dtype), tuple(args), named)
        for key in self.index:
            output = output[key]
        return output


def run_links(model: nn.Module, links: Sequence[Link], x: Tensor) -> Tensor:
    """Return what the modules of an ending make of a tensor, one after the other.

    >>> import torch
    >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> run_links(model, [Link('0', (0,), {0: None}, ())], torch.tensor([-1., 2.]))
    tensor([0., 2.])
    """
    for link in links:
        x = link.run(model, x)
    return x


@dataclass(frozen=True)
class Search:
    """What leads to the end of a traced forward.

    Args:
        links: From the start; None: nothing but modules does not lead there.
        nearest: Tap from which they do; '' where there is none.
    """

    links: tuple[Link, ...] | None
    nearest: str = ''


def find_links(role: Trace, start: Tensor, end: Tensor) -> Search:
    """Return the modules that lead from one tensor of a traced forward to another.

    Each reads what the one before made, and no other tensor. Whether what lies between is theirs
    alone, running them tells: what a function changed in place leaves no trace here.

    Args:
        role: The forward.
        start: A tensor of it.
        end: Another.
    """
    reached: dict[int, tuple[int, str]] = {}  # tensor -> what read it first, and its tap
    waiting: list[tuple[Tensor, int, tuple[Link, ...]]] = [(end, len(role.calls), ())]
    seen: set[tuple[int, int]] = set()  # what is changed in place is one tensor at several calls
    while waiting:
        wanted, before, links = waiting.pop()
        if is_same(wanted, start):
            return Search(links)
        if (id(wanted), before) in seen:
            continue
        seen.add((id(wanted), before))
        for place in range(before):  # the last one is tried first: a module before what is in it
            call = role.calls[place]
            link = _link(call, wanted)
            if link is not None:
                read = _follow(call.inputs, link.place)
                tap = reached.get(id(read), (place, _tap_of(call, read, role)))[1]
                reached[id(read)] = place, tap
                rest = links if is_dropout(call.module) else (link, *links)  # asleep, if ever
                waiting.append((read, place, rest))
    taps = sorted(one for one in reached.values() if one[1])
    return Search(None, taps[0][1] if taps else '')


def _link(call: Call, wanted: Tensor) -> Link | None:
    """Return how a call makes a tensor, None where it does not, or of several."""
    index = next((index for index, made in tensors(call.output) if is_same(made, wanted)), None)
    read = list(tensors(call.inputs))
    if index is None or len(read) != 1 or not isinstance(read[0][1], Tensor):
        return None
    place, given = read[0][0], dict(call.inputs)
    given[place[0]] = _put(given[place[0]], place[1:], None)
    if not all(_is_plain(value) for value in given.values()):
        return None
    return Link(call.path, place, given, index)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _put(value: Any, place: Sequence, x: Any) -> Any:
    """Return a nested value with another tensor at a place.

    >>> _put((None,), (0,), 'x'), _put(None, (), 'x')
    (('x',), 'x')
    """
    if not place:
        return x
    if isinstance(value, dict):
        return {**value, place[0]: _put(value[place[0]], place[1:], x)}
    items = list(value)
    items[place[0]] = _put(items[place[0]], place[1:], x)
    return type(value)(items)


def _follow(value: Any, place: Sequence) -> Any:
    for key in place:
        value = value[key]
    return value


def _tap_of(call: Call, read: Tensor, role: Trace) -> str:
    """Return the tap of what a call read; '' where hooks do not see the call."""
    made = role.maker(read)
    if made is not None:
        return role.tap(*made)
    return role.tap(call, side=':input') if call.hooked else ''
