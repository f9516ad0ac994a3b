"""Measure the distillation step of a config beside its student and teacher.

It runs on generated images, so no data is needed.

Example::

    mmkd benchmark my_distill.py --variants --json work_dirs/cost.json
    mmkd benchmark --methods kd cwd
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
    config_flags(parser, needed=False)
    parser.add_argument(
        '--batch-size', type=count(1), help="images (default: the config's; 2 with --methods)"
    )
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
        help='rounds that count; medians are printed (default: 20, with --methods 5)',
    )
    parser.add_argument(
        '--warmup', type=count(0), help='rounds before them (default: 5, with --methods 1)'
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
        '--methods',
        nargs='*',
        metavar='NAME',
        help="the objectives of these methods alone, or of all, on the config's pair (default: a "
        'PSPNet of ResNet-101 and one of ResNet-18 at 2 × 512×1024)',
    )
    parser.add_argument(
        '--markdown', action='store_true', help='print the table of --methods as Markdown'
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

    from mmkd.apis.benchmark import environment
    from mmkd.apis.benchmark.methods import CONFIG
    from mmkd.apis.launch import load_config
    from mmkd.apis.prepare import has_gpu
    from mmkd.utils.tables import make_console

    _check(args)
    console = make_console()
    MMLogger.get_instance('mmkd_benchmark', log_level='INFO' if args.verbose else 'ERROR')
    path = args.config or CONFIG
    cfg = load_config(path, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    device = args.device or ('cuda' if has_gpu() else 'cpu')
    about = dict(
        config=path,
        cfg_options=args.cfg_options or {},
        seconds='of the processor' if args.cpu_time else 'of the clock',
        **environment(device),
    )
    console.print(
        '\n'.join(f'{key}: {value}' for key, value in about.items()), markup=False, highlight=False
    )
    how: dict[str, Any] = dict(
        size=tuple(args.size) if args.size else None,
        device=device,
        clock=process_time if args.cpu_time else perf_counter,
    )
    if args.methods is not None:
        return _methods(args, cfg, about, how, console)
    return _variants(args, cfg, about, how, console)


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        ValueError: No config and no methods; options of a pair beside methods.
    """
    if args.methods is None and args.config is None:
        raise ValueError(
            'the benchmark needs a config. Mend: mmkd benchmark CONFIG; or mmkd benchmark '
            '--methods, which has one of its own'
        )
    if args.methods is None and args.markdown:
        raise ValueError('--markdown prints the table of --methods. Mend: --json FILE')
    flags = ('amp', 'channels_last', 'teacher_precision', 'fuse_bn', 'compile', 'variants')
    given = [flag for flag in flags if getattr(args, flag)]
    if args.methods is not None and given:
        flag = f'--{given[0].replace("_", "-")}'
        raise ValueError(f'--methods measures objectives in float32: leave {flag} out')
    if args.variants and given != ['variants']:
        flag = f'--{given[0].replace("_", "-")}'
        raise ValueError(f'--variants measures its own options, one by one: leave {flag} out')


def _methods(args: argparse.Namespace, cfg: Any, about: dict, how: dict, console: Any) -> int:
    from mmkd.apis.benchmark import method_costs
    from mmkd.apis.benchmark.tables import print_methods

    rounds: dict[str, Any] = dict(
        iters=5 if args.iters is None else args.iters,
        warmup=1 if args.warmup is None else args.warmup,
    )
    result = method_costs(cfg, args.methods, batch_size=args.batch_size or 2, **rounds, **how)
    print_methods(console, result, args.markdown)
    if args.json:
        _write(dict(about, **rounds, **result), args.json)
    return 1 if all('error' in row for row in result['methods'].values()) else 0


def _variants(args: argparse.Namespace, cfg: Any, about: dict, how: dict, console: Any) -> int:
    from mmkd.apis.benchmark import VARIANTS, Options, run_variants
    from mmkd.apis.benchmark.tables import print_result, print_summary

    chosen = Options(
        args.amp, args.channels_last, args.teacher_precision, args.fuse_bn, args.compile
    )
    results: dict[str, Any] = {}
    iters = 20 if args.iters is None else args.iters
    for name, result in run_variants(
        cfg,
        VARIANTS if args.variants else {'as given': chosen},
        iters=iters,
        warmup=5 if args.warmup is None else args.warmup,
        batch_size=args.batch_size,
        **how,
    ):
        results[name] = result
        print_result(console, name, result)
        if args.json:  # after each, so that nothing is lost when a later one is cut off
            _write(dict(about, iters=iters, results=results), args.json)
    if len(results) > 1:
        print_summary(console, results)
    return 1 if all('error' in result for result in results.values()) else 0


def _write(found: dict[str, Any], path: Path) -> None:
    from mmkd.utils.atomic import write_atomically

    write_atomically(f'{json.dumps(found, indent=1, ensure_ascii=False)}\n'.encode(), path)
