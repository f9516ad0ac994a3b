"""Test a checkpoint on clean, on corrupted, and on attacked images.

Example::

    mmkd robustness my_distill.py work_dirs/my_distill/iter_40000.pth --images 500
"""

import argparse
import json
from operator import itemgetter
from pathlib import Path

from mmkd.apis.flags import count, run_flags

CORRUPTIONS = (
    'gaussian_noise',
    'shot_noise',
    'impulse_noise',
    'gaussian_blur',
    'zoom_blur',
    'brightness',
    'contrast',
    'pixelate',
    'jpeg_compression',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    run_flags(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--images', type=count(1), help='so many, evenly spread over the test set (default: all)'
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        default=list(CORRUPTIONS),
        choices=CORRUPTIONS,
        metavar='NAME',
        help=f'default: all; none: no corruption; of {", ".join(CORRUPTIONS)}',
    )
    parser.add_argument(
        '--severities',
        type=int,
        nargs='+',
        choices=range(1, 6),
        default=[3],
        metavar='N',
        help='1 to 5, averaged (default: 3)',
    )
    parser.add_argument(
        '--epsilon', type=float, default=0.031, help='PGD, in [0, 1] pixels (default: 0.031)'
    )
    parser.add_argument('--step', type=float, default=0.003, help='of PGD (default: 0.003)')
    parser.add_argument(
        '--steps', type=count(0), default=20, help='of PGD; 0: no attack (default: 20)'
    )
    parser.add_argument('--json', type=Path, help='also write every number there')


def main(args: argparse.Namespace) -> None:
    """Test under every condition, print, write."""
    from mmkd.apis.launch import build_runner, load_config, take_rank
    from mmkd.apis.prepare import prepare_config
    from mmkd.apis.report import digits
    from mmkd.apis.robustness import robustness
    from mmkd.apis.starting_weights import check_checkpoint, check_tested
    from mmkd.utils.atomic import write_atomically
    from mmkd.utils.tables import make_console, print_table

    take_rank(args.local_rank)
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
    places = {key: digits(list(map(itemgetter(key), found.values()))) for key in keys}
    rows = []
    for condition, metrics in found.items():
        rows.append([condition, *(f'{metrics[key]:.{places[key]}f}' for key in keys)])
    title = f'{args.checkpoint}: severities {args.severities}'
    print_table(make_console(), title, ['condition', *keys], rows)
