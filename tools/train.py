"""Train by a config: a Distiller, or the plain baseline beside it."""
import argparse
import os

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.config import DictAction

from mmkd.launch import build_runner, leave_process_group, load_config, log_batch_size, prepare_config


def parse_args() -> argparse.Namespace:
    """Read the command line: mmengine's usual flags."""
    parser = argparse.ArgumentParser(description='Train by a config')
    parser.add_argument('config', help='config file, or pkg::path such as mmkd::structured_kd/….py')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--resume', action='store_true', help='resume from the latest checkpoint of the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings: key=value …')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Build the Runner and train."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    cfg.resume = args.resume or cfg.get('resume', False)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config')
        cfg.auto_scale_lr.enable = True
    runner = build_runner(prepare_config(cfg, args.launcher, args.amp))
    log_batch_size(runner)
    runner.train()
    leave_process_group()


if __name__ == '__main__':
    main()
