"""What a step costs under a stored teacher, beside the student alone and the live teacher.

All take the same batches in turn, block by block, in one process; medians of blocks are printed,
of the processor with all threads, and of the clock. ``held`` is the step whose teacher's outputs
lie in memory ready to be used: what it takes beyond ``alone`` are the objectives, and what
``stored`` takes beyond it is the reading.

    python benchmarks/stored.py configs/demo/distill.py --iters 40
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper

import mmkd.apis.components  # noqa: F401
from mmkd.apis.launch import build_runner, load_config
from mmkd.apis.prepare import prepare_config
from mmkd.apis.store import store
from mmkd.structures.batch import Batch
from mmkd.utils.seeds import SAMPLE, seed_everything
from mmkd.utils.stored.facts import facts_of_run
from mmkd.utils.stored.precision import Precision

BLOCK = 5


def main() -> None:
    """Store, build all three, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--iters', type=int, default=40)
    parser.add_argument('--dtype', default='bf16')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--batch-size', type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, cases in measure(args, folder).items():
            print(f'{name:8} {cases[0]:9.1f} ms of the processor {cases[1]:9.1f} ms of the clock')


def measure(args: argparse.Namespace, folder: str) -> dict[str, tuple[float, float]]:
    """Return the median ms of a step of each, of the processor and of the clock; print ratios."""

    def config(name: str) -> Any:
        cfg = load_config(args.config, {'train_dataloader.num_workers': 0}, f'{folder}/{name}')
        if args.batch_size:
            cfg.train_dataloader.batch_size = args.batch_size
        cfg.train_dataloader.pop('persistent_workers', None)
        cfg.experiment_name = name
        cfg.visualizer.name = name
        return cfg

    out = f'{folder}/out'
    live = build_runner(prepare_config(config('live')), verbose=False)
    store(live, out, Precision(args.dtype), args.iters)
    cfg = config('stored')
    cfg.model.teacher = dict(kind='stored', path=out, taps=cfg.model.teacher.get('taps'))
    runner = build_runner(prepare_config(cfg), verbose=False)
    model: Any = runner.model
    run = model.runs['teacher']
    run.begin(0, args.iters, facts_of_run(cfg, model.data_preprocessor, 0))
    alone = copy.deepcopy(model.student)

    wrappers = {
        name: build_optim_wrapper(one, copy.deepcopy(cfg.optim_wrapper))
        for name, one in (('alone', alone), ('stored', model), ('live', live.model))
    }
    batches = drawn(live, args.iters)

    def step_stored(index: int, data: Any) -> None:
        run.iteration = index
        model.train_step(data, wrappers['stored'])

    held: list[Any] = []

    def step_held(index: int, data: Any) -> None:
        reading, run.run = run.run, lambda batch: held[0]
        model.train_step(data, wrappers['stored'])
        run.run = reading

    with torch.no_grad():
        run.iteration = 0
        inputs = model.data_preprocessor(copy.deepcopy(batches[0]), True)
        held.append(run.run(Batch(inputs['inputs'], inputs['data_samples'])))
    steps: dict[str, Callable[[int, Any], Any]] = dict(
        alone=lambda index, data: alone.train_step(data, wrappers['alone']),
        held=step_held,
        stored=step_stored,
        live=lambda index, data: live.model.train_step(data, wrappers['live']),
    )
    for one in (alone, model, live.model):
        one.train()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(args.rounds + 1):
        for first in range(0, args.iters, BLOCK):
            for name, step in steps.items():
                taken = timed(step, range(first, min(first + BLOCK, args.iters)), batches)
                if turn:  # the first round warms up
                    found[name].append(taken)
    ratios = {
        name: [[a[k] / b[k] for a, b in zip(each, found['alone'], strict=True)] for k in range(2)]
        for name, each in found.items()
    }
    for name, (processor, clock) in ratios.items():
        print(f'{name:8} / alone: {median(processor):.3f} processor, {median(clock):.3f} clock')
    run.end()
    return {
        name: (median(a for a, _ in each), median(b for _, b in each))
        for name, each in found.items()
    }


def drawn(runner: Any, number: int) -> list[Any]:
    """Return the first batches of a run, as its loader gives them."""
    from mmkd.datasets.seeded import seeded_loader

    seed = runner._randomness_cfg['seed']
    loader = seeded_loader(runner.train_loop.dataloader, seed)
    seed_everything(seed, SAMPLE, 0)
    return [data for _, data in zip(range(number), loader, strict=False)]


def timed(step: Callable, indices: range, batches: list[Any]) -> tuple[float, float]:
    """Return ms a step, of the processor and of the clock."""
    data = [copy.deepcopy(batches[index]) for index in indices]
    processor, clock = process_time(), perf_counter()
    for index, one in zip(indices, data, strict=True):
        step(index, one)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    scale = 1e3 / len(data)
    return (process_time() - processor) * scale, (perf_counter() - clock) * scale


if __name__ == '__main__':
    main()
