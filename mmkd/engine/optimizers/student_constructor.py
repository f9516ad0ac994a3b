"""An optimizer of a student by a constructor that was made for its model alone."""

import copy
from itertools import chain
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT
from torch import nn

from mmkd.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StudentOptimWrapperConstructor:
    """Let a constructor that knows a model by its names, as those of layer decay, see the student.

    ``mmkd train`` and the other tools put it around such a constructor. Connectors and the losses'
    own parameters are one group more, of the optimizer's own rate and decay.

    Args:
        optim_wrapper_cfg: Config of the wrapper; ``of`` in it names the constructor.
        paramwise_cfg: Its options.

    Raises:
        ValueError: The model has several students.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.config = copy.deepcopy(optim_wrapper_cfg)
        self.of = self.config.pop('of')
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Return the wrapper, of all that is trained; of a plain model its constructor's own."""
        model = getattr(model, 'module', model)
        students: Any = getattr(model, 'students', dict(student=model))
        if len(students) > 1:
            raise ValueError(
                f'the constructor {self.of!r} of optim_wrapper sees one model, and there are '
                f'{len(students)} students. Mend: optim_wrapper=dict(constructor='
                "'mmkd.PhaseOptimWrapperConstructor', …=dict(params=[…], optimizer=…), …), or "
                'without a constructor'
            )
        options = dict(
            type=self.of, optim_wrapper_cfg=self.config, paramwise_cfg=self.paramwise_cfg
        )
        wrapper = ROOT.build(options)(next(iter(students.values())))
        groups = wrapper.optimizer.param_groups
        held = set(map(id, chain.from_iterable(group['params'] for group in groups)))
        rest = [one for one in model.parameters() if one.requires_grad and id(one) not in held]
        if rest:
            wrapper.optimizer.add_param_group(dict(params=rest))
        return wrapper
