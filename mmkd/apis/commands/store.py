"""Run the teachers of a config once; trainings then read what they said.

Stored is what its objectives read of them, for the very iterations of the
config: its data, seed, batch size and number of devices. A training reads it
by teacher=dict(kind='stored', path=DIR). What it takes on the disk is said
beforehand; the same line goes on after Ctrl-C.

Example::

    mmkd store my_distill.py --out stored/my_distill --dtype bf16
"""

import argparse
import tempfile
from pathlib import Path

from mmkd.apis.flags import count, run_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    run_flags(parser, work_dir='the same as --out')
    parser.add_argument('--out', help='where it goes (default: stored/<config name>)')
    parser.add_argument(
        '--dtype',
        choices=('bf16', 'fp16', 'fp32'),
        default='bf16',
        help='of what is kept; with fp32 a training is the same bit for bit (default: bf16)',
    )
    parser.add_argument(
        '--top-k',
        type=count(1),
        metavar='K',
        help='of class logits keep the K largest, and what is left of the mass, spread evenly',
    )
    parser.add_argument(
        '--iters', type=count(1), metavar='N', help='the first N (default: all of the run)'
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse two names of one folder."""
    if args.out and args.work_dir:
        parser.error('--out and --work-dir are one folder: give one of them')


def main(args: argparse.Namespace) -> None:
    """Store."""
    from mmengine.dist import is_main_process

    from mmkd.apis.launch import build_runner, leave_process_group, load_config, take_rank
    from mmkd.apis.prepare import is_distiller, prepare_config
    from mmkd.apis.store import store
    from mmkd.utils.stored.precision import Precision

    take_rank(args.local_rank)
    name = Path(args.config.split('::')[-1]).stem
    folder = Path(args.out or args.work_dir or Path('stored') / name)
    with tempfile.TemporaryDirectory() as logs:
        cfg = load_config(args.config, args.cfg_options, logs)
        if not is_distiller(cfg):
            raise SystemExit(
                f'{args.config} is not the config of a Distiller, so it has no teacher to store'
            )
        runner = build_runner(prepare_config(cfg, args.launcher), args.verbose)
        said = print if is_main_process() else lambda text: None
        manifest = store(runner, folder, Precision(args.dtype, args.top_k), args.iters, tell=said)
        several = len(manifest.teachers) > 1 or 'teacher' not in manifest.teachers
        where = f"dict(kind='stored', path={str(folder)!r})"
        each = ', '.join(f'{teacher}={where}' for teacher in manifest.teachers)
        said(f'use it by {f"teachers=dict({each})" if several else f"teacher={where}"}')
    leave_process_group()
