"""Measure the distillation step of a config beside its student and teacher alone."""

import argparse
import json
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console

from mmkd.apis.benchmark import VARIANTS, Options, environment, run_variants
from mmkd.apis.benchmark.pair import AMP, LAYOUTS
from mmkd.apis.cli import CfgOptions, common_flags, count, run
from mmkd.apis.launch import load_config
from mmkd.apis.prepare import has_gpu
from mmkd.distiller.members.member import PRECISIONS
from mmkd.utils.tables import make_console, print_table

CASES = dict(
    student='student step alone (of peers: one after the other)',
    teacher='teacher forward alone',
    noise='noise on what students see, alone',
    noisy_teacher='teacher forward with its noise',
    objectives='objectives alone, forward and backward, without critics',
    critics='critics alone, forward and backward, for the student and for themselves',
    step='distillation step, without critics',
    step_with_critic='distillation step, critics too',
    peer_student="peers' student step: fp32",
    peer_teacher="peers' teacher forward: fp32, mode='loss'",
    mmrazor="mmrazor's step",
)
RATIOS = dict(
    overhead='step / (student + teacher)',
    overhead_with_critic='step with critics / (student + teacher)',
    memory='memory of the step / (student + teacher)',
    memory_with_critic='memory of the step with critics / (student + teacher)',
    objectives='objectives alone / step',
    objectives_with_critic='(objectives + critics) alone / step with critics',
    critics='critics alone / step with critics',
    noise='noise / step',
    peers="step / (peers' student + peers' teacher); the aim on an H100 is 0.5",
    mmrazor="step / mmrazor's step",
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Benchmark a distillation config on generated images'
    )
    parser.add_argument('config', help='config file, or pkg::path')
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
    parser.add_argument('--device', default='cuda' if has_gpu() else 'cpu')
    parser.add_argument(
        '--amp', choices=list(AMP), help="the student's precision (default: the config's)"
    )
    parser.add_argument(
        '--channels-last', nargs='?', const='both', choices=LAYOUTS, help='whose (default: both)'
    )
    parser.add_argument(
        '--teacher-precision', choices=list(PRECISIONS), help="default: the config's"
    )
    parser.add_argument(
        '--fuse-bn', action='store_true', default=None, help="fold the teacher's BatchNorm"
    )
    parser.add_argument(
        '--compile', action='store_true', default=None, help='torch.compile the teacher'
    )
    parser.add_argument(
        '--variants', action='store_true', help=f'run these in turn: {"; ".join(VARIANTS)}'
    )
    parser.add_argument(
        '--cpu-time', action='store_true', help='seconds of the processor, where others use it too'
    )
    parser.add_argument('--json', type=Path, help='also write every number there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: key=value …'
    )
    return common_flags(parser).parse_args()


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    console = make_console()
    MMLogger.get_instance('mmkd_benchmark', log_level='INFO' if args.verbose else 'ERROR')
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    chosen = Options(
        args.amp, args.channels_last, args.teacher_precision, args.fuse_bn, args.compile
    )
    variants = VARIANTS if args.variants else {'as given': chosen}
    about = dict(config=args.config, cfg_options=args.cfg_options or {}, **environment(args.device))
    console.print(
        '\n'.join(f'{key}: {value}' for key, value in about.items()), markup=False, highlight=False
    )
    results: dict[str, Any] = {}
    for name, result in run_variants(
        cfg,
        variants,
        iters=args.iters,
        warmup=args.warmup,
        batch_size=args.batch_size,
        size=tuple(args.size) if args.size else None,
        device=args.device,
        clock=process_time if args.cpu_time else perf_counter,
    ):
        results[name] = result
        print_result(console, name, result)
        if args.json:  # after each, so that nothing is lost when a later one is cut off
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(
                json.dumps(dict(about, iters=args.iters, results=results), indent=1),
                encoding='utf-8',
            )
    if len(results) > 1:
        print_summary(console, results)
    if all('error' in result for result in results.values()):
        raise SystemExit(1)


def print_result(console: Console, name: str, result: dict[str, Any]) -> None:
    """Print times, memory and ratios of one variant."""
    if 'error' in result:
        console.print(f'{name}: {result["error"]}', style='red', markup=False)
        return
    height, width = result['size']
    targets = result['targets']
    print_table(
        console,
        f'{name}: {result["batch_size"]} × {height}×{width}',
        ('what', 'ms', 'peak MiB on top'),
        [
            (CASES[case], f'{1e3 * seconds:.1f}', f'{result["bytes"][case] / 2**20:.0f}')
            for case, seconds in result['seconds'].items()
        ],
    )
    print_table(
        console,
        f'{name}: ratios',
        ('ratio', 'value', 'target', ''),
        [
            (
                RATIOS[key],
                f'{value:.3f}',
                f'≤ {targets[key]:.2f}' if key in targets else '',
                '' if key not in targets else 'met' if value <= targets[key] else 'missed',
            )
            for key, value in result['ratios'].items()
        ],
    )
    console.print(result['mmrazor'], markup=False)


def print_summary(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """Print one column a variant: milliseconds, then ratios."""
    rows = []
    for key, label in CASES.items():
        rows.append(
            [
                f'{label}, ms',
                *(_cell(result.get('seconds', {}), key, 1e3, 1) for result in results.values()),
            ]
        )
    for key, label in RATIOS.items():
        rows.append(
            [label, *(_cell(result.get('ratios', {}), key, 1, 3) for result in results.values())]
        )
    print_table(
        console,
        'all variants',
        ['', *results],
        [row for row in rows if any(cell != '–' for cell in row[1:])],
    )


def _cell(values: dict[str, float], key: str, factor: float, digits: int) -> str:
    return f'{factor * values[key]:.{digits}f}' if key in values else '–'


if __name__ == '__main__':
    run(main)
