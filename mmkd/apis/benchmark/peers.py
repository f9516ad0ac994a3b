"""The same pair in mmrazor, where that is installed."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from mmkd.apis.benchmark.pair import Pair
from mmkd.losses import PixelWiseKLLoss


def mmrazor_case(pair: Pair) -> tuple[Callable[[], Any] | None, str]:
    """Return a training step of mmrazor's SingleTeacherDistill, or None, and what came of it.

    It distils the same models with its own KLDivergence where the config has a pixel-wise
    objective; pair-wise and holistic have no counterpart there, so it does less.
    """
    if find_spec('mmrazor') is None:
        return None, 'mmrazor is not installed'
    pixel = next(
        (o for o in pair.full.objectives.values() if isinstance(o.loss, PixelWiseKLLoss)), None
    )
    if pixel is None or len(pair.peer_students) != 1 or len(pair.peer_teachers) != 1:
        return (
            None,
            'mmrazor: nothing to compare, there is no pixel-wise objective of one student and one '
            'teacher',
        )
    sources = {}
    for role in ('student', 'teacher'):
        member, tap = pixel.reads[role].split('.')
        runs = pair.full.runs[member].taps
        sources[role] = runs.paths[tap].module
    try:
        step = _step(pair, sources)
        step()
    except Exception as error:  # on a newer torch it fails in many ways, most of them at import
        return None, f'mmrazor does not run: {type(error).__name__}: {error}'.splitlines()[0][:200]
    return (
        step,
        'mmrazor: SingleTeacherDistill in fp32 with KLDivergence on the logits, no other objective',
    )


def _step(pair: Pair, sources: dict[str, str]) -> Callable[[], Any]:
    from mmrazor.models.algorithms import SingleTeacherDistill

    model: Any = SingleTeacherDistill(
        architecture=copy.deepcopy(pair.peer_students[0]),
        teacher=copy.deepcopy(pair.peer_teachers[0]),
        distiller=_distiller(**sources),
    ).to(pair.device)
    model.train()  # its train() returns None
    wrapper = pair.plain_wrapper(next(iter(pair.full.students)), model, pair.peer_optimizers)
    return lambda: model.train_step(pair.data, wrapper)


def _distiller(student: str, teacher: str) -> dict:
    return dict(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=dict(logits=dict(type='mmrazor.ModuleOutputs', source=student)),
        teacher_recorders=dict(logits=dict(type='mmrazor.ModuleOutputs', source=teacher)),
        distill_losses=dict(loss_kl=dict(type='mmrazor.KLDivergence', tau=1)),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
