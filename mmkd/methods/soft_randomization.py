"""Soft Randomization: the student sees noisy images."""

from dataclasses import replace

from mmkd.methods.kd import kd
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification')
PAPER = 'Arani et al., WACV 2021, arXiv 1910.05057'


@METHODS.register_module(name='soft-randomization')
@needs(tasks=TASKS, paper=PAPER)
def soft_randomization(
    pair: Pair,
    std: float = 0.1,
    tau: float | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The student sees noisy images, the teacher clean ones; it buys robustness.

    Plain distillation (``kd``) with its defaults, and Gaussian noise of 0.1 on images whose range
    is 1, in both of the student's terms. The paper tries a grid that is not known to us.

    Args:
        pair: The pair.
        std: Of the noise, of images whose range is 1.
        tau: Temperature, see ``kd``.
        weight: Of the objective, see ``kd``.
        task_weight: Of the student's own losses, see ``kd``.
    """
    noise: list[dict] = [dict(type='GaussianInput', std=std)]
    return replace(kd(pair, tau, weight, task_weight), noise=noise)
