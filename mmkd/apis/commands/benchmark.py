"""Measure the distillation step of a config beside its student and teacher.

It runs on generated images, so no data is needed.

Example::

    mmkd benchmark my_distill.py --variants --json work_dirs/cost.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from mmkd.apis.flags import config_flags, count

PRECISIONS = ('fp32', 'bf16', 'fp16')
LAYOUTS = ('none', 'student', 'teacher', 'both')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    config_flags(parser)
    parser.add_argument('--batch-size', type=count(1), help="images (default: the config's)")
    parser.add_argument(
        '--size',
        type=count(1),
        nargs=2,
        metavar=('H', 'W'),
        help="default: the data preprocessor's size",
    )
    parser.add_argument(
        '--iters',
        type=count(1),
        default=20,
        help='rounds that count; medians are printed (default: 20)',
    )
    parser.add_argument(
        '--warmup', type=count(0), default=5, help='rounds before them (default: 5)'
    )
    parser.add_argument('--device', help='default: a GPU where there is one')
    parser.add_argument(
        '--amp', choices=PRECISIONS, help="the student's precision (default: the config's)"
    )
    parser.add_argument(
        '--channels-last', nargs='?', const='both', choices=LAYOUTS, help='whose (default: both)'
    )
    parser.add_argument('--teacher-precision', choices=PRECISIONS, help="default: the config's")
    parser.add_argument(
        '--fuse-bn', action='store_true', default=None, help="fold the teacher's BatchNorm"
    )
    parser.add_argument(
        '--compile', action='store_true', default=None, help='torch.compile the teacher'
    )
    parser.add_argument(
        '--variants',
        action='store_true',
        help='run in turn: fp32, then bf16, then channels_last, then a compiled and fused teacher',
    )
    parser.add_argument(
        '--cpu-time', action='store_true', help='seconds of the processor, where others use it too'
    )
    parser.add_argument('--json', type=Path, help='also write every number there')


def main(args: argparse.Namespace) -> int:
    """Measure, print, write; fail where nothing could be measured."""
    from time import perf_counter, process_time

    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    from mmkd.apis.benchmark import VARIANTS, Options, environment, run_variants
    from mmkd.apis.benchmark.tables import print_result, print_summary
    from mmkd.apis.launch import load_config
    from mmkd.apis.prepare import has_gpu
    from mmkd.utils.atomic import write_atomically
    from mmkd.utils.tables import make_console

    console = make_console()
    MMLogger.get_instance('mmkd_benchmark', log_level='INFO' if args.verbose else 'ERROR')
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    device = args.device or ('cuda' if has_gpu() else 'cpu')
    chosen = Options(
        args.amp, args.channels_last, args.teacher_precision, args.fuse_bn, args.compile
    )
    about = dict(config=args.config, cfg_options=args.cfg_options or {}, **environment(device))
    console.print(
        '\n'.join(f'{key}: {value}' for key, value in about.items()), markup=False, highlight=False
    )
    results: dict[str, Any] = {}
    for name, result in run_variants(
        cfg,
        VARIANTS if args.variants else {'as given': chosen},
        iters=args.iters,
        warmup=args.warmup,
        batch_size=args.batch_size,
        size=tuple(args.size) if args.size else None,
        device=device,
        clock=process_time if args.cpu_time else perf_counter,
    ):
        results[name] = result
        print_result(console, name, result)
        if args.json:  # after each, so that nothing is lost when a later one is cut off
            found = dict(about, iters=args.iters, results=results)
            write_atomically(json.dumps(found, indent=1).encode(), args.json)
    if len(results) > 1:
        print_summary(console, results)
    return 1 if all('error' in result for result in results.values()) else 0
