"""Train the members of an ensemble: one config, several seeds.

Each goes to <work dir>/seed_<n>, one after the other. Members that are finished
are skipped, those that were interrupted go on.

Example::

    mmkd train-ensemble big.py --seeds 0 1 2
"""

import argparse

from mmkd.apis.flags import run_flags, seeds_flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    run_flags(parser)
    seeds_flag(parser, (0, 1, 2), 'one member a seed (default: 0 1 2)')
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')


def main(args: argparse.Namespace) -> None:
    """Train every member that is not finished, and report on all."""
    from mmengine.dist import is_main_process

    from mmkd.apis.ensembles import as_teachers, member_config, table_members, train_members
    from mmkd.apis.launch import leave_process_group, take_rank
    from mmkd.utils.tables import make_console, print_table

    take_rank(args.local_rank)
    configs = [
        member_config(args.config, seed, args.cfg_options, args.work_dir) for seed in args.seeds
    ]
    members = train_members(configs, args.launcher, args.amp, args.verbose)
    if is_main_process():
        columns, rows = table_members(args.seeds, members)
        print_table(make_console(), f'{len(members)} members of {args.config}', columns, rows)
        print(
            "For an mmkd.Distiller, read by teachers='t*.logits'; as members=dict(…) also for an "
            'mmkd.Ensemble:'
        )
        print(as_teachers(configs, members))
    leave_process_group()
