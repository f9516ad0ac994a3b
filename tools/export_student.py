"""Write a plain student (weights and config) out of a checkpoint of a Distiller run."""

import argparse

from mmkd import export_student
from mmkd.apis.cli import common_flags, run
from mmkd.apis.deploy import add_flags, deploy_student


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a Distiller run')
    parser.add_argument(
        'out', help='weights to write (….pth) or a folder; config.py is written beside them'
    )
    parser.add_argument(
        '--member', default='student', help='name of the student (default: student)'
    )
    add_flags(parser)
    args = common_flags(parser).parse_args()
    weights, config = export_student(args.checkpoint, args.out, args.member)
    print(
        f'wrote {weights} and {config}; load them with mmseg.apis.init_model({str(config)!r}, '
        f'{str(weights)!r})'
    )
    deploy_student(args, weights, config, args.checkpoint)


if __name__ == '__main__':
    run(main)
