"""From a config file to a Runner that trains: what the commands share."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd.apis.flags import Parser, common_flags, run_flags
from mmkd.apis.norms import check_last_batch
from mmkd.apis.settings import accumulation, check_groups, check_work_dir, rate_for
from mmkd.apis.starting_weights import check_start
from mmkd.utils.config_file import read_config
from mmkd.utils.terminal import quieten


def run_parser(description: str) -> Parser:
    """Return a parser with the flags of every run, for a script of one's own."""
    parser = Parser(description=description)
    run_flags(parser)
    common_flags(parser)
    return parser


def parse_run(parser: Parser) -> argparse.Namespace:
    """Read the command line by :func:`run_parser`."""
    args = parser.read(sys.argv[1:])
    take_rank(args.local_rank)
    return args


def take_rank(rank: int) -> None:
    """Tell mmengine of a rank that came as a flag; it reads the environment."""
    os.environ.setdefault('LOCAL_RANK', str(rank))


def load_config(path: str, cfg_options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config file or ``pkg::path``, override settings, choose the work dir.

    Raises:
        FileNotFoundError: The file is not there; names the nearest one.
        TypeError: An option of a method that the config names without options.
        ValueError: It is no config that runs; the work dir has no name.
    """
    cfg = read_config(path)
    merge_options(cfg, cfg_options or {})
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path.split('::')[-1]).stem)
    check_work_dir(cfg.work_dir)
    return cfg


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings of a config, ``key.key`` -> value.

    Raises:
        TypeError: An option of a method that the config names without options.
    """
    for key, value in options.items():
        *owner, option = key.split('.')
        method = _at(cfg, owner) if owner[:2] == ['model', 'method'] else None
        if isinstance(method, str):
            raise TypeError(
                f'{key}={value!r} is an option of a method, but the config has the name alone: '
                f'{method!r}. Mend: --method {method}:{option}={value} of mmkd distill; in a '
                f'config method=dict(type={method!r}, {option}={value!r})'
            )
    cfg.merge_from_dict(dict(options))


def _at(node: Any, keys: Sequence[str]) -> Any:
    """Return what stands at a place of a config; None where there is none."""
    for key in keys:
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            node = node.get(key) if isinstance(node, dict | Config) else None
    return node


class _QuietRunner(Runner):
    """A Runner that keeps pages of settings from the terminal; it logs them while it is built."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        quieten(logger)
        return logger


def build_runner(cfg: Config, verbose: bool = True) -> Runner:
    """Build the Runner that the config asks for.

    Args:
        cfg: The config.
        verbose: Whether the terminal shows all that the log file holds.

    Raises:
        KeyError: The config has no model.
        ValueError: It sets a part of what training, validation or test needs.
    """
    check_groups(cfg)
    if 'runner_type' not in cfg:
        return (Runner if verbose else _QuietRunner).from_cfg(cfg)
    runner = RUNNERS.build(cfg)
    if not verbose:
        quieten(runner.logger)
    return runner


def train(runner: Runner) -> None:
    """Refuse what would end in the middle or start from the wrong weights, then train.

    Raises:
        KeyError: The config says nothing of training.
        ValueError: A checkpoint that does not fit; a last batch that BatchNorm fails on.
    """
    check_start(runner)
    log_batch_size(runner)
    check_last_batch(runner)
    runner.train()


def log_batch_size(runner: Runner) -> None:
    """Log the effective batch, and warn where the recipe's learning rate is for another one.

    Raises:
        KeyError: The config says nothing of training.
    """
    if runner.cfg.get('train_dataloader') is None:
        raise KeyError(
            "the config has no 'train_dataloader', 'train_cfg' and 'optim_wrapper', so nothing can "
            'be trained'
        )
    own, processes = runner.cfg.train_dataloader.batch_size, runner.world_size
    counts = accumulation(runner.cfg.get('optim_wrapper'))
    batch = own * processes * counts
    added = f' x {counts} (gradient accumulation)' if counts > 1 else ''
    runner.logger.info(f'effective batch: {own} x {processes}{added} = {batch}')
    scale = runner.cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size', batch)
    if batch != base and not scale.get('enable'):
        runner.logger.warning(
            f'the recipe was made for a batch of {base}, this run has {batch}: published numbers '
            f'will not be reached. Mend: {rate_for(batch, base, counts)}, or '
            f'train_dataloader.batch_size={max(1, base // (processes * counts))}'
        )


def leave_process_group() -> None:
    """End a distributed run: gloo's threads abort a process that exits before they have ended."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
