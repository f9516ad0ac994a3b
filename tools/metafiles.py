"""Write metafile.yml of every folder of configs: python tools/metafiles.py [--check]."""

import argparse
from pathlib import Path

from mmkd.apis.cli import common_flags, run
from mmkd.apis.metafiles import stale_metafiles, write_metafiles

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write what is stale, or only say so."""
    parser = argparse.ArgumentParser(
        description='Derive metafile.yml and model-index.yml from configs and READMEs'
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing; exit with 1 where a file is stale'
    )
    args = common_flags(parser).parse_args()
    found = list(stale_metafiles(ROOT)) if args.check else write_metafiles(ROOT)
    for path in found:
        print(f'{"stale" if args.check else "written"}: {path.relative_to(ROOT)}')
    if args.check and found:
        raise SystemExit('metafiles are stale. Mend: python tools/metafiles.py')


if __name__ == '__main__':
    run(main)
