"""Test a checkpoint by a config; an ensemble by its config alone.

Example::

    mmkd test my_distill.py work_dirs/my_distill/iter_40000.pth --show-dir maps
"""

import argparse

from mmkd.apis.flags import run_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags: mmsegmentation's."""
    run_flags(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file; none for an mmkd.Ensemble, whose members name theirs',
    )
    parser.add_argument('--show-dir', help='save pictures of the predictions there')


def main(args: argparse.Namespace) -> None:
    """Build the Runner and test."""
    from mmkd.apis.launch import build_runner, leave_process_group, load_config, take_rank
    from mmkd.apis.prepare import draw_into, prepare_config
    from mmkd.apis.starting_weights import check_given_checkpoint, check_tested

    take_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_given_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.show_dir is not None:
        draw_into(cfg, args.show_dir)
    runner = build_runner(prepare_config(cfg, args.launcher), args.verbose)
    check_tested(runner)
    runner.test()
    leave_process_group()
