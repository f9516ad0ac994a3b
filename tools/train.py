"""Train by a config: a Distiller, or the plain baseline beside it."""

import argparse

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmkd.apis.cli import run
from mmkd.apis.launch import (
    build_runner,
    leave_process_group,
    load_config,
    parse_run,
    run_parser,
    train,
)
from mmkd.apis.prepare import prepare_config


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser('Train by a config')
    parser.add_argument(
        '--resume', action='store_true', help='resume from the latest checkpoint of the work dir'
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='begin anew where a run lies: its checkpoints and students are deleted',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size'
    )
    args = parse_run(parser)
    if args.resume and args.overwrite:
        parser.error(
            '--resume goes on with the run that --overwrite would delete: give one of them'
        )
    return args


def main() -> None:
    """Build the Runner and train."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    cfg.resume = args.resume or cfg.get('resume', False)
    cfg.overwrite = args.overwrite or cfg.get('overwrite', False)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise SystemExit(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config'
            )
        cfg.auto_scale_lr.enable = True
    train(build_runner(prepare_config(cfg, args.launcher, args.amp), args.verbose))
    leave_process_group()


if __name__ == '__main__':
    run(main)
