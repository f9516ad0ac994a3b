"""Settings that mmengine takes as they are, until they end a run hours later."""

import logging
import math
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

from mmkd.utils.checks import check_count, check_keys, nearest
from mmkd.utils.kinds import bare_name

COUNTS = {'batch_size': 1, 'num_workers': 0}  # of a data loader, and the least that is allowed
LENGTHS = {'max_iters': 1, 'max_epochs': 1, 'val_interval': 1, 'val_begin': 0}
HOOKS = {'interval': -1, 'max_keep_ckpts': -1, 'save_begin': 0}  # -1: never, or all
# Sections of a config, and what may never stand there; objects that are built already may.
DICTS = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'optim_wrapper',
    'default_hooks',
    'randomness',
    'env_cfg',
    'visualizer',
    'auto_scale_lr',
)
STRINGS = ('load_from', 'default_scope')
PLAIN = (str, bytes, int, float, list, tuple)
GROUPS = {
    split: (f'{split}_dataloader', f'{split}_cfg', last)
    for split, last in (
        ('train', 'optim_wrapper'),
        ('val', 'val_evaluator'),
        ('test', 'test_evaluator'),
    )
}
DEFAULT_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
    'visualization',
)
RATES = ('lr', 'momentum', 'weight_decay', 'eps')
LEAST_NAME = 8  # shorter names of a config's own variables are too near to those of settings


def check_sections(cfg: Config) -> None:
    """Refuse sections of the wrong kind.

    Raises:
        ValueError: Names the section, what was got, what is allowed and the mend.

    >>> check_sections(Config(dict(randomness=0)))
    Traceback (most recent call last):
    ValueError: randomness must be a dictionary or None, got 0. Mend: randomness=dict(...)
    """
    for key in DICTS:
        if isinstance(cfg.get(key), PLAIN):
            raise ValueError(
                f'{key} must be a dictionary or None, got {_short(cfg[key])}. Mend: {key}=dict(...)'
            )
    for key in STRINGS:
        if cfg.get(key) is not None and not isinstance(cfg[key], str):
            raise ValueError(f'{key} must be a text or None, got {_short(cfg[key])}')
    if isinstance(cfg.get('custom_hooks'), dict | str):
        raise ValueError(
            f'custom_hooks must be a list, got {_short(cfg.custom_hooks)}. Mend: [dict(type=...)]'
        )


def check_names(cfg: Config) -> None:
    """Refuse settings that are nearly called like one of the Runner's: nothing would read them.

    Raises:
        ValueError: Names the setting and the nearest one.
    """
    known = list(signature(Runner.__init__).parameters)
    for key in cfg:
        near = nearest(key, known, 1, 0.85) if key not in known and len(key) >= LEAST_NAME else ''
        if near:
            raise ValueError(
                f"the setting {key!r} is none of the Runner's{near} Mend: that name; another one, "
                'less like it, where it is a variable of your own'
            )
    for key in cfg.get('default_hooks') or {}:
        near = nearest(key, DEFAULT_HOOKS, 1, 0.8) if key not in DEFAULT_HOOKS else ''
        if near:
            raise ValueError(
                f'default_hooks.{key} would be a hook beside the default ones{near} Mend: that '
                'name; custom_hooks for a hook of your own'
            )


def check_groups(cfg: Config) -> None:
    """Refuse a config without a model, settings that are set in part, and loaders without data.

    Raises:
        KeyError: There is no model.
        ValueError: Names what is missing.
    """
    if cfg.get('model') is None:
        raise KeyError(
            f"{cfg.filename or 'the config'} has no 'model', so there is nothing to train or test. "
            'Mend: model=dict(type=…)'
        )
    for keys in GROUPS.values():
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and len(missing) < len(keys):
            there = ', '.join(key for key in keys if key not in missing)
            raise ValueError(
                f'the config sets {there}, but not {", ".join(missing)}. Mend: all three of them, '
                'or none (None removes what a base sets)'
            )
        if isinstance(cfg.get(keys[0]), dict) and cfg[keys[0]].get('dataset') is None:
            raise ValueError(
                f'{keys[0]} has no dataset (it has {sorted(cfg[keys[0]])}). Mend: '
                'dataset=dict(type=...)'
            )


