"""Train by a config: a Distiller, or the plain baseline beside it.

Logs, checkpoints and, beside each of these, the plain student go to the work
dir. On several GPUs: torchrun --nproc_per_node N -m mmkd train CONFIG
--launcher pytorch.

Example::

    mmkd train my_distill.py --amp --cfg-options train_dataloader.batch_size=4
"""

import argparse

from mmkd.apis.flags import run_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags: mmsegmentation's, and ``--overwrite``."""
    run_flags(parser)
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


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself."""
    if args.resume and args.overwrite:
        parser.error(
            '--resume goes on with the run that --overwrite would delete: give one of them'
        )


def main(args: argparse.Namespace) -> None:
    """Build the Runner and train."""
    from mmkd.apis.launch import build_runner, leave_process_group, load_config, take_rank, train
    from mmkd.apis.prepare import prepare_config, scale_learning_rate

    take_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    cfg.resume = args.resume or cfg.get('resume', False)
    cfg.overwrite = args.overwrite or cfg.get('overwrite', False)
    if args.auto_scale_lr:
        scale_learning_rate(cfg)
    train(build_runner(prepare_config(cfg, args.launcher, args.amp), args.verbose))
    leave_process_group()
