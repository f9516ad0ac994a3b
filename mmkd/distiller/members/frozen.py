"""How a frozen model runs: which of its forwards a teacher takes."""

import inspect
from typing import Any

from torch import Tensor, nn

from mmkd.tasks.base import encode_decode


def frozen_mode(model: nn.Module) -> str:
    """Return ``'tensor'``, or ``'encode_decode'`` of a model whose ``mode='tensor'`` fails.

    mmseg's ``mode='tensor'`` calls ``decode_head.forward`` with features, and of a cascade with
    the map before it. A head that takes more (queries that need image sizes, a text), or points
    in place of maps, can only predict.
    """
    head = getattr(model, 'decode_head', None)
    return 'tensor' if head is None or _takes_features(head) else 'encode_decode'


def run_frozen(model: Any, mode: str, inputs: Tensor, samples: list | None) -> Any:
    """Run a model once, and compute no losses.

    Args:
        model: The model.
        mode: Of :func:`frozen_mode`.
        inputs: Images as it expects them.
        samples: Their data samples, where ``mode='tensor'`` reads them.
    """
    if mode == 'tensor':
        return model(inputs, samples, mode='tensor')
    # not by the samples' own sizes: a teacher of another input size sees other images
    return encode_decode(model, inputs)


def _takes_features(head: Any) -> bool:
    """Return whether a head, or each of a cascade, can be called as mmseg's ``mode='tensor'`` does.

    >>> _takes_features(nn.Identity()), _takes_features(nn.Bilinear(1, 1, 1))
    (True, False)
    """
    for given, one in enumerate(head if isinstance(head, nn.ModuleList) else [head]):
        parameters = inspect.signature(one.forward).parameters.values()
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if len(required) > min(given, 1) + 1 or hasattr(one, 'get_points_test'):
            return False
    return True
