"""Collect runs into a Markdown table.

Example::

    mmkd report alone=work_dirs/a kd=work_dirs/b --baseline alone
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='[LABEL=]WORK_DIR',
        help='a run, or a folder with its runs seed_0, seed_1, …; one row each',
    )
    parser.add_argument(
        '--metric', nargs='+', default=[], help='columns (default: mIoU, accuracy/top1, …)'
    )
    parser.add_argument('--baseline', metavar='LABEL', help='the student alone: adds the gain')
    parser.add_argument(
        '--teacher', metavar='LABEL', help='adds how much of the gap to the teacher is closed'
    )
    parser.add_argument(
        '--into',
        type=Path,
        metavar='FILE',
        help='write it there, between the lines <!-- report NAME '
        '--> and <!-- end of report NAME -->',
    )
    parser.add_argument('--name', help='NAME of the place in --into')


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse half of what belongs together."""
    if (args.into is None) != (args.name is None):
        parser.error('--into FILE and --name NAME come together')


def main(args: argparse.Namespace) -> None:
    """Print the table, or write it into a file."""
    from mmkd.apis.report import markdown, write_into
    from mmkd.apis.results import read_row

    rows = [read_row(argument) for argument in args.work_dirs]
    table = markdown(rows, args.metric, args.baseline, args.teacher)
    if args.into is None:
        print(table, end='')
    else:
        write_into(args.into, args.name, table)
