"""What tools/report.py takes for a page and a picture, and the files that it writes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkd.apis.cli import count
from mmkd.apis.results import Row
from mmkd.utils.atomic import write_atomically


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a page."""
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


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect.

    Raises:
        SystemExit: As argparse ends.
    """
    if args.images is not None and args.html is None:
        parser.error('--images N shows them in a page: --html FILE')
    if args.images is None and (args.images_of or args.images_config):
        parser.error('--images-of and --images-config say which images: --images N')
    if args.title and args.html is None:
        parser.error('--title is the title of a page: --html FILE')


def write_files(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Write what was asked for of ``--html`` and ``--png``, each whole or not at all.

    Args:
        rows: Of the report.
        args: The command line.

    Raises:
        KeyError: A label or metric that is not there.
        ValueError: Images of a run that has none.
    """
    if args.html is not None:
        from mmkd.apis.page.build import make_page
        from mmkd.apis.page.differences import find_differences

        found = None
        if args.images is not None:
            found = find_differences(rows, args.images, args.images_of, args.images_config)
        page = make_page(rows, args.metric, args.baseline, args.teacher, found, args.title)
        write_atomically(page.encode(), args.html)
        print(f'wrote {args.html}')
    if args.png is not None:
        from mmkd.apis.page.picture import make_picture

        write_atomically(make_picture(rows, args.metric), args.png)
        print(f'wrote {args.png}')
