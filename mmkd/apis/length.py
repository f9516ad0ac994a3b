"""The length of a run, said once: what follows from train_cfg.max_iters."""

from typing import Any

from mmengine.config import Config

from mmkd.engine.hooks.length_check import lengths_left_out

# of schedules, in iterations
LENGTHS = ('begin', 'end', 'T_max', 'step_size', 'total_iters', 'total_steps')
LISTS_OF_LENGTHS = ('milestones', 'periods')


def follow_length(cfg: Config) -> Config:
    """Fill in what a config leaves out and its length decides; what it writes out stays.

    The end of a schedule that needs one and ``train_cfg.val_interval`` follow
    ``train_cfg.max_iters``, the checkpoint's interval follows the validation's. An interval that is
    longer than the run becomes that of the run, which changes nothing: mmengine validates and saves
    at the end in any case. A ``val_begin`` beyond the end, which would leave the run without a
    validation, becomes the end.

    Args:
        cfg: The config, changed in place.

    >>> cfg = Config(dict(
    ...     train_cfg=dict(max_iters=880), val_cfg=dict(type='ValLoop'),
    ...     param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False)],
    ...     default_hooks=dict(checkpoint=dict(by_epoch=False, interval=4000))))
    >>> cfg = follow_length(cfg)
    >>> cfg.train_cfg.val_interval, cfg.param_scheduler[0]['end']
    (880, 880)
    >>> cfg.default_hooks.checkpoint.interval
    880
    """
    for each in list(lengths_left_out(cfg)):
        _insert(each.part, each.key, each.value, each.after)
    loop: Any = cfg.get('train_cfg') or {}
    length = loop.get('max_iters')
    if length is None:
        return cfg
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    # with save_last=False an interval beyond the end means that nothing is saved
    at_the_end = (
        isinstance(hook, dict) and not hook.get('by_epoch', True) and hook.get('save_last', True)
    )
    counted = [(loop, 'val_interval'), (loop, 'val_begin')]
    for part, key in (*counted, *([(hook, 'interval')] if at_the_end else [])):
        if (part.get(key) or 0) > length:
            part[key] = length
    return cfg


def _insert(part: dict[str, Any], key: str, value: int, after: str) -> None:
    # a finished member of an ensemble is known by a digest of its config, in which the order counts
    items = list(part.items())
    place = next((i + 1 for i, (name, _) in enumerate(items) if name == after), len(items))
    part.clear()
    part.update(dict([*items[:place], (key, value), *items[place:]]))


def scaled(node: Any, factor: float) -> Any:
    """Scale what schedules count in iterations; what counts epochs stays, as mmengine's default.

    >>> scaled([dict(type='LinearLR', begin=0, end=100, by_epoch=False)], 0.1)
    [{'type': 'LinearLR', 'begin': 0, 'end': 10, 'by_epoch': False}]
    >>> scaled(dict(type='CosineRestartLR', periods=[20, 40], by_epoch=False), 0.5)
    {'type': 'CosineRestartLR', 'periods': [10, 20], 'by_epoch': False}
    >>> scaled(dict(type='ExponentialLR', gamma=0.25, by_epoch=False), 2)
    {'type': 'ExponentialLR', 'gamma': 0.5, 'by_epoch': False}
    """
    if isinstance(node, list | tuple):
        return [scaled(one, factor) for one in node]
    if not isinstance(node, dict):
        return node
    if 'type' in node and node.get('by_epoch', True):
        return dict(node)
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in LENGTHS and isinstance(value, int):
            found[key] = max(min(value, 1), round(value * factor))
        elif key == 'gamma' and str(node.get('type')).startswith('Exponential'):
            found[key] = value ** (1 / factor)  # of each iteration: the last rate stays
        elif key in LISTS_OF_LENGTHS:
            found[key] = [max(1, round(one * factor)) for one in value]
        else:
            found[key] = scaled(value, factor) if isinstance(value, dict | list | tuple) else value
    return found
