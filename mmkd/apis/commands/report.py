"""Collect runs into a table: in Markdown, as a page for a browser, as a picture.

Example::

    mmkd report alone=work_dirs/a kd=work_dirs/b --baseline alone --html report.html
"""

import argparse
from pathlib import Path

from mmkd.apis.flags import count


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
    parser.add_argument(
        '--html', type=Path, metavar='FILE', help='write one page for a browser, with curves'
    )
    parser.add_argument('--png', type=Path, metavar='FILE', help='write one picture of the charts')
    parser.add_argument('--title', default='', help='of the page')
    parser.add_argument(
        '--images',
        type=count(1),
        metavar='N',
        help='run a distilled student and its teacher on the validation set, and show in --html '
        'the N images on which they differ most',
    )
    parser.add_argument(
        '--images-of', metavar='LABEL', help='which row (default: the last distilled one)'
    )
    parser.add_argument(
        '--images-config',
        metavar='CONFIG',
        help='the config of that run (default: the one in its work dir)',
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse half of what belongs together, and flags that would have no effect."""
    if (args.into is None) != (args.name is None):
        parser.error('--into FILE and --name NAME come together')
    if args.images is not None and args.html is None:
        parser.error('--images N shows them in a page: --html FILE')
    if args.images is None and (args.images_of or args.images_config):
        parser.error('--images-of and --images-config say which images: --images N')
    if args.title and args.html is None:
        parser.error('--title is the title of a page: --html FILE')


def main(args: argparse.Namespace) -> None:
    """Print the table, or write it into a file."""
    from mmkd.apis.page import write_files
    from mmkd.apis.report import markdown, write_into
    from mmkd.apis.results import read_row

    rows = [read_row(argument) for argument in args.work_dirs]
    table = markdown(rows, args.metric, args.baseline, args.teacher)
    if args.into is None:
        print(table, end='')
    else:
        write_into(args.into, args.name, table)
    write_files(rows, args)
