"""Fit the vocabularies of QUEST: one pass over training images, all levels at once."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mmkd.losses.fitted.fitting import batches_of as batches_of
from mmkd.losses.fitted.fitting import fit_parts, sources_of
from mmkd.losses.fitted.source import Source
from mmkd.losses.quest.assignment_kl import AssignmentKLLoss
from mmkd.losses.quest.fitter import MAX_VECTORS as MAX_VECTORS
from mmkd.losses.quest.fitter import VocabularyFitter
from mmkd.structures.batch import Batch
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_count
from mmkd.version import __version__


def vocabulary_sources(objectives: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Source]:
    """Return what every vocabulary belongs to, name of its objective -> source.

    Args:
        objectives: Name -> objective, of a Distiller.
        runs: Member -> what runs it.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    return sources_of(objectives, runs, AssignmentKLLoss)


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
        Objective -> what :meth:`mmkd.losses.quest.vocabulary.Vocabulary.describe` says, which is
        logged too.

    Raises:
        ValueError: Too few vectors for the words, features that are not finite; see also the
            vocabulary.
    """
    check_count('max_vectors', max_vectors, 1)
    generator = torch.Generator().manual_seed(seed)
    images = len(loader.dataset)  # type: ignore[arg-type]
    fitters = {
        name: VocabularyFitter(source, images, generator, seed, max_vectors)
        for name, source in sources.items()
    }
    return fit_parts(sources, fitters, loader, batch_of, 'vocabulary')


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
