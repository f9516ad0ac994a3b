"""Fit the vocabularies of QUEST: one pass over training images, all levels at once."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd.losses.quest.assignment_kl import AssignmentKLLoss
from mmkd.losses.quest.source import Source, digest_of
from mmkd.structures.batch import Batch
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_count
from mmkd.utils.progress import track
from mmkd.version import __version__

MAX_VECTORS = 200_000


def vocabulary_sources(objectives: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Source]:
    """Return what every vocabulary belongs to, name of its objective -> source.

    Args:
        objectives: Name -> objective, of a Distiller.
        runs: Member -> what runs it.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    return {
        name: Source.of(objective.loss, objective.place(runs))
        for name, objective in objectives.items()
        if isinstance(objective.loss, AssignmentKLLoss)
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
def fit_vocabularies(
    sources: Mapping[str, Source],
    loader: DataLoader,
    batch_of: Callable[[Any], Batch],
    max_vectors: int = MAX_VECTORS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Fit vocabularies to the features of their teachers of a loader's images, in one pass.

    Vectors are taken from positions at random, spread evenly over the images, pooled as the loss
    pools them; positions that the objective's ``mask='batch.valid'`` leaves out are left out here
    too. No generator but an own one is used.

    Args:
        sources: Of the vocabularies, which are written along with their fingerprints.
        loader: Images under test transforms; its data set has a length.
        batch_of: Makes a batch of what the loader gives, see :func:`batches_of`.
        max_vectors: Vectors for each vocabulary, at most.
        seed: Of the positions and of the k-means.

    Returns:
        Objective -> what :meth:`mmkd.losses.Vocabulary.describe` says, which is logged too.

    Raises:
        ValueError: Too few vectors for the words, features that are not finite; see also the
            vocabulary.
    """
    check_count('max_vectors', max_vectors, 1)
    teachers = {source.run.name: source.run for source in sources.values()}
    weights = {name: digest_of(run.model) for name, run in teachers.items()}
    generator = torch.Generator().manual_seed(seed)
    vectors = _collect(sources, teachers, loader, batch_of, max_vectors, generator)
    reports = {}
    for name, source in sources.items():
        vocabulary = source.loss.vocabulary
        try:
            reports[name] = vocabulary.fit(torch.cat(vectors.pop(name)), seed)
        except ValueError as error:
            raise ValueError(f'objective {name!r}: {error}') from error
        vocabulary.fingerprint.copy_(source.fingerprint(weights[source.run.name]))
        _log(name, len(vocabulary.words), reports[name])
    return reports


def write_vocabulary(path: str | Path, source: Source, **facts: Any) -> None:
    """Write a fitted vocabulary as a file for ``AssignmentKLLoss(vocabulary=path)``, atomically.

    Args:
        path: A local file.
        source: Of the vocabulary.
        facts: Plain values to be kept beside it under ``meta``.
    """
    vocabulary = source.loss.vocabulary
    state = {
        key: torch.as_tensor(getattr(vocabulary, key)).cpu()
        for key in ('words', 'tau', 'fingerprint')
    }
    meta = dict(
        mmkd_version=__version__,
        objective=source.objective,
        teacher=source.run.name,
        tap=source.path,
        pooling=source.loss.pooling,
        **facts,
    )
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=meta), buffer)
    write_atomically(buffer.getvalue(), path)


def _collect(
    sources: Mapping[str, Source],
    teachers: Mapping[str, Any],
    loader: DataLoader,
    batch_of: Callable[[Any], Batch],
    max_vectors: int,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """Return vectors of each source, image by image."""
    number = len(loader.dataset)  # type: ignore[arg-type]
    vectors: dict[str, list[Tensor]] = {name: [] for name in sources}
    done = 0
    for data in track(loader, len(loader), 'vocabulary'):
        batch = batch_of(data)
        # Uncompiled: a compiled teacher takes one size of images.
        seen = {name: run.watch(batch, compiled=False) for name, run in teachers.items()}
        images = range(done, done + len(batch.inputs))
        quotas = [_spread(max_vectors, number, image) for image in images]
        done += len(quotas)
        for name, source in sources.items():
            found = source.vectors(seen[source.run.name], batch)
            for own, quota in zip(found, quotas, strict=True):
                chosen = torch.randperm(len(own), generator=generator)[:quota]
                vectors[name].append(own[chosen.to(own.device)].float().cpu())
    return vectors


def _spread(total: int, parts: int, index: int) -> int:
    """Return how much one of so many parts gets of a total that is spread evenly.

    >>> [_spread(10, 4, index) for index in range(4)]
    [2, 3, 2, 3]
    """
    return (index + 1) * total // parts - index * total // parts


def _log(name: str, words: int, report: dict[str, float]) -> None:
    print_log(
        f'mmkd: {name}: {words} words fitted to {report["vectors"]} vectors: mean squared distance '
        f'{report["inertia"]:.4g}, perplexity of words used {report["words_used"]:.1f}; tau '
        f'{report["tau"]:.4g}: mean max p_T {report["confidence"]:.3f}, perplexity of an '
        f'assignment {report["assignment"]:.2f}',
        logger='current',
    )
