"""The files of a report: a page and a picture."""

import argparse
from collections.abc import Sequence

from mmkd.apis.results import Row
from mmkd.utils.atomic import write_atomically


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
