"""Test a checkpoint on its test set, on corrupted images, and under attack."""

import argparse
import json
from pathlib import Path

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmkd.apis.cli import count, run
from mmkd.apis.launch import build_runner, load_config, parse_run, run_parser
from mmkd.apis.prepare import prepare_config
from mmkd.apis.robustness import robustness
from mmkd.apis.starting_weights import check_checkpoint, check_tested
from mmkd.datasets.transforms.corrupt import CORRUPTIONS
from mmkd.utils.atomic import write_atomically
from mmkd.utils.tables import make_console, print_table


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser('Test a checkpoint on clean, corrupted and attacked images')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--images', type=count(1), help='so many, evenly spread over the test set (default: all)'
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        default=list(CORRUPTIONS),
        help='default: all; none: no corruption',
    )
    parser.add_argument(
        '--severities', type=int, nargs='+', default=[3], help='1 to 5, averaged (default: 3)'
    )
    parser.add_argument(
        '--epsilon', type=float, default=0.031, help='PGD, in [0, 1] pixels (default: 0.031)'
    )
    parser.add_argument('--step', type=float, default=0.003, help='of PGD (default: 0.003)')
    parser.add_argument(
        '--steps', type=count(0), default=20, help='of PGD; 0: no attack (default: 20)'
    )
    parser.add_argument('--json', type=Path, help='also write every number there')
    return parse_run(parser)


def main() -> None:
    """Test under every condition, print, write."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    runner = build_runner(prepare_config(cfg, args.launcher), args.verbose)
    check_tested(runner)
    attack = dict(epsilon=args.epsilon, step=args.step, steps=args.steps) if args.steps else None
    found = {}
    conditions = robustness(runner, args.corruptions, args.severities, args.images, attack)
    for condition, metrics in conditions:
        found[condition] = metrics
        if args.json:  # after each, so that nothing is lost when a later one is cut off
            write_atomically(json.dumps(found, indent=1).encode(), args.json)
    keys = list(found['clean'])
    print_table(
        make_console(),
        f'{args.checkpoint}: severities {args.severities}',
        ['condition', *keys],
        [
            [condition, *(f'{metrics[key]:.2f}' for key in keys)]
            for condition, metrics in found.items()
        ],
    )


if __name__ == '__main__':
    run(main)
