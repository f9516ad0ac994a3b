"""Fit the parts of losses to their teachers: one pass over training images for all at once."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mmkd.losses.fitted.contract import FittedLoss, Fitter
from mmkd.losses.fitted.source import Source
from mmkd.structures.batch import Batch
from mmkd.utils.progress import track


def sources_of(
    objectives: Mapping[str, Any], runs: Mapping[str, Any], kind: type[FittedLoss] = FittedLoss
) -> dict[str, Source]:
    """Return what every fitted part belongs to, name of its objective -> source.

    Args:
        objectives: Name -> objective, of a Distiller.
        runs: Member -> what runs it.
        kind: Of the losses.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    return {
        name: Source.of(objective.loss, objective.place(runs))
        for name, objective in objectives.items()
        if isinstance(objective.loss, kind)
    }


def batches_of(distiller: Any) -> Callable[[Any], Batch]:
    """Return what makes a batch of what a data loader gives.

    Args:
        distiller: Of whose ``data_preprocessor`` it comes, and whose predicting student says which
            label does not count.
    """
    source, task = distiller.data_preprocessor, distiller.task
    return lambda data: Batch(**source(data, False), ignore_index=task.ignore_index, task=task)


def fitters_of(sources: Mapping[str, Source], loader: DataLoader, seed: int) -> dict[str, Fitter]:
    """Return what fits each part; they share one generator, and draw from no other."""
    generator = torch.Generator().manual_seed(seed)
    images, batches = len(loader.dataset), len(loader)  # type: ignore[arg-type]
    return {
        name: source.loss.fitter(source, images, batches, generator)
        for name, source in sources.items()
    }


@torch.no_grad()
def fit_parts(
    sources: Mapping[str, Source],
    fitters: Mapping[str, Fitter],
    loader: DataLoader,
    batch_of: Callable[[Any], Batch],
    label: str = 'fitting',
) -> dict[str, dict[str, float]]:
    """Fit parts to what their teachers see of a loader's images.

    A teacher runs once a batch, whatever the number of parts that watch it.

    Args:
        sources: Of the parts, whose fingerprints are written.
        fitters: Name of the objective -> what fits its part.
        loader: Images under test transforms; its data set has a length.
        batch_of: Makes a batch of what the loader gives, see :func:`batches_of`.
        label: Of the progress.

    Returns:
        Objective -> what its fitter reports, which is logged too.

    Raises:
        ValueError: Names the objective whose part cannot be fitted.
    """
    teachers = {source.run.name: source.run for source in sources.values()}
    weights = {name: run.digest() for name, run in teachers.items()}
    for number in range(max((fitter.passes for fitter in fitters.values()), default=0)):
        going = {name: fitter for name, fitter in fitters.items() if number < fitter.passes}
        watched = {sources[name].run.name for name, fitter in going.items() if fitter.watches}
        for data in track(loader, len(loader), label):
            batch = batch_of(data)
            # Uncompiled: a compiled teacher takes one size of images.
            seen = {name: teachers[name].watch(batch, compiled=False) for name in sorted(watched)}
            for name, fitter in going.items():
                source = sources[name]
                fitter.see(seen[source.run.name][source.tap] if fitter.watches else None, batch)
    return {name: _finish(name, sources[name], fitters[name], weights) for name in sources}


def _finish(
    name: str, source: Source, fitter: Fitter, weights: Mapping[str, bytes]
) -> dict[str, float]:
    try:
        report = fitter.finish()
    except ValueError as error:
        raise ValueError(f'objective {name!r}: {error}') from error
    source.loss.part.fingerprint.copy_(source.fingerprint(weights[source.run.name]))
    print_log(f'mmkd: {name}: {fitter.tell(report)}', logger='current')
    return report
