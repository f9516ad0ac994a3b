"""Registries of scope ``mmkd``.

Those of components are children of mmengine's, so that every mm package builds ``mmkd.<Name>``.
Tasks, methods, schedules, orders of levels and kinds of teachers are ideas of mmkd alone.
"""

import inspect
from contextlib import suppress
from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry
from torch import nn

from mmkd.utils.checks import check_keys, nearest
from mmkd.utils.plain_values import ROOTS

_PARTS = [
    'mmkd.losses',
    'mmkd.connectors',
    'mmkd.models',
    'mmkd.noise',
    'mmkd.where',
    'mmkd.distiller',
]
MODELS = Registry('model', parent=root.MODELS, scope='mmkd', locations=_PARTS)
DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmkd', locations=['mmkd.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=root.DATA_SAMPLERS, scope='mmkd', locations=['mmkd.datasets.samplers']
)
TRANSFORMS = Registry(
    'transform', parent=root.TRANSFORMS, scope='mmkd', locations=['mmkd.datasets']
)
METRICS = Registry('metric', parent=root.METRICS, scope='mmkd', locations=['mmkd.evaluation'])
LOOPS = Registry('loop', parent=root.LOOPS, scope='mmkd', locations=['mmkd.engine.runner'])
HOOKS = Registry(
    'hook',
    parent=root.HOOKS,
    scope='mmkd',
    locations=['mmkd.engine.hooks', 'mmkd.losses.quest.hook'],
)
MODEL_WRAPPERS = Registry(
    'model wrapper', parent=root.MODEL_WRAPPERS, scope='mmkd', locations=['mmkd.engine.runner']
)
OPTIM_WRAPPERS = Registry(
    'optim wrapper', parent=root.OPTIM_WRAPPERS, scope='mmkd', locations=['mmkd.engine.optimizers']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmkd',
    locations=['mmkd.engine.optimizers'],
)
# Tasks are mmkd's own idea: no registry of mmengine lies above this one.
TASKS = Registry('task', scope='mmkd', locations=['mmkd.tasks'])
SCHEDULES = Registry('schedule', scope='mmkd', locations=['mmkd.engine.schedules'])
METHODS = Registry('method', scope='mmkd', locations=['mmkd.methods'])
KINDS = Registry('kind of teacher', scope='mmkd', locations=['mmkd.distiller.members.kinds'])
LEVELS = Registry('order of levels', scope='mmkd', locations=['mmkd.engine.schedules'])
ROOTS.extend([TASKS, SCHEDULES, LEVELS, KINDS])


def build_part(config: Any, where: str = 'a part of mmkd') -> Any:
    """Build a loss, connector or critic; bare names are those of mmkd under any default scope.

    >>> type(build_part(dict(type='PixelWiseKLLoss'))).__name__
    'PixelWiseKLLoss'

    Args:
        config: ``dict(type=…, …)``, or a module, which is returned as it is.
        where: How errors call it.

    Raises:
        TypeError: Neither a config nor a module; an argument that the class does not take, with its
            nearest match.
        KeyError: The type is not registered; names the nearest one.
    """
    if isinstance(config, nn.Module):
        return config
    if not isinstance(config, dict) or 'type' not in config:
        raise TypeError(f"{where} must be dict(type='…', …) or a module, got {config!r}")
    config = {'_scope_': 'mmkd', **config}
    kind = config['type']
    if isinstance(kind, str):
        # A name with an unknown prefix is answered by a RuntimeError.
        with (
            suppress(RuntimeError),
            MODELS.switch_scope_and_registry(config['_scope_']) as registry,
        ):
            kind = registry.get(kind)
    if kind is None or isinstance(kind, str):
        name = config['type'].split('.')[-1]
        raise KeyError(
            f'{where}: {config["type"]!r} is not registered{nearest(name, MODELS.module_dict)} '
            f'({name} is not in the {config["_scope_"]}::model registry)'
        )
    parameters = inspect.signature(kind).parameters
    if all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
        check_keys(
            [key for key in config if key not in ('type', '_scope_')],
            parameters,
            f'{where} {kind.__name__}',
        )
    return MODELS.build(config)
