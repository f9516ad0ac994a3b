"""Train a pair by several methods, and write a table of what each is worth.

The pair is the config of a Distiller; its members, data and schedule serve
every method, its own method is left out. ``alone`` is the student without a
teacher. What ends in .py is a recipe, which is trained as it says itself and
tested as the pair. What has run before is not run again, so the same line goes on after
Ctrl-C. Exit code 1 where a run died.

Example::

    mmkd compare my_distill.py --methods alone kd cwd dist:weight=2 --seeds 0 1 2
    mmkd compare my_distill.py --methods alone kd few-labels=my_recipe.py
"""

import argparse
from pathlib import Path

from mmkd.apis.flags import CfgOptions, count, seeds_flag

FACTORS = (0.3, 1.0, 3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument('pair', help='config of a Distiller: student, teacher, data, schedule')
    parser.add_argument(
        '--methods',
        nargs='+',
        metavar='METHOD',
        help='alone; NAME or NAME:option=value,…; NAME+NAME for both at once (mmkd methods); '
        'RECIPE.py or OWN-NAME=RECIPE.py, a config that says all of its run itself',
    )
    seeds_flag(parser, (), 'of every method (default: 0); three or more tell a gain from chance')
    parser.add_argument(
        '--iters', type=count(1), help="length of each run (default: the pair's, or the recipe's)"
    )
    parser.add_argument(
        '--seconds',
        type=float,
        help='of training steps for each run in place of iterations: a step is measured first; of '
        'the processor, or on a GPU of the clock',
    )
    parser.add_argument(
        '--jobs',
        type=count(1),
        default=1,
        metavar='K',
        help='runs at a time: one thread each on a CPU, one device each on GPUs (default: 1)',
    )
    parser.add_argument(
        '--work-dir', type=Path, help='where everything goes (default: work_dirs/compare_<pair>)'
    )
    parser.add_argument(
        '--tune',
        nargs='+',
        default=[],
        metavar='METHOD',
        help='try their weights times each of --factors on the validation set',
    )
    parser.add_argument('--tune-all', action='store_true', help='tune all that have weights')
    parser.add_argument(
        '--factors',
        nargs='+',
        type=_factor,
        default=list(FACTORS),
        help='of the weights (default: 0.3 1 3)',
    )
    parser.add_argument(
        '--shares-every',
        type=count(1),
        metavar='N',
        help='measure every N iterations how hard each objective pulls beside the task',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision for every optimizer of every run'
    )
    parser.add_argument('--metric', help='that is compared (default: mIoU, accuracy/top1, …)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the pair',
    )
    parser.add_argument(
        '--table-only',
        action='store_true',
        help='run nothing, and write the table of what is on record, of all seeds without --seeds',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='begin runs of other settings anew'
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself, and what would have no effect."""
    if not args.methods and not args.table_only:
        parser.error('--methods says what is compared: --methods alone kd cwd')
    if args.iters is not None and args.seconds is not None:
        parser.error('--iters and --seconds are two lengths of a run: give one of them')
    if args.seconds is not None and not 0 < args.seconds < float('inf'):
        parser.error(f'--seconds must be a number above 0, got {args.seconds}')
    for key, flag in (('work_dir', '--work-dir'), ('randomness.seed', '--seeds')):
        if key in (args.cfg_options or {}):
            parser.error(f'--cfg-options {key}=… would be overridden: give {flag}')
    if args.tune and args.tune_all:
        parser.error('--tune names methods, --tune-all is all of them: give one of them')
    if len({f'{factor:g}' for factor in args.factors}) < len(args.factors):  # as folders are called
        parser.error(f'--factors must be different numbers, got {args.factors}')
    if args.factors != list(FACTORS) and not (args.tune or args.tune_all):
        parser.error('--factors are those that --tune METHOD or --tune-all tries')


def main(args: argparse.Namespace) -> int:
    """Compare; 1 where a run died."""
    from mmkd.apis.compare import EVERY, Comparison, compare
    from mmkd.apis.compare.specs import read_specs
    from mmkd.apis.compare.table import specs_there
    from mmkd.utils.tables import make_console

    pair = Path(args.pair.split('::')[-1]).stem
    work_dir = args.work_dir or Path('work_dirs') / f'compare_{pair}'
    specs = read_specs(args.methods) if args.methods else specs_there(work_dir)
    # a recipe is named by its row or as it was given
    rows = dict(zip(args.methods or (), (spec.text for spec in specs), strict=False))
    tuned = [EVERY] if args.tune_all else [rows.get(text, text) for text in args.tune]
    comparison = Comparison(
        pair=args.pair,
        specs=specs,
        seeds=tuple(args.seeds or (0,)),
        work_dir=work_dir,
        iters=args.iters,
        seconds=args.seconds,
        jobs=args.jobs,
        tuned=tuple(tuned),
        factors=tuple(args.factors),
        options=args.cfg_options or {},
        metric=args.metric,
        overwrite=args.overwrite,
        shares_every=args.shares_every,
        amp=args.amp,
    )
    every_seed = args.table_only and not args.seeds
    return 0 if compare(comparison, make_console(), args.table_only, every_seed) else 1


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'must be a number above 0, got {text!r}')
    return value
