"""Fit the vocabularies of QUEST: one pass over training images, all levels at once."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler, Subset

from mmkd.distiller.objectives.objective import Objective
from mmkd.distiller.objectives.references import follow
from mmkd.losses.quest.assignment_kl import AssignmentKLLoss, pool_map, positions
from mmkd.structures.batch import Batch, read_batch
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_count
from mmkd.version import __version__

if TYPE_CHECKING:
    from mmkd.distiller import Distiller

MAX_VECTORS = 200_000


def vocabulary_objectives(distiller: 'Distiller') -> dict[str, Objective]:
    """Return the objectives that need a vocabulary, name -> objective.

    Raises:
        ValueError: One reads what is no teacher's, or changes the teacher's map by a connector.
    """
    found = {
        name: o for name, o in distiller.objectives.items() if isinstance(o.loss, AssignmentKLLoss)
    }
    for name, objective in found.items():
        reference = objective.reads['teacher']
        if reference.split('.')[0] not in distiller.teachers:
            raise ValueError(
                f'objective {name!r} reads teacher={reference!r}, which is no teacher (teachers: '
                f'{list(distiller.teachers)}): words fitted to features that go on changing mean '
                'nothing. Mend: a frozen teacher'
            )
        if 'teacher' in objective.connectors:
            raise ValueError(
                f'objective {name!r} has a connector of the teacher, but its vocabulary is fitted '
                "to the tap itself. Mend: connectors=dict(student='auto')"
            )
    return found


@torch.no_grad()
def fit_vocabularies(
    distiller: 'Distiller',
    loader: DataLoader,
    names: Iterable[str] | None = None,
    max_vectors: int = MAX_VECTORS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Fit the vocabularies of a Distiller to its teachers' features of a loader's images, in one pass.

    Vectors are taken from positions at random, spread evenly over the images, pooled as the loss
    pools them; positions that the objective's ``mask='batch.valid'`` leaves out are left out here
    too. No generator but an own one is used.

    Args:
        distiller: Its vocabularies, and their fingerprints, are written.
        loader: Images under test transforms; its data set has a length.
        names: Objectives; None means all that have a vocabulary.
        max_vectors: Vectors for each vocabulary, at most.
        seed: Of the positions and of the k-means.

    Returns:
        Objective -> what :meth:`mmkd.losses.Vocabulary.describe` says, which is logged too.

    Raises:
        ValueError: Too few vectors for the words, features that are not finite; see also the
            vocabulary.
    """
    check_count('max_vectors', max_vectors, 1)
    objectives = vocabulary_objectives(distiller)
    objectives = {name: objectives[name] for name in names or objectives}
    origins = fingerprints(distiller)
    vectors = _collect(
        distiller, objectives, loader, max_vectors, torch.Generator().manual_seed(seed)
    )
    reports = {}
    for name, objective in objectives.items():
        vocabulary = objective.loss.vocabulary
        try:
            report = vocabulary.fit(torch.cat(vectors.pop(name)), seed)
        except ValueError as error:
            raise ValueError(f'objective {name!r}: {error}') from error
        vocabulary.fingerprint.copy_(origins[name])
        reports[name] = report
        print_log(
            f'mmkd: {name}: {len(vocabulary.words)} words fitted to {report["vectors"]} vectors: '
            f'mean squared distance {report["inertia"]:.4g}, perplexity of words used '
            f'{report["words_used"]:.1f}; tau {report["tau"]:.4g}: mean max p_T '
            f'{report["confidence"]:.3f}, perplexity of an assignment {report["assignment"]:.2f}',
            logger='current',
        )
    return reports


def check_vocabularies(distiller: 'Distiller') -> None:
    """Refuse a fitted vocabulary of another teacher, tap or pooling; those that are not fitted yet are left alone.

    Raises:
        ValueError: Names the objective and what differs.
    """
    objectives = vocabulary_objectives(distiller)
    fitted = [name for name, objective in objectives.items() if objective.loss.vocabulary.fitted]
    if not fitted:
        return
    origins = fingerprints(distiller)
    for name in fitted:
        try:
            objectives[name].loss.vocabulary.check(origins[name])
        except ValueError as error:
            raise ValueError(f'objective {name!r}: {error}') from error


@torch.no_grad()
def draw_words(distiller: 'Distiller') -> list[str]:
    """Give random words to every vocabulary that is not fitted yet, to measure costs; return its objectives' names."""
    fresh = [
        (name, o.loss.vocabulary)
        for name, o in vocabulary_objectives(distiller).items()
        if not o.loss.vocabulary.fitted
    ]
    generator = torch.Generator().manual_seed(0)
    for _, vocabulary in fresh:
        vocabulary.words.copy_(torch.randn(vocabulary.words.shape, generator=generator))
        if isinstance(vocabulary.tau, Tensor):  # found by 'auto'
            vocabulary.tau.fill_(1.0)
    return [name for name, _ in fresh]


def fingerprints(distiller: 'Distiller') -> dict[str, Tensor]:
    """Return what each vocabulary belongs to, objective -> SHA-256 (3, 32) of teacher weights, tap path and pooling."""
    found: dict[str, Tensor] = {}
    weights: dict[str, bytes] = {}
    for name, objective in vocabulary_objectives(distiller).items():
        member, tap = objective.reads['teacher'].split('.')
        run, loss = distiller.runs[member], objective.loss
        weights[member] = weights.get(member) or _digest_of(run.model)
        pooling = f'{loss.pooling}, {loss.vocabulary.words.shape[1]} channels'
        digests = (
            weights[member],
            *(
                hashlib.sha256(text.encode()).digest()
                for text in (run.taps.paths[tap].text, pooling)
            ),
        )
        found[name] = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
    return found


