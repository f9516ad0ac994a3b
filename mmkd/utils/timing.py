"""Time and memory of functions, measured side by side."""

import gc
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from mmkd.utils.progress import track
from mmkd.version import __version__

MEMORY_SOURCE = {
    'cuda': 'torch.cuda.max_memory_allocated above what was allocated before',
    'cpu': "torch.profiler's running total of tensor allocations (scratch of oneDNN not included)",
}


def interleaved_times(
    cases: Mapping[str, Callable[[], Any]],
    iters: int = 20,
    warmup: int = 5,
    device: str | torch.device = 'cpu',
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each case, run in turn: drift of the machine hits all alike.

    Args:
        cases: Name -> function.
        iters: Rounds that count.
        warmup: Rounds before them.
        device: The device to wait for before and after each run.
        clock: Where the time comes from.

    >>> ticks = iter([0., 1., 1., 4., 4., 6., 6., 9.])  # a: 1 and 2, b: 3 and 3
    >>> cases = dict(a=lambda: None, b=lambda: None)
    >>> interleaved_times(cases, iters=2, warmup=0, clock=lambda: next(ticks))
    {'a': 1.5, 'b': 3.0}
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    rounds = warmup + iters
    for i in track(range(rounds), rounds, 'rounds'):
        for name, run in cases.items():
            _synchronise(device)
            start = clock()
            run()
            _synchronise(device)
            elapsed = clock() - start
            if i >= warmup:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(run: Callable[[], Any], device: str | torch.device = 'cpu') -> int:
    """Return the bytes of tensors that ``run`` needs at its peak, on top of those that are there.

    On CUDA the caching allocator's peak; on a CPU the profiler's record of allocations, which is
    exact for tensors.

    >>> def twice_a_megabyte():
    ...     x = torch.ones(2**18)
    ...     y = x + 1
    ...     del x
    ...     return y * 2
    >>> peak_memory(twice_a_megabyte) // 2**20
    2
    """
    gc.collect()
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _profiled_peak(run)


def _profiled_peak(run: Callable[[], Any]) -> int:
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # else two lines on stderr for each profile
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        # ru_maxrss never falls, so it could not tell one case from the next; the trace is the
        # public way to the events.
        path = Path(folder) / 'trace.json'
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding='utf-8', errors='replace'))['traceEvents']
    changes = [
        (e['ts'], e['args']['Bytes'])
        for e in events
        if e.get('name') == '[memory]' and e['args'].get('Device Type') == 0
    ]
    total = peak = 0
    for _, change in sorted(changes, key=lambda event: event[0]):
        total += change
        peak = max(peak, total)
    return peak


def _synchronise(device: str | torch.device) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def environment(device: str | torch.device = 'cpu') -> dict[str, str]:
    """Return hardware and versions, without which no number means anything."""
    found = dict(torch=torch.__version__, python=platform.python_version(), mmkd=__version__)
    if torch.device(device).type != 'cuda':
        return dict(
            device=f'{_cpu_name()}, {torch.get_num_threads()} threads',
            **found,
            memory=MEMORY_SOURCE['cpu'],
        )
    tf32 = (
        f'convolutions {torch.backends.cudnn.allow_tf32}, matmul '
        f'{torch.backends.cuda.matmul.allow_tf32}'
    )
    return dict(
        device=torch.cuda.get_device_name(device),
        **found,
        cuda=str(torch.version.cuda),
        cudnn=str(torch.backends.cudnn.version()),
        tf32=tf32,
        memory=MEMORY_SOURCE['cuda'],
    )


def _cpu_name() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            return next(
                line.split(':')[1].strip() for line in file if line.startswith('model name')
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