def check_settings(cfg: Config) -> None:
    """Refuse sections that are none, and lengths, intervals, rates and sizes that make no run.

    Raises:
        KeyError: An optimizer that is not registered; names the nearest one.
        TypeError: An unknown key of ``randomness``.
        ValueError: Names the key, what was got, what is allowed and the mend.
    """
    check_sections(cfg)
    check_names(cfg)
    check_work_dir(cfg.get('work_dir'))
    check_keys(
        cfg.get('randomness') or {}, ('seed', 'deterministic', 'diff_rank_seed'), 'randomness'
    )
    levels = (
        logging.getLevelNamesMapping()
        if hasattr(logging, 'getLevelNamesMapping')
        else logging._nameToLevel
    )
    if cfg.get('log_level', 'INFO') not in levels and not isinstance(
        cfg.get('log_level'), int | None
    ):
        raise ValueError(f'log_level must be one of {", ".join(levels)}, got {cfg.log_level!r}')
    if not isinstance(cfg.get('resume', False), bool):
        raise ValueError(
            f'resume must be True or False, got {cfg.resume!r}. Mend: resume=True goes on from the '
            'newest checkpoint of work_dir; load_from=PATH beside it names another one'
        )
    for name, wrapper in optim_wrappers(cfg.get('optim_wrapper')):
        _check_optimizer(f'{wrapper_key(name)}.optimizer', wrapper.get('optimizer'))
    for key, value, least, mend in _counts(cfg):
        try:
            check_count(key, value, least)
        except ValueError as error:
            raise ValueError(f'{error}. Mend: {mend}') from None
    check_shares(cfg)
    timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout', 1)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ValueError(
            f'env_cfg.dist_cfg.timeout must be a number of seconds above 0, got {timeout!r}'
        )


def check_shares(cfg: Config) -> None:
    """Refuse shares of a MixedSampler that do not sum to the batch size of its loader.

    Raises:
        ValueError: They do not.

    >>> sampler = dict(type='mmkd.MixedSampler', labelled=4, unlabelled=12)
    >>> check_shares(Config(dict(train_dataloader=dict(batch_size=16, sampler=sampler))))
    """
    loader = cfg.get('train_dataloader') or {}
    shares = shares_of(loader)
    size = loader.get('batch_size')
    if shares is not None and not all(
        own + others == size for own, others in zip(*shares, strict=False)
    ):
        own, others = (one[0] if len(set(one)) == 1 else one for one in shares)
        raise ValueError(
            f'MixedSampler(labelled={own}, unlabelled={others}) does not sum to '
            f'train_dataloader.batch_size={size}. Mend: shares that do, on every rank'
        )


