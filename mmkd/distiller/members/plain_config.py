"""A member's model config alone, as it is exported beside its weights."""

import copy
import inspect
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry
from torch import nn

from mmkd.distiller.members.member import Member


def plain_model_cfg(member: Member) -> ConfigDict:
    """Return a member's model config without downloads: exported, it has its weights beside it.

    Raises:
        TypeError: The member was given as a built model.
    """
    if isinstance(member.model, nn.Module):
        raise TypeError(
            f'{member.where} was given as a built model, so no config can be written for it. Mend: '
            "give its config: dict(cfg='….py') or dict(model=dict(...))"
        )
    model = ConfigDict(copy.deepcopy(member.model))
    with ROOT_MODELS.switch_scope_and_registry(member.scope) as registry:
        _without_downloads(model, registry)
    return model


def _without_downloads(node: Any, registry: Registry) -> None:
    """Switch off ``pretrained`` and ``init_cfg`` of type Pretrained, at any depth."""
    if isinstance(node, list | tuple):
        for value in node:
            _without_downloads(value, registry)
    if not isinstance(node, dict):
        return
    kind = _class_of(node.get('type'), registry)
    if node.get('pretrained') and hasattr(kind, 'without_pretrained'):
        node.update(kind.without_pretrained(node))  # it says more than where weights are
    elif node.get('pretrained'):
        node['pretrained'] = False if node['pretrained'] is True else None
    elif 'pretrained' not in node and _loads_by_default(kind):
        node['pretrained'] = False
    given = node.get('init_cfg')
    if isinstance(given, list | tuple):
        node['init_cfg'] = [one for one in given if not _is_pretrained(one)] or None
    elif _is_pretrained(given):
        node['init_cfg'] = None
    for value in node.values():
        _without_downloads(value, registry)


def _is_pretrained(init_cfg: Any) -> bool:
    kind = init_cfg.get('type') if isinstance(init_cfg, dict) else None
    return str(getattr(kind, '__name__', kind)).startswith('Pretrained')


def _class_of(kind: Any, registry: Registry) -> Any:
    """Return what a type names; None of a library that is not here, or of another registry."""
    try:
        return registry.get(kind) if isinstance(kind, str) else kind
    except Exception:  # whatever its import raises
        return None


def _loads_by_default(kind: Any) -> bool:
    """Return whether a class loads weights unless told not to, as mmseg's TIMMBackbone does."""
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # None, or a class without a signature
        return False
    return 'pretrained' in parameters and parameters['pretrained'].default is True
