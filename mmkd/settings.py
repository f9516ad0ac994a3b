"""Settings that mmengine takes as they are, until they end a run hours later or write into the wrong place."""
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from mmkd.checks import check_count

COUNTS = {'batch_size': 1, 'num_workers': 0}  # of a data loader, and the least that is allowed
LENGTHS = {'max_iters': 1, 'max_epochs': 1, 'val_interval': 1, 'val_begin': 0}
HOOKS = {'interval': -1, 'max_keep_ckpts': -1, 'save_begin': 0}  # -1: never, or all


def check_settings(cfg: Config) -> None:
    """Refuse lengths, intervals and sizes that are no whole numbers or too small, and an empty work dir.

    Raises:
        ValueError: Names the key, what was got, what is allowed and the mend.
    """
    check_work_dir(cfg.get('work_dir'))
    for key, value, least, mend in _counts(cfg):
        try:
            check_count(key, value, least)
        except ValueError as error:
            raise ValueError(f'{error}. Mend: {mend}') from None
    timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout', 1)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ValueError(f'env_cfg.dist_cfg.timeout must be a number of seconds above 0, got {timeout!r}')


def check_work_dir(work_dir: Any) -> None:
    """Refuse a work dir without a name: the run would be written into the current folder.

    Raises:
        ValueError: It is empty.
    """
    if work_dir is not None and not str(work_dir).strip():
        raise ValueError(f'work_dir must be the path of a folder, got {work_dir!r}. Mend: --work-dir work_dirs/NAME; '
                         "'.' where the current folder is meant")


def _counts(cfg: Config) -> Iterator[tuple[str, Any, int, str]]:
    """Yield every count that is set: its key, its value, the least that is allowed, and the mend."""
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        yield from _of(cfg.get(loader), COUNTS, loader, 'leave it out, or write a whole number')
    mend = 'a whole number; to leave validation out: val_dataloader=None, val_cfg=None, val_evaluator=None'
    yield from _of(cfg.get('train_cfg'), LENGTHS, 'train_cfg', mend)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _of(hook, HOOKS, f'default_hooks.{name}', 'a whole number of iterations or epochs; -1 for never')
    wrappers = cfg.get('optim_wrapper')
    named = {f'optim_wrapper.{name}': one for name, one in (wrappers or {}).items() if isinstance(one, dict)}
    for name, one in {'optim_wrapper': wrappers, **named}.items():
        yield from _of(one, {'accumulative_counts': 1}, name, '1 for a step after every batch')
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None:
        yield 'randomness.seed', seed, 0, 'a whole number such as 0, or None for another one each time'


def _of(part: Any, least: dict[str, int], where: str, mend: str) -> Iterator[tuple[str, Any, int, str]]:
    for key, number in least.items():
        if isinstance(part, dict) and part.get(key) is not None:
            yield f'{where}.{key}', part[key], number, mend
