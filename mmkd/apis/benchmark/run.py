"""What a distillation step costs, beside its student, its teacher, and both as peers run them."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import torch
from mmengine.config import Config

from mmkd.apis.benchmark.pair import Options, Pair
from mmkd.apis.benchmark.peers import mmrazor_case
from mmkd.utils.timing import interleaved_times, peak_memory

# What the ratios should stay below; with a critic the step also holds the critic's own training.
TARGETS = {
    'overhead': 1.05,
    'overhead_with_critic': 1.25,
    'memory': 1.10,
    'memory_with_critic': 1.10,
    'objectives': 0.10,
    'objectives_with_critic': 0.20,
    'noise': 0.03,
}
# Of peers, which have no teacher: the step against the sum of their own steps. It has all their
# activations at once.
PEER_TARGETS = {'overhead': 1.10}
VARIANTS = {
    'fp32, NCHW': Options('fp32', 'none', 'fp32', False, False),
    'bf16, NCHW': Options('bf16', 'none', 'bf16', False, False),
    'bf16, channels_last student': Options('bf16', 'student', 'bf16', False, False),
    'bf16, channels_last': Options('bf16', 'both', 'bf16', False, False),
    'bf16, channels_last, teacher compiled': Options('bf16', 'both', 'bf16', False, True),
    'bf16, channels_last, teacher compiled and fused': Options('bf16', 'both', 'bf16', True, True),
}


def ratios(times: dict[str, float], memory: dict[str, int]) -> dict[str, float]:
    """Return what the targets speak of, from seconds and peak bytes by case.

    ``overhead`` and ``memory`` compare the step with student plus teacher, each as this config runs
    them, ``peers`` with a peer's student step plus its teacher forward, ``mmrazor`` with a step of
    mmrazor. ``objectives`` and ``noise`` are shares of the step; the noise of a teacher is what its
    forward takes longer.

    >>> ratios(dict(student=2., teacher=2., step=5., peer_student=6., peer_teacher=4.),
    ...        dict(student=200, teacher=100, step=315))
    {'overhead': 1.25, 'memory': 1.05, 'peers': 0.5}
    """
    found = {}
    for suffix in ('', '_with_critic'):
        step = f'step{suffix}'
        if step in times:
            found[f'overhead{suffix}'] = times[step] / (times['student'] + times['teacher'])
        if step in memory:
            found[f'memory{suffix}'] = memory[step] / (memory['student'] + memory['teacher'])
    step = 'step' if 'step' in times else 'step_with_critic'
    if 'objectives' in times:
        found['objectives'] = times['objectives'] / times[step]
    if 'critics' in times:
        found['objectives_with_critic'] = (times.get('objectives', 0.0) + times['critics']) / times[
            'step_with_critic'
        ]
        found['critics'] = times['critics'] / times['step_with_critic']
    if 'noise' in times or 'noisy_teacher' in times:
        slower = (
            max(0.0, times['noisy_teacher'] - times['teacher']) if 'noisy_teacher' in times else 0.0
        )
        found['noise'] = (times.get('noise', 0.0) + slower) / times[step]
    if 'peer_student' in times:
        found['peers'] = times[step] / (times['peer_student'] + times['peer_teacher'])
    if 'mmrazor' in times:
        found['mmrazor'] = times[step] / times['mmrazor']
    return found


def run(
    cfg: Config,
    options: Options,
    iters: int = 20,
    warmup: int = 5,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    device: str | torch.device = 'cpu',
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """Measure a config in one way.

    Args:
        cfg: A config whose model is a Distiller.
        options: How the pair runs.
        iters: Rounds that count, each of every case.
        warmup: Rounds before them.
        size: Height and width; None takes the data preprocessor's.
        batch_size: Images; None takes the config's.
        device: Where.
        clock: ``time.process_time`` where other programs use the same processor.

    Returns:
        ``dict(options, size, batch_size, seconds, bytes, ratios, mmrazor, targets)``; mmrazor: what
        came of it.
    """
    with _convolutions_of(cfg):
        pair = Pair(cfg, options, size, batch_size, device)
        cases = pair.cases()
        peer, note = mmrazor_case(pair)
        if peer is not None:
            cases['mmrazor'] = peer
        for name in {'objectives', 'critics'} & set(cases) if warmup == 0 else ():
            cases[name]()  # in its first call the members run too
        seconds = interleaved_times(cases, iters, warmup, device, clock)
        memory = {name: peak_memory(case, device) for name, case in cases.items()}
    return dict(
        options=asdict(options),
        size=list(pair.size),
        batch_size=pair.batch_size,
        seconds=seconds,
        bytes=memory,
        ratios=ratios(seconds, memory),
        mmrazor=note,
        targets=TARGETS if pair.full.teachers else PEER_TARGETS,
    )


def run_variants(
    cfg: Config, variants: dict[str, Options], **kwargs: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure in several ways, in turn; one that fails yields ``dict(options, error)``."""
    for name, options in variants.items():
        try:
            result = run(cfg, options, **kwargs)
        except Exception as error:
            result = dict(
                options=asdict(options),
                error=f'{type(error).__name__}: {error}'.splitlines()[0][:300],
            )
        if options.compile:
            torch.compiler.reset()  # what is compiled would keep its teacher on the device
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield name, result


@contextmanager
def _convolutions_of(cfg: Config) -> Iterator[None]:
    """Choose cuDNN's kernels as the config's runs do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = bool(cfg.get('env_cfg', {}).get('cudnn_benchmark', before))
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
