"""Which run stored outputs belong to: all that decides what a teacher sees, and what differs."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmkd.utils.seeds import DRAWS

# of a loader, what decides which images are in which batch
LOADER = (
    'batch_size',
    'dataset',
    'sampler',
    'batch_sampler',
    'collate_fn',
    'drop_last',
    'num_batch_per_epoch',
)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_DECIDES_NOTHING = {'_device', '_non_blocking', '_is_init', 'init_cfg', 'test_cfg'}


def facts_of_run(cfg: Mapping[str, Any], preprocessor: nn.Module, seed: int | None) -> dict:
    """Return what decides which images a teacher sees in which iteration.

    Args:
        cfg: The run's config.
        preprocessor: The data preprocessor, as it is built.
        seed: The run's.
    """
    loader = cfg.get('train_dataloader') or {}
    by_epoch = (cfg.get('train_cfg') or {}).get('max_iters') is None
    return dict(
        seed=seed,
        world_size=get_world_size(),
        by_epoch=by_epoch,
        train_dataloader={key: plain(loader[key]) for key in LOADER if loader.get(key) is not None},
        data_preprocessor=facts_of_module(preprocessor),
        draws=DRAWS,
    )


def facts_of_module(module: nn.Module) -> dict[str, Any]:
    """Return the class of a module and what it was made with, as its attributes tell.

    >>> facts_of_module(nn.Dropout(0.5))
    {'type': 'torch.nn.modules.dropout.Dropout', 'p': 0.5, 'inplace': False}
    """
    kind = type(module)
    own = {
        key: plain(value)
        for key, value in vars(module).items()
        if key not in _OF_EVERY_MODULE | _DECIDES_NOTHING
    }
    tensors = {key: plain(value) for key, value in module.named_buffers(recurse=False)}
    parts = {key: facts_of_module(part) for key, part in module.named_children()}
    return {'type': f'{kind.__module__}.{kind.__qualname__}', **own, **tensors, **parts}


def plain(value: Any) -> Any:
    """Return a value of a config as JSON holds it; an object by its class.

    >>> plain(dict(size=(1, 2), dtype=torch.float32, kind=nn.ReLU))
    {'size': [1, 2], 'dtype': 'torch.float32', 'kind': 'torch.nn.modules.activation.ReLU'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Tensor):
        return value.flatten().tolist()
    if isinstance(value, nn.Module):
        return facts_of_module(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    kind = value if callable(value) and hasattr(value, '__qualname__') else type(value)
    return f'{kind.__module__}.{kind.__qualname__}'


def differences(there: Any, here: Any, where: str = '') -> Iterator[str]:
    """Yield in words where two plain values differ.

    >>> list(differences(dict(a=[dict(p=0.5)], b=1), dict(a=[dict(p=0.2)], c=2)))
    ['a[0].p is 0.5 there and 0.2 here', 'b is 1 there and not here', 'c is 2 here and not there']
    >>> list(differences([1, 2], [1]))
    ['it is [1, 2] there and [1] here']
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            path = f'{where}.{key}' if where else str(key)
            if key not in here:
                yield f'{path} is {there[key]!r:.60} there and not here'
            elif key not in there:
                yield f'{path} is {here[key]!r:.60} here and not there'
            else:
                yield from differences(there[key], here[key], path)
    elif _has_parts(there) and _has_parts(here) and len(there) == len(here):
        for index, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from differences(one, other, f'{where}[{index}]')
    elif there != here:
        yield f'{where or "it"} is {there!r:.80} there and {here!r:.80} here'


def _has_parts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, list | dict) for one in value)


def tell_differences(there: Any, here: Any, most: int = 3) -> str:
    """Return in words where two plain values differ, the first few; '' where they agree.

    >>> tell_differences(dict(seed=0), dict(seed=1)), tell_differences(1, 1)
    ('seed is 0 there and 1 here', '')
    """
    found = list(differences(there, here))
    more = f'; and {len(found) - most} more' if len(found) > most else ''
    return '; '.join(found[:most]) + more
