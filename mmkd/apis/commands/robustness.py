"""Test a checkpoint on clean, on corrupted, and on attacked images.

Example::

    mmkd robustness my_distill.py work_dirs/my_distill/iter_40000.pth --images 500
"""

import argparse
import json
from operator import itemgetter
from pathlib import Path
from typing import Any

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
        metavar='N',
        help='1 to 5, averaged (default: 3)',
    )
    parser.add_argument('--epsilon', type=float, help='PGD, in [0, 1] pixels (default: 0.031)')
    parser.add_argument('--step', type=float, help='of PGD (default: 0.003)')
    parser.add_argument(
        '--steps', type=count(0), default=20, help='of PGD; 0: no attack (default: 20)'
    )
    parser.add_argument('--json', type=Path, help='also write every number there')


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect."""
    if not args.steps and (args.epsilon is not None or args.step is not None):
        parser.error('--epsilon and --step are of the attack, and --steps 0 is none: --steps N')
    if not args.corruptions and args.severities is not None:
        parser.error('--severities are of corruptions, and --corruptions names none')


def main(args: argparse.Namespace) -> None:
    """Test under every condition, print, write."""
    from mmkd.apis.launch import build_runner, load_config, take_rank
    from mmkd.apis.prepare import prepare_config
    from mmkd.apis.robustness import robustness
    from mmkd.apis.starting_weights import check_checkpoint, check_tested
    from mmkd.utils.atomic import write_atomically

    take_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    runner = build_runner(prepare_config(cfg, args.launcher), args.verbose)
    check_tested(runner)
    severities = args.severities or [3]
    title = args.checkpoint + (f': severities {severities}' if args.corruptions else '')
    found: dict[str, dict[str, float]] = {}
    conditions = robustness(runner, args.corruptions, severities, args.images, _attack(args))
    try:
        for condition, metrics in conditions:
            found[condition] = metrics
            if args.json:  # after each, so that nothing is lost when a later one is cut off
                write_atomically(json.dumps(found, indent=1).encode(), args.json)
    finally:  # after Ctrl-C and mistakes too: what was found may have taken hours
        if found:
            _print_found(title, found)


def _attack(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the attack that is asked for; what is left out is the default of PGD."""
    options = dict(epsilon=args.epsilon, step=args.step, steps=args.steps)
    given = {key: value for key, value in options.items() if value is not None}
    return given if args.steps else None


def _print_found(title: str, found: dict[str, dict[str, float]]) -> None:
    from mmkd.apis.report import digits
    from mmkd.utils.tables import make_console, print_table

    keys = list(found['clean'])
    places = {key: digits(list(map(itemgetter(key), found.values()))) for key in keys}
    rows = []
    for condition, metrics in found.items():
        rows.append([condition, *(f'{metrics[key]:.{places[key]}f}' for key in keys)])
    print_table(make_console(), title, ['condition', *keys], rows)
