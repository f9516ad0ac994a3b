"""What every loss shares: its weight and name, and what it says of itself."""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses.checks import OTHER_CLASSES as OTHER_CLASSES
from mmkd.losses.checks import check_logits as check_logits
from mmkd.losses.checks import check_mask as check_mask
from mmkd.losses.checks import shape_of as shape_of
from mmkd.losses.functional import call_in_dtype as call_in_dtype
from mmkd.losses.functional import fill_masked as fill_masked
from mmkd.losses.functional import first_derivative_only as first_derivative_only
from mmkd.losses.functional import infinite_to_nan as infinite_to_nan
from mmkd.losses.functional import no_autocast as no_autocast
from mmkd.losses.functional import unit_vectors as unit_vectors
from mmkd.losses.functional import widen as widen
from mmkd.losses.roles import Many as Many
from mmkd.losses.roles import Map as Map
from mmkd.losses.roles import OfBatch as OfBatch
from mmkd.losses.roles import Role as Role
from mmkd.losses.roles import Running as Running
from mmkd.utils.checks import check_positive

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """Where a loss stands in a Distiller.

    Args:
        objective: Name of the objective that holds it.
        reads: Argument -> ``'member.tap'``, ``'batch.name'`` or a list of them.
        connectors: The arguments that pass a connector.
        runs: Member -> what runs it, with its ``role``, ``model`` and ``taps``; a teacher's has
            ``watch(batch)``, which returns what its taps see.
    """

    objective: str
    reads: Mapping[str, Any]
    connectors: Container[str]
    runs: Mapping[str, Any]


class Loss(nn.Module):
    """A loss, and all that it may say of itself; a plain ``nn.Module`` has the defaults.

    ``loss_weight`` is inside the value that is returned, ``loss_name`` follows mmsegmentation. What
    a class says is what a Distiller acts on, by one rule for every loss:

    * ``connectors=dict(student='auto')`` makes equal what the argument's role calls ``alike``, of
      (N, C, H, W), (N, C) or, where it says ``tokens``, (N, L, D). Other shapes are refused, and
      so is 'auto' where nothing need be alike. On the teacher's side it never has weights.
    * ``class_logits`` must be the scores of the member's own classes. Members of other classes are
      refused, and no convolution between classes is ever trained. Where two such maps differ in
      size and no connector was given, the teacher's is resized, and the log says so. An argument
      with a connector of one's own is left alone.

    Args:
        loss_weight: Factor inside the returned value, above 0.
        loss_name: Key in mmsegmentation's logs; None means ``loss_`` + the class in snake case.

    Attributes:
        roles: Argument -> how it arrives, see :mod:`mmkd.losses.roles`. An argument that is not
            named is a :class:`Map`, or :class:`OfBatch` where the batch is read.
        fixed: Numbers that are read when the loss is built and not at each call, so that no
            schedule can change them.
        ignore_index: The label that does not count; where a config leaves it out, a Distiller makes
            it that of the student's head. None: the loss reads no labels.
        least_images: Fewest images of a batch of which it may be other than 0.
        diagnostics: What the last call found besides its value, name -> 0-d tensor; logged as
            ``<objective>.<name>``.
        build: Method ``build(**reads) -> str`` of a loss with parts that only shapes decide: it
            makes them and says what it made, '' for nothing. None: there are none.
        critic_loss: Method of a loss with a ``critic``, which takes what ``forward`` takes and
            returns what the critic learns from. None: it has no critic.

    Examples:
        >>> class Squared(Loss):
        ...     roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)))
        ...     def forward(self, student, teacher):
        ...         return self.loss_weight * (student.norm() - teacher.norm()).square()
        >>> Squared(loss_weight=2.)(torch.tensor([3., 4.]), torch.tensor([0., 4.]))  # 2 (5 − 4)²
        tensor(2.)
    """

    roles: Mapping[str, Role] = _NOTHING
    fixed: tuple[str, ...] = ()
    ignore_index: Any = None
    least_images: int = 1
    diagnostics: Mapping[str, Tensor] = _NOTHING
    loss_weight: float = 1.0
    build: Callable[..., str] | None = None
    critic_loss: Callable[..., Tensor] | None = None

    def __init__(self, loss_weight: float = 1.0, loss_name: str | None = None) -> None:
        super().__init__()
        check_positive('loss_weight', loss_weight)
        self.loss_weight = loss_weight
        self.diagnostics = {}
        self._loss_name = (
            f'loss_{snake_case(type(self).__name__)}' if loss_name is None else loss_name
        )

    @property
    def loss_name(self) -> str:
        """Key of this loss in mmsegmentation's logs."""
        return self._loss_name

    def running(self) -> Any:
        """Return empty statistics, for an argument that is :class:`Running`.

        They have ``update(tensor)``, of one more member, and ``example``, or else ``mean_prob``,
        whose shape stands for them where a connector is fitted to it.

        Raises:
            NotImplementedError: The loss has such a role, but not this method.
        """
        raise NotImplementedError(
            f'{type(self).__name__} names an argument of running statistics, but does not make '
            'them. Mend: a method running() that returns them empty'
        )

    def bind(self, place: Place) -> None:
        """Refuse a place that the loss was not made for; a Distiller asks before it trains.

        It asks before the loss is run for the first time, and again once its parts are made.

        Args:
            place: Where the reads come from.
        """

    def stand_in(self, generator: torch.Generator) -> str:
        """Put random parts in place of those that wait for data, to measure values and costs.

        Args:
            generator: Of the random numbers, on the CPU.

        Returns:
            What was done, after 'objective … has'; '' for nothing.
        """
        return ''


def snake_case(name: str) -> str:
    """Turn a class name into snake case.

    >>> snake_case('PixelWiseKLLoss')
    'pixel_wise_kl_loss'
    """
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()
