"""Fit parts to teachers: one pass over training images, all objectives at once."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd.losses.fitted.source import Source, digest_of
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_count
from mmkd.utils.progress import track

MAX_VECTORS = 200_000


def sources_of(objectives: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Source]:
    """Return what every fitted part belongs to, name of its objective -> source.

    Args:
        objectives: Name -> objective, of a Distiller.
        runs: Member -> what runs it.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    return {
        name: Source.of(objective.loss, objective.place(runs))
        for name, objective in objectives.items()
        if objective.contract.fitted_part is not None
    }


def batches_of(distiller: Any) -> Callable[[Any], Batch]:
    """Return what makes a batch of what a data loader gives.

    Args:
        distiller: Of whose ``data_preprocessor`` it comes, and whose predicting student says which
            label does not count.
    """
    source, task = distiller.data_preprocessor, distiller.task
    return lambda data: Batch(**source(data, False), ignore_index=task.ignore_index, task=task)


@torch.no_grad()
def fit_parts(
    sources: Mapping[str, Source],
    loader: DataLoader,
    batch_of: Callable[[Any], Batch],
    max_vectors: int = MAX_VECTORS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Fit parts to the features of their teachers of a loader's images, in one pass.

    Samples are taken from places at random, spread evenly over the images, pooled as the loss pools
    them; positions that the objective's ``mask='batch.valid'`` leaves out are left out here too. No
    generator but an own one is used.

    Args:
        sources: Of the parts, which are written along with their fingerprints.
        loader: Images under test transforms; its data set has a length.
        batch_of: Makes a batch of what the loader gives, see :func:`batches_of`.
        max_vectors: Vectors of channels for each part, at most.
        seed: Of the places and of the fit.

    Returns:
        Objective -> what is reported of the part, which is logged too.

    Raises:
        ValueError: Too few samples, features that are not finite; see also the part.
    """
    check_count('max_vectors', max_vectors, 1)
    teachers = {source.run.name: source.run for source in sources.values()}
    weights = {name: digest_of(run.model) for name, run in teachers.items()}
    generator = torch.Generator().manual_seed(seed)
    samples = _collect(sources, teachers, loader, batch_of, max_vectors, generator)
    reports = {}
    for name, source in sources.items():
        part = source.part
        try:
            reports[name] = part.fit(part.join(samples.pop(name)), seed)
        except ValueError as error:
            raise ValueError(f'objective {name!r}: {error}') from error
        part.fingerprint.copy_(source.fingerprint(weights[source.run.name]))
        print_log(f'mmkd: {name}: {part.tell(reports[name])}', logger='current')
    return reports


def _collect(
    sources: Mapping[str, Source],
    teachers: Mapping[str, Any],
    loader: DataLoader,
    batch_of: Callable[[Any], Batch],
    max_vectors: int,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """Return samples of each source, image by image."""
    number = len(loader.dataset)  # type: ignore[arg-type]
    samples: dict[str, list[Tensor]] = {name: [] for name in sources}
    done = 0
    for data in track(loader, len(loader), 'fit to the teacher'):
        batch = batch_of(data)
        # Uncompiled: a compiled teacher takes one size of images.
        seen = {name: run.watch(batch, compiled=False) for name, run in teachers.items()}
        for name, source in sources.items():
            found = source.images(seen[source.run.name], batch)
            for index, (image, mask) in enumerate(found, done):
                most = max(1, max_vectors // source.part.places(image))
                quota = _spread(most, number, index)
                samples[name].append(source.part.sample(image, mask, quota, generator))
        done += len(batch.inputs)
    return samples


def _spread(total: int, parts: int, index: int) -> int:
    """Return how much one of so many parts gets of a total that is spread evenly.

    >>> [_spread(10, 4, index) for index in range(4)]
    [2, 3, 2, 3]
    """
    return (index + 1) * total // parts - index * total // parts
