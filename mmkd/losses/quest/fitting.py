"""Vocabularies of QUEST that are fitted beforehand, each into a file."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmkd.losses.fitted.fitting import sources_of
from mmkd.losses.fitted.source import Source
from mmkd.losses.quest.vocabulary import Vocabulary
from mmkd.utils.atomic import write_atomically
from mmkd.version import __version__


def vocabulary_sources(objectives: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Source]:
    """Return what every vocabulary belongs to, name of its objective -> source.

    Args:
        objectives: Name -> objective, of a Distiller.
        runs: Member -> what runs it.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    found = sources_of(objectives, runs)
    return {name: one for name, one in found.items() if isinstance(one.part, Vocabulary)}


def write_vocabulary(path: str | Path, source: Source, **facts: Any) -> None:
    """Write a fitted vocabulary as a file for ``AssignmentKLLoss(vocabulary=path)``, atomically.

    Args:
        path: A local file.
        source: Of the vocabulary.
        facts: Plain values to be kept beside it under ``meta``.
    """
    vocabulary: Any = source.part
    state = {
        key: torch.as_tensor(getattr(vocabulary, key)).cpu()
        for key in ('words', 'tau', 'fingerprint')
    }
    meta = dict(
        mmkd_version=__version__,
        objective=source.objective,
        teacher=source.run.name,
        tap=source.path,
        pooling=source.part.pooling,
        **facts,
    )
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=meta), buffer)
    write_atomically(buffer.getvalue(), path)
