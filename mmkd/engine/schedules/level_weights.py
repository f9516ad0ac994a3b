"""The weights that levels switch on and off, in the model that is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.engine.schedules.levels import TASK
from mmkd.engine.schedules.targets import Target
from mmkd.losses.as_loss import as_loss

_LEVELLED = '_levelled'  # of what a level has weighed: its weight, and the full one


class LevelWeights:
    """Objectives by name, and ``'task'`` for the students' own losses, each with its full weight.

    Args:
        model: A Distiller, with the weights of its config.
        names: What levels name.

    Raises:
        KeyError: There is no such objective.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self._owners = {name: _owner(model, name) for name in names}
        self._full = {name: _full_weight(owner, name) for name, owner in self._owners.items()}

    def learn_from(self, active: set[str]) -> None:
        """Give these their weights, and all others weight 0."""
        for name, owner in self._owners.items():
            weight = self._full[name] * (name in active)
            setattr(owner, _key(name), weight)
            owner.__dict__[_LEVELLED] = (weight, self._full[name])

    def mean_loss(self, names: Sequence[str], losses: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of objectives' losses without weights: the config's and the losses' own.

        Args:
            names: The objectives.
            losses: What a step has logged, ``<name>.loss`` each.
        """
        plain = [
            losses[f'{name}.loss'].detach()
            / (self._full[name] * as_loss(self._owners[name].loss).loss_weight)
            for name in names
        ]
        return torch.stack(plain).mean()


def _full_weight(owner: Any, name: str) -> float:
    """Return a weight as the config has it, also where a training before left it at 0."""
    now = getattr(owner, _key(name))
    left, full = owner.__dict__.get(_LEVELLED, (None, now))
    return full if now == left else now


def _key(name: str) -> str:
    return 'task_weight' if name == TASK else 'weight'


def _owner(model: Any, name: str) -> Any:
    return model if name == TASK else Target(f'{name}.weight').owner(model.objectives)


def forget_silence(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam begin anew with what has had no gradient yet.

    Its steps have counted on with gradients of 0, so its bias correction is over, and the first
    gradient of a new level would move a weight by several times the learning rate.
    """
    silent = [
        parameter
        for parameter, state in optimizer.state.items()
        if 'exp_avg_sq' in state and not state['exp_avg_sq'].any()
    ]
    for parameter in silent:
        del optimizer.state[parameter]
