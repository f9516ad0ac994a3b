"""PID: internal representations, progressively."""

from typing import Any

from mmkd.methods.id import PAPER, TASKS, id
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sid import in_levels
from mmkd.registry import METHODS


@METHODS.register_module(name='pid')
@needs(tasks=TASKS, paper=PAPER, hands_on_to=id)
def pid(
    pair: Pair,
    length: int | None = None,
    threshold: float | None = None,
    window: int | None = None,
    **options: Any,
) -> Plan:
    """As ``id``, one layer after the other from the bottom up, then the labels (progressive).

    A layer is left when the next one comes; ``sid`` keeps it. Defaults as there.

    Args:
        pair: The pair.
        length: Iterations of a level.
        threshold: Of the states' loss.
        window: Iterations whose mean is compared with the threshold.
        options: Those of ``id``.
    """
    return in_levels(pair, 'progressive', length, threshold, window, options)
