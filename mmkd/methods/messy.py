"""Messy Collaboration: a part of the student's labels is wrong."""

from dataclasses import replace
from typing import Any

from mmkd.methods.kd import kd
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.soft_randomization import PAPER, TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='messy')
@needs(tasks=TASKS, paper=PAPER)
def messy(
    pair: Pair,
    rate: float = 0.2,
    tau: float | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """A part of the student's labels is wrong; the teacher, who learned from clean ones, mends it.

    Plain distillation (``kd``) with its defaults, and a fifth of the labels wrong: of label maps,
    of the regions. The paper tries a grid of rates that is not known to us.

    Args:
        pair: The pair.
        rate: Share of wrong labels.
        tau: Temperature, see ``kd``.
        weight: Of the objective, see ``kd``.
        task_weight: Of the student's own losses, see ``kd``.
    """
    noise: dict[str, Any] = dict(type='LabelFlip', rate=rate)
    if pair.kind == 'segmentation':
        noise['per'] = 'region'
    return replace(kd(pair, tau, weight, task_weight), noise=[noise])
