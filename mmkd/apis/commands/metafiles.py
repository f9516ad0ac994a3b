"""Write metafile.yml of every folder of configs, in a checkout.

They and model-index.yml are derived from configs, collection.yml and READMEs.
For developers: a wheel has no checkout to write into.

Example::

    mmkd metafiles --check
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        '--check', action='store_true', help='write nothing; exit with 1 where a file is stale'
    )


def main(args: argparse.Namespace) -> None:
    """Write what is stale, or only say so."""
    from mmkd.apis.metafiles import stale_metafiles, write_metafiles
    from mmkd.utils.shipped import checkout

    root = checkout()
    found = list(stale_metafiles(root)) if args.check else write_metafiles(root)
    for path in found:
        print(f'{"stale" if args.check else "written"}: {path.relative_to(root)}')
    if args.check and found:
        raise SystemExit('metafiles are stale. Mend: mmkd metafiles')
