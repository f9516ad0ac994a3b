"""Registries of scope ``mmkd``: children of mmengine's, so every mm package builds ``mmkd.<Name>``."""
from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry

_PARTS = ['mmkd.losses', 'mmkd.modules', 'mmkd.models', 'mmkd.distiller']
MODELS = Registry('model', parent=root.MODELS, scope='mmkd', locations=_PARTS)
DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmkd', locations=['mmkd.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, scope='mmkd', locations=['mmkd.datasets'])
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='mmkd', locations=['mmkd.datasets'])
HOOKS = Registry('hook', parent=root.HOOKS, scope='mmkd', locations=['mmkd.hooks'])
MODEL_WRAPPERS = Registry('model wrapper', parent=root.MODEL_WRAPPERS, scope='mmkd', locations=['mmkd.phased_ddp'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=root.OPTIM_WRAPPERS, scope='mmkd', locations=['mmkd.optim'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope='mmkd',
    locations=['mmkd.phase_optim'])


def build_part(cfg: dict) -> Any:
    """Build one of mmkd's own parts; bare names resolve in scope ``mmkd`` under any default scope.

    >>> type(build_part(dict(type='PixelWiseKLLoss'))).__name__
    'PixelWiseKLLoss'
    """
    return MODELS.build({'_scope_': 'mmkd', **cfg})