def training_images(
    cfg: Config, dataloader: dict | None = None, images: int | None = None, seed: int = 0
) -> DataLoader:
    """Return a loader of the run's training images under its validation pipeline, each once, in order.

    Args:
        cfg: The run's config: ``train_dataloader.dataset`` with the pipeline of
            ``val_dataloader.dataset``.
        dataloader: ``dict(dataset=…, batch_size=1, num_workers=0)`` in place of those two; its
            sampler is not used.
        images: How many, evenly spaced; None takes all.
        seed: Of the workers.

    Raises:
        ValueError: The config has no such data sets.
    """
    if dataloader is None:
        train, val = (cfg.get(key) or {} for key in ('train_dataloader', 'val_dataloader'))
        pipeline = _pipeline(val.get('dataset') or {})
        if pipeline is None or 'dataset' not in train:
            raise ValueError(
                'a vocabulary is fitted to train_dataloader.dataset under the pipeline of '
                'val_dataloader.dataset, but the config lacks one of them. Mend: '
                'VocabularyHook(dataloader=dict(dataset=…, batch_size=1, num_workers=2)), or both '
                'data loaders'
            )
        dataloader = {**val, 'dataset': _with_pipeline(train['dataset'], pipeline)}
    dataset = DATASETS.build(dataloader['dataset'])
    if images is not None:
        check_count('images', images, 1)
        images = min(images, len(dataset))
        dataset = Subset(dataset, [index * len(dataset) // images for index in range(images)])
    # The run's own sampler would deal the images out to all ranks, and one rank fits.
    return Runner.build_dataloader(
        {
            **dataloader,
            'dataset': dataset,
            'sampler': SequentialSampler(dataset),
            'generator': torch.Generator().manual_seed(seed),
        },
        seed=seed,
    )


def write_vocabulary(path: str | Path, distiller: 'Distiller', name: str, **facts: Any) -> None:
    """Write the vocabulary of an objective as a file for ``AssignmentKLLoss(vocabulary=path)``, atomically.

    Args:
        path: A local file.
        distiller: Holds the fitted vocabulary.
        name: The objective.
        facts: Plain values to be kept beside it under ``meta``.
    """
    objective = distiller.objectives[name]
    member, tap = objective.reads['teacher'].split('.')
    vocabulary = objective.loss.vocabulary
    state = {
        key: torch.as_tensor(getattr(vocabulary, key)).cpu()
        for key in ('words', 'tau', 'fingerprint')
    }
    path_in_teacher = distiller.runs[member].taps.paths[tap].text
    meta = dict(
        mmkd_version=__version__,
        objective=name,
        teacher=member,
        tap=path_in_teacher,
        pooling=objective.loss.pooling,
        **facts,
    )
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=meta), buffer)
    write_atomically(buffer.getvalue(), path)


def _collect(
    distiller: 'Distiller',
    objectives: dict[str, Objective],
    loader: DataLoader,
    max_vectors: int,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """Return vectors of each objective's teacher tap, image by image."""
    number = len(loader.dataset)  # type: ignore[arg-type]
    members = {objective.reads['teacher'].split('.')[0] for objective in objectives.values()}
    ignore_index = distiller.runs[distiller.predict_with].ignore_index
    vectors: dict[str, list[Tensor]] = {name: [] for name in objectives}
    done = 0
    for data in track(loader, 'vocabulary', len(loader), transient=True):
        batch = Batch(**distiller.data_preprocessor(data, False), ignore_index=ignore_index)
        # uncompiled: a compiled teacher takes one size of images
        record = {
            member: distiller.runs[member].watch(batch, compiled=False)  # type: ignore[attr-defined]
            for member in members
        }
        quotas = [
            (i + 1) * max_vectors // number - i * max_vectors // number
            for i in range(done, done + len(batch.inputs))
        ]
        done += len(quotas)
        for name, objective in objectives.items():
            x = follow(objective.reads['teacher'], record)
            pooled = pool_map(x, objective.loss.pooling)
            valid = (
                read_batch(batch, 'valid', pooled)
                if objective.reads.get('mask') == 'batch.valid'
                else [None] * len(pooled)
            )
            for image, mask, quota in zip(pooled.split(1), valid, quotas, strict=True):
                found = positions(image, mask if mask is None else mask[None])
                chosen = torch.randperm(len(found), generator=generator)[:quota]
                vectors[name].append(found[chosen.to(found.device)].float().cpu())
    return vectors


def _digest_of(model: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f'{key} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _pipeline(dataset: dict) -> Any:
    """Return the pipeline of a data set, inside whatever wraps it; None for none."""
    inner = dataset.get('dataset') or next(iter(dataset.get('datasets') or []), None)
    return dataset.get('pipeline') if inner is None else _pipeline(inner)


def _with_pipeline(dataset: dict, pipeline: Any) -> dict:
    """Return a data set with another pipeline, taken out of what repeats or mixes it."""
    if 'dataset' in dataset:
        return _with_pipeline(dataset['dataset'], pipeline)
    if 'datasets' in dataset:
        return {
            **dataset,
            'datasets': [_with_pipeline(part, pipeline) for part in dataset['datasets']],
        }
    return {**dataset, 'pipeline': pipeline}
