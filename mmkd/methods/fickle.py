"""Fickle Teacher: the teacher's dropout stays on."""

from dataclasses import replace

from mmkd.methods.kd import kd
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.soft_randomization import PAPER, TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='fickle')
@needs(tasks=TASKS, paper=PAPER, cost='0.25–0.37 of the step')
def fickle(
    pair: Pair,
    tau: float | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The teacher's dropout stays on while it teaches, with a new mask in each step.

    Plain distillation (``kd``) with its defaults, and mmkd.TeacherDropout; the teacher must have
    dropout. The paper trains this one for 350 passes, all else for 200.

    Args:
        pair: The pair.
        tau: Temperature, see ``kd``.
        weight: Of the objective, see ``kd``.
        task_weight: Of the student's own losses, see ``kd``.
    """
    return replace(kd(pair, tau, weight, task_weight), noise=[dict(type='TeacherDropout')])
