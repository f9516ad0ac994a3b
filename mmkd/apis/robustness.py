"""How much of a test result is left on corrupted and on attacked images."""

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner

from mmkd.datasets.transforms.corrupt import CORRUPTIONS
from mmkd.engine.runner.pgd_loop import PGD_KEYS
from mmkd.evaluation.functional.pgd import pgd
from mmkd.evaluation.part_of_a_set import count_what_ran
from mmkd.registry import DATASETS, LOOPS
from mmkd.utils.averages import mean_metrics
from mmkd.utils.checks import check_choice, check_count, check_keys

WRITES_TO = ('output_dir', 'outfile_prefix', 'out_file_path')  # of mmseg's, mmdet's, mmengine's


def robustness(
    runner: Runner,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = (3,),
    images: int | None = None,
    attack: dict[str, Any] | None = None,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Test a model on its test set as it is, under each corruption, and under PGD.

    Every condition sees the same images. Corruptions are the last step of the test pipeline before
    it packs, so they act on the size that the network gets. Of what is found the run's folder gets
    the log alone: what lies there as a test counts as the run's result.

    Args:
        runner: A Runner whose config has a test set with labels; its ``load_from`` is tested, else
            its weights as they are.
        corruptions: Names of :class:`mmkd.datasets.Corrupt`; one that comes again counts once.
        severities: 1 to 5; metrics are averaged over them, each counts once.
        images: So many images, evenly spread over the test set; None: all.
        attack: Arguments of :class:`mmkd.PGDTestLoop`; None: no attack.

    Yields:
        (condition, metrics): 'clean', the corruptions, 'corrupted' (their mean), 'PGD'.

    Raises:
        TypeError: An unknown argument of the attack, with the nearest match.
        ValueError: An unknown corruption or severity; an attack that PGD refuses; a test set whose
            pipeline is not to be seen.
    """
    corruptions, severities = list(dict.fromkeys(corruptions)), list(dict.fromkeys(severities))
    _check(corruptions, severities, images, attack)
    loader = copy.deepcopy(runner.cfg.test_dataloader)
    if corruptions or images is not None:
        _check_pipeline(loader.dataset)
    if images is not None:
        loader.dataset.indices = _spread(loader.dataset, images)
    runner.call_hook('before_run')  # before the weights: EMA builds what they are loaded into
    runner.load_or_resume()
    total = 1 + len(corruptions) + (attack is not None)
    runner.logger.info(f'condition 1 of {total}: clean')
    run = partial(_test, runner, part=images is not None)
    yield 'clean', run(loader)
    means = []
    for number, name in enumerate(corruptions, 2):
        runner.logger.info(f'condition {number} of {total}: {name}')
        found = [run(_corrupted(loader, name, severity)) for severity in severities]
        means.append(mean_metrics(found))
        yield name, means[-1]
    if means:
        yield 'corrupted', mean_metrics(means)
    if attack is not None:
        runner.logger.info(f'condition {total} of {total}: PGD')
        yield 'PGD', run(loader, dict(type='mmkd.PGDTestLoop', **attack))
    runner.call_hook('after_run')


def _check(
    corruptions: Sequence[str],
    severities: Sequence[int],
    images: int | None,
    attack: Mapping[str, Any] | None,
) -> None:
    """Refuse before the first condition what the last one would refuse."""
    for name in corruptions:
        check_choice('corruptions', name, CORRUPTIONS)
    for severity in severities:
        check_choice('severities', severity, (1, 2, 3, 4, 5))
    if images is not None:
        check_count('images', images, 1)
    if attack is not None:
        check_keys(attack, (*PGD_KEYS, 'seed'), 'attack')
        options = dict(attack)
        generator = torch.Generator().manual_seed(options.pop('seed', 0))
        pgd(torch.sum, torch.zeros(1), generator=generator, **options)  # of one pixel, to be told


def _test(
    runner: Runner, loader: Any, loop: dict | None = None, part: bool = False
) -> dict[str, float]:
    """Test under one condition, a part of the set perhaps; its files are deleted."""
    logs = runner._log_dir
    with tempfile.TemporaryDirectory() as folder:
        built = LOOPS.build(
            loop or dict(type='TestLoop'),
            default_args=dict(
                runner=runner,
                dataloader=copy.deepcopy(loader),
                evaluator=_writing_into(folder, runner.cfg.test_evaluator),
            ),
        )
        if part:
            count_what_ran(built.evaluator.metrics)
        runner._test_loop = built  # hooks read it
        # mmkd report takes the newest <time>/<time>.json of a run for its result
        runner._log_dir = folder
        try:
            return {key: float(value) for key, value in built.run().items()}
        finally:
            runner._log_dir = logs


def _writing_into(folder: str, evaluator: Any) -> Any:
    """Return an evaluator whose metrics write their predictions into a folder, where they do."""
    evaluator = copy.deepcopy(evaluator)
    for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
        for key in WRITES_TO if isinstance(metric, dict) else ():
            if metric.get(key) is not None:
                metric[key] = str(Path(folder, Path(metric[key]).name))
    return evaluator


def _check_pipeline(dataset: Any) -> None:
    if 'pipeline' not in dataset:
        raise ValueError(
            f'the test set {dataset.get("type")} has no pipeline of its own that could corrupt its '
            'images. Mend: --cfg-options test_dataloader.dataset=… with the plain data set in its '
            'place'
        )


def _spread(dataset: Any, images: int) -> list[int]:
    """Return so many indices, evenly spread over those of the data set's images that it has."""
    own = dataset.get('indices')
    there: Sequence[int] = range(len(DATASETS.build({**dataset, 'indices': None})))
    if isinstance(own, int):  # mmengine: n are the first n, −n the last
        there = there[:own] if own >= 0 else there[own:]
    elif own is not None:
        there = own
    places = torch.linspace(0, len(there) - 1, min(images, len(there))).round().long().tolist()
    return [there[place] for place in places]


def _corrupted(loader: Any, corruption: str, severity: int) -> Any:
    loader = copy.deepcopy(loader)
    pipeline = list(loader.dataset.pipeline)
    last = max(
        (i for i, step in enumerate(pipeline) if 'Pack' in step['type']), default=len(pipeline)
    )
    pipeline.insert(last, dict(type='mmkd.Corrupt', corruption=corruption, severity=severity))
    loader.dataset.pipeline = pipeline
    return loader
