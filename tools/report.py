"""Collect runs into a table.

python tools/report.py alone=work_dirs/a kd=work_dirs/b --baseline alone
"""

import argparse
from pathlib import Path

from mmkd.apis.cli import common_flags, run
from mmkd.apis.page import add_flags, check_flags, write_files
from mmkd.apis.report import markdown, write_into
from mmkd.apis.results import read_row


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Collect runs into a Markdown table')
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
    add_flags(parser)
    args = common_flags(parser).parse_args()
    check_flags(parser, args)
    if (args.into is None) != (args.name is None):
        parser.error('--into FILE and --name NAME come together')
    return args


def main() -> None:
    """Print the table, or write it into a file."""
    args = parse_args()
    rows = [read_row(argument) for argument in args.work_dirs]
    table = markdown(rows, args.metric, args.baseline, args.teacher)
    if args.into is None:
        print(table, end='')
    else:
        write_into(args.into, args.name, table)
    write_files(rows, args)


if __name__ == '__main__':
    run(main)
