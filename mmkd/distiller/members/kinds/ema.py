"""EMA: a copy whose weights are the running mean of a student's."""

import torch
from torch import Tensor, nn

from mmkd.distiller.members.kinds.follow import Follow, agree, take_buffers
from mmkd.registry import KINDS
from mmkd.utils.checks import check_choice, check_fraction, check_share

BUFFERS = ('copy', 'mean')


@KINDS.register_module(name='ema')
class EMA(Follow):
    r"""A copy whose weights are an exponential moving average of the student's.

    After step k of the student's optimizer, k = 1, 2, …

    .. math:: \theta' \leftarrow m_k \theta' + (1 - m_k) \theta

    from θ' = θ before the first step. m_k is the momentum, with ``warm_up`` the smaller of it and
    (1 + k) / (10 + k), so that the first weights are soon forgotten. The copy runs in eval mode, by
    the running statistics that its buffers hold: copied from the student, or averaged likewise.

    Args:
        momentum: From 0, the student itself, to below 1; a schedule may reach 1.
        warm_up: Whether the momentum begins small.
        buffers: 'copy' or 'mean'; whole numbers are copied in any case.

    Raises:
        ValueError: The momentum is out of range, ``buffers`` is neither.

    Examples:
        >>> own, student = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = own.weight.data.fill_(1.), student.weight.data.fill_(2.)
        >>> EMA(momentum=0.75).after_step(own, student, 1)
        >>> own.weight.item()  # 3/4 · 1 + 1/4 · 2
        1.25
    """

    numbers = ('momentum',)

    def __init__(
        self, momentum: float = 0.999, warm_up: bool = False, buffers: str = 'copy'
    ) -> None:
        check_fraction('momentum', momentum)
        check_choice('warm_up', warm_up, (True, False))
        check_choice('buffers', buffers, BUFFERS)
        self.momentum, self.warm_up, self.buffers = float(momentum), warm_up, buffers

    def check_number(self, name: str, value: float) -> None:
        """Refuse a momentum that is not from 0 to 1.

        Raises:
            ValueError: Names it.
        """
        check_share(name, value)

    def momentum_at(self, step: int) -> float:
        """Return the momentum after a step.

        >>> EMA(momentum=0.9, warm_up=True).momentum_at(2)  # 3 / 12
        0.25
        """
        return min(self.momentum, (1 + step) / (10 + step)) if self.warm_up else self.momentum

    @torch.no_grad()
    def after_step(self, own: nn.Module, student: nn.Module, step: int) -> None:
        """Average the parameters; copy or average the buffers."""
        share = 1 - self.momentum_at(step)
        pairs: list[tuple[Tensor, Tensor]] = list(
            zip(own.parameters(), student.parameters(), strict=True)
        )
        if self.buffers == 'copy':
            take_buffers(own, student)
        else:
            pairs += zip(own.buffers(), student.buffers(), strict=True)
        for mine, other in pairs:
            if mine.is_floating_point():
                mine.lerp_(other, share)
            else:
                mine.copy_(other)
        if self.buffers == 'mean':
            agree(own.buffers())
