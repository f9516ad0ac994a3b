"""Any module as a loss: the one place that looks at what a module without the contract has."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from mmkd.losses.base import Loss
from mmkd.losses.roles import ALIKE, Many, Map, OfBatch, Role, Running
from mmkd.utils.checks import check_keys

# What roles were called until 0.1, and still may be.
_KINDS = {'lists': Many, 'streams': Running}
_BEFORE = (*_KINDS, 'class_logits', 'needs', 'takes_tokens', 'whole')


def as_loss(module: nn.Module) -> Loss:
    """Return a loss as it is; of a plain module, a view that fills in what a :class:`Loss` says.

    >>> as_loss(nn.MSELoss()).fixed, as_loss(nn.MSELoss()).critic_loss
    ((), None)
    """
    return module if isinstance(module, Loss) else cast(Loss, _Plain(module))


class _Plain:
    """What a plain module says of itself, else what every loss says."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, word: str) -> Any:
        if hasattr(self._module, word):
            return getattr(self._module, word)
        value = inspect.getattr_static(Loss, word)
        bind = getattr(value, '__get__', None)  # of methods and properties
        return value if bind is None else bind(self._module, type(self._module))


def role_of(module: nn.Module, argument: str, of_batch: bool = False) -> Role:
    """Return how an argument of a loss arrives.

    Until 0.1 a class said so in the attributes ``needs``, ``class_logits``, ``takes_tokens``,
    ``lists``, ``streams`` and ``whole``; where it has them, they decide.

    Args:
        module: Any loss.
        argument: Of its ``forward``.
        of_batch: Whether it is read of the batch, and not of members.

    Raises:
        ValueError: ``needs`` is no tuple of 'channels' and 'size'.

    >>> role_of(nn.MSELoss(), 'target', of_batch=True)
    OfBatch(whole=False)
    """
    role = as_loss(module).roles.get(argument)
    before = {word: getattr(module, word) for word in _BEFORE if hasattr(module, word)}
    if of_batch:
        own = isinstance(role, OfBatch) and role.whole
        return OfBatch(argument in before['whole'] if 'whole' in before else own)
    if not isinstance(role, Map):  # what is meant for the batch is brought to nothing else
        role = Map() if role is None else Map(alike=())
    return _as_said_before(module, argument, role, before) if before else role


def _as_said_before(loss: Any, argument: str, role: Map, before: Mapping[str, Any]) -> Map:
    kind = type(role)
    for word, other in _KINDS.items():
        if argument in before.get(word, ()):
            kind = other
        elif word in before and kind is other:
            kind = Map
    role = kind(role.alike, role.class_logits, role.tokens)
    if 'needs' in before:
        role = replace(role, alike=_checked_needs(loss, before['needs']))
    if 'class_logits' in before:
        role = replace(role, class_logits=argument in before['class_logits'])
    if 'takes_tokens' in before:
        role = replace(role, tokens=bool(before['takes_tokens']))
    return role


def _checked_needs(loss: Any, needs: Any) -> tuple[str, ...]:
    if not isinstance(needs, tuple | list) or not set(needs) <= set(ALIKE):
        raise ValueError(
            f'needs of {type(loss).__name__} must be a tuple of {ALIKE}, got {needs!r}. Mend: '
            "needs = ('size',), or () for nothing"
        )
    return tuple(needs)


def check_roles(loss: nn.Module) -> None:
    """Refuse roles that are none, or of arguments that ``forward`` does not have.

    A subclass with another ``forward`` may leave the roles of its base as they are.

    Raises:
        TypeError: Names the argument, with its nearest match, or what stands in place of a role.
    """
    roles, where = as_loss(loss).roles, f'roles of {type(loss).__name__}'
    if not isinstance(roles, Mapping):
        raise TypeError(f'{where} must be a dictionary, got {roles!r}. Mend: dict(student=Many())')
    parameters = inspect.signature(loss.forward).parameters.values()
    if _are_of_its_forward(loss) and all(p.kind != p.VAR_KEYWORD for p in parameters):
        check_keys(roles, [p.name for p in parameters], where)
    for argument, role in roles.items():
        if not isinstance(role, Map | OfBatch):
            raise TypeError(
                f'{where}: {argument} must be Map(…), Many(…), Running(…) or OfBatch(…), got '
                f'{role!r}. Mend: {argument}=Map()'
            )


def _are_of_its_forward(loss: nn.Module) -> bool:
    """Return whether the roles were said by the loss itself, or by a class that has its forward."""
    first = next(one for one in type(loss).__mro__ if {'roles', 'forward'} & vars(one).keys())
    return 'roles' in vars(loss) or 'roles' in vars(first)
