"""Distillers without random numbers, their optimizers and a look at each step, for the tests of
phases.
"""

import copy
from typing import Any

import torch
from helpers.tiny import build, distiller, holistic, objectives, segmentor
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd.engine.optimizers.phase_constructor import PhaseOptimWrapperDict

STUDENT_PHASE = dict(
    name='student', optimizer='student', task=True, objectives=['pixel', 'holistic']
)
CRITIC_PHASE = dict(name='critic', optimizer='critic', critics=['holistic'])
LOGIT = dict(name='logit', optimizer='student', task=True, objectives=['pixel', 'holistic'])
FEATURE = dict(name='feature', optimizer='feature', objectives=['pair'])
THREE = [LOGIT, FEATURE, CRITIC_PHASE]


def quiet_distiller(phases: list[dict] | None = None, **changes: Any) -> Any:
    """Return a Distiller without random numbers: no dropout, norms frozen, hinge critic on 4×4
    logits.
    """
    terms = objectives(holistic=holistic(mode='hinge'))
    cfg = (
        distiller(
            student=dict(model=segmentor(4, dropout=0.0, size=32)),
            teacher=dict(model=segmentor(8, dropout=0.0, size=32), allow_untrained=True),
            objectives=terms,
            phases=phases,
        )
        | changes
    )
    torch.manual_seed(3)
    model = build(cfg)
    for name, module in model.named_modules():
        # spectral norm moves its estimate at every call of the critic in train mode
        if isinstance(module, nn.BatchNorm2d) or name.endswith('.critic'):
            module.eval()
    return model


def named(model: Any, *kinds: str) -> dict[str, Tensor]:
    """Return the parameters of students and connectors ('students'), or of critics."""
    return {n: p for n, p in model.named_parameters() if ('.critic.' in n) == ('critics' in kinds)}


def wrappers(
    model: Any,
    kind: type = OptimWrapper,
    lr: float = 0.1,
    names: tuple[str, ...] = ('student', 'critic'),
    **kwargs: Any,
) -> PhaseOptimWrapperDict:
    """Return SGD wrappers by name; every optimizer but 'critic' holds the students."""
    held = {
        name: named(model, 'critics' if name == 'critic' else 'students').values() for name in names
    }
    return PhaseOptimWrapperDict(
        **{
            name: kind(optimizer=torch.optim.SGD(held[name], lr=lr), **copy.deepcopy(kwargs))
            for name in names
        }
    )


def record_steps(optim: OptimWrapperDict, model: Any) -> list[tuple[str, dict[str, Tensor]]]:
    """Return a list that grows by (optimizer, name -> gradient) at every step."""
    names, steps = {id(p): n for n, p in model.named_parameters()}, []
    for key, wrapper in optim.items():

        def note(optimizer: Any, args: Any, kwargs: Any, key: str = key) -> None:
            held = [
                p for group in optimizer.param_groups for p in group['params'] if p.grad is not None
            ]
            steps.append((key, {names[id(p)]: p.grad.clone() for p in held}))

        wrapper.optimizer.register_step_pre_hook(note)
    return steps
