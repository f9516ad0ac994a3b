"""EnD²: the distribution of an ensemble, by its likelihood."""

from mmkd.methods.end import TASKS, of_ensemble
from mmkd.methods.pair import Pair
from mmkd.methods.plan import SEVERAL, Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='end2')
@needs(SEVERAL, TASKS, 'Malinin et al., ICLR 2020, arXiv 1905.00076')
def end2(
    pair: Pair,
    temperature: float | None = None,
    smoothing: float = 1e-3,
    begin: int | None = None,
    length: int | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
    max_norm: float = 10.0,
) -> Plan:
    """The student's logits are a Dirichlet under which the teachers' predictions are likely.

    Its test keeps what the teachers disagree about: mmkd.UncertaintyMetric(outputs='dirichlet').

    Defaults: T = 10 for a third of the run, then down to 1 over a third, as in the paper; of label
    maps T = 3, from which a run of a few hundred iterations still returns, and weight 0.1 beside
    the labels; of classes of images weight 1 and no labels. T² is inside the loss. Gradients are
    clipped at 10, as the authors' trainer does, and 1e-3 of the teachers' predictions is uniform,
    the authors' default (1e-4 in a reproduction's runs). ``end2-proxy`` needs neither: begin with
    that.

    Args:
        pair: The pair.
        temperature: T at the beginning.
        smoothing: Share of the uniform distribution in the teachers' predictions.
        begin: Iteration at which T begins to fall: a third of the run.
        length: Iterations over which it falls: a third of the run.
        weight: Of the objective.
        task_weight: Of the student's own losses.
        max_norm: Longest gradient of the student.
    """
    temperature = of_task(pair, temperature, segmentation=3.0, classification=10.0)
    anneal = dict(
        target='end2.loss.temperature',
        type='anneal',
        start=temperature,
        end=1.0,
        begin=_third(pair, 'begin', begin),
        length=_third(pair, 'length', length),
    )
    return of_ensemble(
        pair,
        'end2',
        dict(type='DirichletNLLLoss', temperature=temperature, smoothing=smoothing),
        of_task(pair, weight, segmentation=0.1, classification=1.0),
        task_weight,
        hooks=[dict(type='mmkd.ScheduleHook', schedules=[anneal])],
        optimizers=dict(student=dict(clip_grad=dict(max_norm=max_norm))),
    )


def _third(pair: Pair, option: str, given: int | None) -> int:
    if given is None and pair.iterations is None:
        pair.fail(
            f'{option} is a third of the run, whose length nothing says here. Mend: '
            f"method=dict(type='end2', begin=…, length=…), or train_cfg=dict(max_iters=…)"
        )
    return max(1, (pair.iterations or 0) // 3) if given is None else given
