"""Write a plain student (weights and config) out of a checkpoint of a Distiller.

A training writes the same beside each of its checkpoints.

Example::

    mmkd export work_dirs/my_distill/iter_40000.pth student.pth
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument('checkpoint', help='checkpoint of a Distiller run')
    parser.add_argument(
        'out', help='weights to write (….pth) or a folder; config.py is written beside them'
    )
    parser.add_argument(
        '--member', default='student', help='name of the student (default: student)'
    )


def main(args: argparse.Namespace) -> None:
    """Export, and say how to load it."""
    from mmkd.distiller.export import export_student

    weights, config = export_student(args.checkpoint, args.out, args.member)
    print(
        f'wrote {weights} and {config}; load them with mmseg.apis.init_model({str(config)!r}, '
        f'{str(weights)!r})'
    )
