"""Train the members of an ensemble: one config, several seeds, one after the other."""

import argparse

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.dist import is_main_process

from mmkd.apis.cli import run
from mmkd.apis.ensembles import as_teachers, member_config, read_member, table_members, train_member
from mmkd.apis.launch import leave_process_group, parse_run, run_parser
from mmkd.apis.runs import check_seeds, seeds_flag
from mmkd.utils.tables import make_console, print_table


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser(
        'Train the members of an ensemble by one config: each in <work dir>/seed_<n>. Members that '
        'are finished are skipped, those that were interrupted go on.'
    )
    seeds_flag(parser, (0, 1, 2), 'one member a seed (default: 0 1 2)')
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')
    args = parse_run(parser)
    check_seeds(parser, args.seeds)
    return args


def main() -> None:
    """Train every member that is not finished, and report on all."""
    args = parse_args()
    configs = [
        member_config(args.config, seed, args.cfg_options, args.work_dir) for seed in args.seeds
    ]
    members = [
        read_member(cfg) or train_member(cfg, args.launcher, args.amp, args.verbose)
        for cfg in configs
    ]
    if is_main_process():
        columns, rows = table_members(args.seeds, members)
        print_table(make_console(), f'{len(members)} members of {args.config}', columns, rows)
        print(
            "For an mmkd.Distiller, read by teachers='t*.logits'; as members=dict(…) also for an "
            'mmkd.Ensemble:'
        )
        print(as_teachers(configs, members))
    leave_process_group()


if __name__ == '__main__':
    run(main)
