"""Write a plain student (weights and config) out of a checkpoint of a Distiller.

A training writes the same beside each of its checkpoints. With --onnx or
--torch-export also one file that runs without mmkd, compared with PyTorch on a
real image; exit code 1 where it differs.

Example::

    mmkd export work_dirs/my_distill/iter_40000.pth out/ --onnx
"""

import argparse
from pathlib import Path

from mmkd.apis.flags import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument('checkpoint', help='checkpoint of a Distiller run')
    parser.add_argument(
        'out', help='weights to write (….pth) or a folder; config.py is written beside them'
    )
    parser.add_argument(
        '--member', default='student', help='name of the student (default: student)'
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        '--onnx',
        dest='deploy',
        action='store_const',
        const='onnx',
        help="also write the student as ONNX (pip install 'mmkd[onnx]'), checked and timed",
    )
    kind.add_argument(
        '--torch-export',
        dest='deploy',
        action='store_const',
        const='torch_export',
        help='also write it by torch.export (.pt2), checked and timed',
    )
    parser.add_argument(
        '--image', help='check it on this image (default: the first one of the test set)'
    )
    parser.add_argument(
        '--force', action='store_true', help='keep the file even where it differs from PyTorch'
    )
    parser.add_argument(
        '--repeats', type=count(1), help='times of one image are the median of N (default: 20)'
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect."""
    if args.deploy is None and (args.image or args.force or args.repeats):
        parser.error(
            '--image, --force and --repeats are of the file that --onnx or --torch-export writes'
        )


def how_to_load(weights: Path, config: Path) -> str:
    """Return how the files of a student are used, in words."""
    from mmkd.tasks.base import task_of_config
    from mmkd.utils.config_file import read_config

    if task_of_config(read_config(str(config)).model).kind in ('segmentation', 'depth'):
        return f'load them with mmseg.apis.init_model({str(config)!r}, {str(weights)!r})'
    return f'test them with mmkd test {config} {weights}'  # init_model is of segmentors


def main(args: argparse.Namespace) -> None:
    """Export, and say how to load it."""
    from mmkd.apis.deploy import deploy_student
    from mmkd.distiller.export import export_student

    weights, config = export_student(args.checkpoint, args.out, args.member)
    print(f'wrote {weights} and {config}; {how_to_load(weights, config)}')
    deploy_student(args, weights, config, args.checkpoint)
