"""Where a model's config asks for weights that are fetched, and how they are left out."""

from collections.abc import Iterator
from typing import Any


def pretrained_keys(model: Any, key: str = 'model') -> Iterator[tuple[str, Any]]:
    """Yield each setting that makes ``init_weights`` fetch weights, and the value that does not.

    Args:
        model: Config of a model.
        key: Its path in the whole config.

    >>> resnet = dict(pretrained='open-mmlab://resnet18', backbone=dict(type='ResNet'))
    >>> list(pretrained_keys(resnet))
    [('model.pretrained', None)]
    >>> mit = dict(init_cfg=dict(type='Pretrained', checkpoint='https://…/mit_b0.pth'))
    >>> list(pretrained_keys(dict(backbone=mit, neck=dict(init_cfg=dict(type='Xavier')))))
    [('model.backbone.init_cfg', None)]
    >>> timm = dict(type='TIMMBackbone', pretrained=True)
    >>> list(pretrained_keys(dict(heads=[dict(backbone=timm)])))
    [('model.heads.0.backbone.pretrained', False)]
    """
    if isinstance(model, list | tuple):
        for index, part in enumerate(model):
            yield from pretrained_keys(part, f'{key}.{index}')
    if not isinstance(model, dict):
        return
    for name, value in model.items():
        if name == 'pretrained' and value:
            yield f'{key}.pretrained', False if value is True else None
        elif name == 'init_cfg' and loads_weights(value):
            yield f'{key}.init_cfg', None
        else:
            yield from pretrained_keys(value, f'{key}.{name}')


def loads_weights(init_cfg: Any) -> bool:
    """Return whether an ``init_cfg``, or one of a list, loads weights from a file.

    >>> loads_weights([dict(type='Normal'), dict(type='Pretrained')]), loads_weights(None)
    (True, False)
    """
    if isinstance(init_cfg, list | tuple):
        return any(map(loads_weights, init_cfg))
    kind = init_cfg.get('type') if isinstance(init_cfg, dict) else None
    return 'Pretrained' in (kind if isinstance(kind, str) else getattr(kind, '__name__', ''))
