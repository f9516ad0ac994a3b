"""Test a checkpoint by a config: of a Distiller run, or of a plain model."""
import argparse
import os

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.config import DictAction

from mmkd.launch import build_runner, check_checkpoint, leave_process_group, load_config, prepare_config


def parse_args() -> argparse.Namespace:
    """Read the command line: mmengine's usual flags."""
    parser = argparse.ArgumentParser(description='Test a checkpoint by a config')
    parser.add_argument('config', help='config file, or pkg::path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where logs go (default: work_dirs/<config name>)')
    parser.add_argument('--show-dir', help='save pictures of the predictions there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings: key=value …')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Build the Runner and test."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.show_dir is not None:
        cfg.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True, interval=1)
        cfg.visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')],
                              save_dir=args.show_dir, name=f'show in {args.show_dir}')
    build_runner(prepare_config(cfg, args.launcher)).test()
    leave_process_group()


if __name__ == '__main__':
    main()
