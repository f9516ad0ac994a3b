"""The whole story on built-in data: a teacher, a student, and one that it teaches.

It trains on scenes of handwritten digits, which need no download, and takes
about eight minutes on two cores.

Example::

    mmkd demo --seeds 0 1 2
"""

import argparse
from pathlib import Path

from mmkd.apis.flags import count, seeds_flag

VALIDATIONS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    seeds_flag(parser, (0,), 'seeds of the students; several give ±')
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything is written'
    )
    parser.add_argument(
        '--iters',
        type=count(VALIDATIONS),
        help="iterations of each training (default: the configs' own)",
    )


def main(args: argparse.Namespace) -> None:
    """Train, print the table, save the picture and the curves."""
    from mmkd.apis.demo import Story
    from mmkd.apis.demo.run import run
    from mmkd.utils.shipped import shipped

    configs = shipped('configs/demo')
    run(Story(configs, args.work_dir, args.seeds, args.iters, args.verbose))
