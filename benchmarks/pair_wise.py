"""Pair-wise affinity: the materialised N×N form beside ours, in time and extra memory."""

import argparse
import json
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.relations.pair_wise_affinity import pair_wise_affinity
from mmkd.utils.tables import make_console, print_table
from mmkd.utils.timing import environment, interleaved_times, peak_memory


def materialised(student: Tensor, teacher: Tensor) -> Tensor:
    """The equation as it stands: two N×N matrices of cosines, their squared difference."""

    def affinity(x: Tensor) -> Tensor:
        unit = F.normalize(x.flatten(2), dim=1)
        return unit.transpose(1, 2) @ unit

    return (affinity(student) - affinity(teacher)).square().mean()


def measure(height: int, width: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, peak bytes and values for one size of map, as far as ``--max-gib`` allows."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, args.channels[0], height, width)
    student = torch.randn(shape, generator=generator).to(args.device).requires_grad_()
    teacher = torch.randn(args.batch_size, args.channels[1], height, width, generator=generator).to(
        args.device
    )
    forms = {'materialised': materialised, 'ours': pair_wise_affinity}
    # Two affinities and their difference, which backward keeps, and as much again while it runs.
    needed = 5 * 4 * args.batch_size * (height * width) ** 2 / 2**30
    if needed > args.max_gib:
        forms.pop('materialised')

    def step(form: Any) -> float:
        student.grad = None
        loss = form(student, teacher)
        loss.backward()
        return loss

    cases = {name: lambda form=form: step(form) for name, form in forms.items()}
    clock = process_time if args.cpu_time else perf_counter
    seconds = interleaved_times(cases, args.iters, args.warmup, args.device, clock)
    memory = {name: peak_memory(case, args.device) for name, case in cases.items()}
    values = {name: case().item() for name, case in cases.items()}
    return dict(
        size=[height, width], seconds=seconds, bytes=memory, values=values, materialised_gib=needed
    )


def main() -> None:
    """Measure every size and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--channels', type=int, nargs=2, default=(128, 512), metavar=('STUDENT', 'TEACHER')
    )
    parser.add_argument(
        '--sizes', nargs='+', default=['64x128', '128x256'], help='maps, height x width'
    )
    parser.add_argument('--iters', type=int, default=10)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument(
        '--max-gib', type=float, default=4.0, help='largest materialised form to try (default: 4)'
    )
    parser.add_argument(
        '--cpu-time', action='store_true', help='seconds of the processor, where others use it too'
    )
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    about = environment(args.device)
    results = [measure(*(int(n) for n in size.split('x')), args) for size in args.sizes]
    console = make_console()
    console.print(
        '\n'.join(f'{key}: {value}' for key, value in about.items()), markup=False, highlight=False
    )
    print_table(
        console,
        f'batch {args.batch_size}, channels {tuple(args.channels)}, forward and backward',
        ('nodes', 'form', 'ms', 'extra MiB', 'value'),
        [
            (
                _size(r),
                name,
                f'{1e3 * r["seconds"][name]:.1f}',
                f'{r["bytes"][name] / 2**20:.0f}',
                f'{r["values"][name]:.6e}',
            )
            for r in results
            for name in r['seconds']
        ],
    )
    for r in results:
        if 'materialised' in r['seconds']:
            console.print(
                f'{_size(r)}: ours is {r["seconds"]["materialised"] / r["seconds"]["ours"]:.1f}× '
                f'faster and needs {r["bytes"]["materialised"] / r["bytes"]["ours"]:.1f}× less '
                'extra memory'
            )
        else:
            console.print(
                f'{_size(r)}: materialised would need {r["materialised_gib"]:.0f} GiB, left out'
            )
    first, last = results[0], results[-1]
    if len(results) > 1:
        nodes = last['size'][0] * last['size'][1] / (first['size'][0] * first['size'][1])
        console.print(
            f'from the first to the last size: {nodes:.1f}× the nodes, ours '
            f'{last["seconds"]["ours"] / first["seconds"]["ours"]:.1f}× the time and '
            f'{last["bytes"]["ours"] / first["bytes"]["ours"]:.1f}× the memory'
        )
    if args.json:
        found = dict(about, channels=args.channels, batch_size=args.batch_size, results=results)
        args.json.write_text(json.dumps(found, indent=1), encoding='utf-8')


def _size(result: dict[str, Any]) -> str:
    return '{}×{}'.format(*result['size'])


if __name__ == '__main__':
    main()