def shares_of(loader: Any) -> tuple[list[int], list[int]] | None:
    """Return the shares of a loader's MixedSampler, a number a rank; None without one.

    Shares that are no such numbers are the sampler's to refuse.

    >>> shares_of(dict(sampler=dict(type='mmkd.MixedSampler', labelled=[4, 0], unlabelled=12)))
    ([4, 0], [12, 12])
    """
    sampler = loader.get('sampler') or {}
    if not isinstance(sampler, dict) or bare_name(sampler.get('type')) != 'MixedSampler':
        return None
    own, others = (_shares(sampler.get(name)) for name in ('labelled', 'unlabelled'))
    if not own or not others:
        return None
    ranks = max(len(own), len(others))
    return own * (ranks // len(own)), others * (ranks // len(others))


def _shares(given: Any) -> list[int]:
    """Return shares as numbers, [] where they are none."""
    each = list(given) if isinstance(given, list | tuple) else [given]
    return each if all(isinstance(one, int) for one in each) else []


def _short(value: Any) -> str:
    return f'{value!r:.60}'


def optim_wrappers(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and config of every optimizer of ``optim_wrapper``; one alone has the name ``''``.

    >>> named = dict(constructor='x', student=dict(optimizer=1), critic=dict(optimizer=2))
    >>> list(optim_wrappers(named))
    [('student', {'optimizer': 1}), ('critic', {'optimizer': 2})]
    >>> list(optim_wrappers(dict(optimizer=1)))
    [('', {'optimizer': 1})]
    """
    if not isinstance(config, dict):  # None, or built already
        return
    named = {
        name: one for name, one in config.items() if isinstance(one, dict) and 'optimizer' in one
    }
    yield from named.items() if named else [('', config)]


def accumulation(config: Any) -> int:
    """Return over how many iterations gradients are added up before the slowest optimizer steps.

    >>> slow, fast = dict(optimizer=1, accumulative_counts=4), dict(optimizer=2)
    >>> accumulation(dict(student=slow, critic=fast))
    4
    """
    counts = [one.get('accumulative_counts', 1) for _, one in optim_wrappers(config)]
    return max(counts, default=1)


def rate_for(batch: int, base: int, counts: int) -> str:
    """Return how the learning rate of a recipe for a batch of ``base`` is made one for ``batch``.

    mmengine scales by the batch of an iteration and knows of no accumulation, here of ``counts``.

    >>> rate_for(4, 16, counts=1)
    '--auto-scale-lr (learning rate x 0.25)'
    >>> rate_for(32, 16, counts=4)
    'a learning rate (now x 2)'
    """
    by = '--auto-scale-lr (learning rate' if counts == 1 else 'a learning rate (now'
    return f'{by} x {batch / base:g})'


def wrapper_key(name: str) -> str:
    """Return where in a config the optimizer of this name stands.

    >>> wrapper_key('critic'), wrapper_key('')
    ('optim_wrapper.critic', 'optim_wrapper')
    """
    return f'optim_wrapper.{name}' if name else 'optim_wrapper'


def _check_optimizer(where: str, optimizer: Any) -> None:
    if not isinstance(optimizer, dict):
        return
    kind = optimizer.get('type')
    # mmengine: 'None is not a callable object'
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise KeyError(
            f'{where}: there is no optimizer {kind!r}{nearest(kind, OPTIMIZERS.module_dict)}'
        )
    for key in RATES:
        value = optimizer.get(key, 0)
        if value is None or isinstance(value, list | tuple):
            continue  # Adafactor's: a rate of its own, two numbers
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f'{where}.{key} must be a finite number, 0 or above, got {value!r}')


def check_work_dir(work_dir: Any) -> None:
    """Refuse a work dir that is a file, and one without a name, which is the current folder.

    Raises:
        ValueError: It is empty, no path, or lies at or below a file.
    """
    if work_dir is not None and not isinstance(work_dir, str | Path):
        raise ValueError(
            f'work_dir must be the path of a folder, got {work_dir!r}. Mend: --work-dir '
            'work_dirs/NAME'
        )
    for part in (Path(work_dir), *Path(work_dir).parents) if work_dir else ():
        if part.is_file():
            raise ValueError(
                f'work_dir must be the path of a folder, got {str(work_dir)!r}, but {part} is a '
                'file. Mend: --work-dir work_dirs/NAME'
            )
    if work_dir is not None and not str(work_dir).strip():
        raise ValueError(
            f'work_dir must be the path of a folder, got {work_dir!r}. Mend: --work-dir '
            "work_dirs/NAME; '.' where the current folder is meant"
        )


def _counts(cfg: Config) -> Iterator[tuple[str, Any, int, str]]:
    """Yield every count that is set: key, value, the least that is allowed, and the mend."""
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        yield from _of(cfg.get(loader), COUNTS, loader, 'leave it out, or write a whole number')
    mend = (
        'a whole number; to leave validation out: val_dataloader=None, val_cfg=None, '
        'val_evaluator=None'
    )
    yield from _of(cfg.get('train_cfg'), LENGTHS, 'train_cfg', mend)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _of(
            hook,
            HOOKS,
            f'default_hooks.{name}',
            'a whole number of iterations or epochs; -1 for never',
        )
    for name, one in optim_wrappers(cfg.get('optim_wrapper')):
        mend = '1 for a step after every batch'
        yield from _of(one, {'accumulative_counts': 1}, wrapper_key(name), mend)
    yield from _of(
        cfg.get('auto_scale_lr'),
        {'base_batch_size': 1},
        'auto_scale_lr',
        "the recipe's images a step",
    )
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None:
        yield (
            'randomness.seed',
            seed,
            0,
            'a whole number such as 0, or None for another one each time',
        )


def _of(
    part: Any, least: dict[str, int], where: str, mend: str
) -> Iterator[tuple[str, Any, int, str]]:
    for key, number in least.items():
        if isinstance(part, dict) and part.get(key) is not None:
            yield f'{where}.{key}', part[key], number, mend
