"""What is stored of the teachers of a Distiller, and how it is described."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.apis.store.batches import TrainingBatches
from mmkd.distiller.members.kinds.combined import spread
from mmkd.distiller.members.run import teachers_of
from mmkd.distiller.members.stored import facts_of_member, names_of
from mmkd.distiller.objectives.class_logits import label_set
from mmkd.distiller.probe import probe_batch, probing
from mmkd.noise.base import refuse_stored
from mmkd.structures.batch import Batch
from mmkd.utils.stored.facts import facts_of_run, plain
from mmkd.utils.stored.manifest import Manifest, StoredTap, StoredTeacher
from mmkd.utils.stored.precision import Precision
from mmkd.utils.stored.shards import Entry, look_at
from mmkd.utils.timing import environment


class Teachers:
    """The teachers of a Distiller at work, and how what they say is packed.

    Args:
        model: The Distiller.
        precision: How it is packed.

    Raises:
        ValueError: There is no live teacher that objectives read, or a noise within it; the largest
            logits of what is none.
    """

    def __init__(self, model: Any, precision: Precision) -> None:
        self.model, self.precision = model, precision
        read = [run for run in teachers_of(getattr(model, 'runs', {})) if run.taps.paths]
        self.runs = [run for run in read if run.frozen]  # a copy of a student is none before it
        if not self.runs:
            raise ValueError(
                'no objective of this config reads a teacher, so there is nothing to store. Mend: '
                'the config of a Distiller with teacher=dict(…) and objectives that read it'
            )
        for run in self.runs:
            if not run.live:
                raise ValueError(
                    f'{run.where} is stored already, in {run.member.path}. Mend: the config of the '
                    'live teacher'
                )
            for noise in (*run.noises.each, *model.shared_noises.each):
                refuse_stored(noise, run.where)
        self._about: dict[str, dict[str, tuple[str, list[int]]]] = {}
        self.logits = _class_logits(model)
        if precision.top_k is not None and not any(self.logits.values()):
            raise ValueError(
                f'--top-k {precision.top_k} keeps the largest of class logits, and no objective of '
                f'this config reads such of a teacher (it reads {", ".join(self.logits)}). Mend: '
                '--dtype bf16'
            )

    @torch.no_grad()
    def say(self, batch: Batch) -> Entry:
        """Run every teacher once, and return what is stored of it."""
        taps: dict[str, dict[str, Any]] = {}
        for run in self.runs:
            seen = run.watch(batch)
            taps[run.name] = {tap: self._pack(run, tap, value) for tap, value in seen.items()}
            self._about[run.name] = {tap: _about(value) for tap, value in seen.items()}
        return Entry(taps, names_of(batch), look_at(batch.inputs).cpu())

    def _pack(self, run: Any, tap: str, value: Any) -> Any:
        try:
            return self.precision.pack(value, self.logits[f'{run.name}.{tap}'])
        except (ValueError, FloatingPointError) as error:
            raise type(error)(f'tap {tap!r} of {run.where}: {error}') from error

    def probe(self) -> dict[str, Any]:
        """Return what the teachers say of the probe's image, as they say it."""
        with probing():
            batch = probe_batch(self.model.students, self.model.data_preprocessor)
            taps = {run.name: _kept(run.watch(batch, compiled=False)) for run in self.runs}
        return dict(size=list(batch.inputs.shape), taps=taps)

    def describe(self, cfg: Mapping[str, Any], batches: TrainingBatches, entry: Entry) -> Manifest:
        """Return the manifest.

        Args:
            cfg: The config of the run.
            batches: Of the run.
            entry: What the teachers said of the first batch.

        Raises:
            TypeError: A teacher that was given as a built model.
        """
        preprocessor = self.model.data_preprocessor
        run = facts_of_run(cfg, preprocessor, batches.seed)
        teachers = {one.name: self._describe(one, cfg['model']) for one in self.runs}
        made = dict(config=str(getattr(cfg, 'filename', None)), **environment())
        size, k = entry.size, self.precision.top_k
        return Manifest(plain(run), teachers, self.precision.dtype, k, size, made)

    def _describe(self, run: Any, config: Mapping[str, Any]) -> StoredTeacher:
        asked = {**(config.get('taps') or {}), **run.member.taps}
        taps = {}
        for tap, path in run.taps.paths.items():
            dtype, shape = self._about[run.name][tap]
            logits = self.logits[f'{run.name}.{tap}']
            taps[tap] = StoredTap(
                asked=str(asked.get(tap, path.text)),
                path=path.text,
                kept=self.precision.tell(logits),
                dtype=dtype,
                shape=shape,
                logits=logits,
            )
        facts = facts_of_member(run.member)
        return StoredTeacher(
            facts['model'], run.member.scope, facts['options'], run.digest().hex(), taps
        )


def _about(value: Any) -> tuple[str, list[int]]:
    """Return type and shape of a tensor, or of the first one of a list."""
    first: Tensor = value[0] if isinstance(value, list) else value
    return str(first.dtype).removeprefix('torch.'), list(first.shape)


def _kept(value: Any) -> Any:
    if isinstance(value, list):
        return [_kept(one) for one in value]
    if isinstance(value, dict):
        return {key: _kept(one) for key, one in value.items()}
    return value.detach().to('cpu', copy=True)


def _class_logits(model: Any) -> dict[str, bool]:
    """Return for every ``'teacher.tap'`` whether objectives take it for class logits alone."""
    teachers = {run.name: run for run in teachers_of(model.runs)}
    found: dict[str, bool] = {}
    for objective in model.objectives.values():
        reads = objective.reads
        combined = model.combinations
        logits = set(spread(reads.references(reads.class_logits), combined))
        for reference in spread(objective.references, combined):
            owner = reference.split('.', 1)[0]
            if owner in teachers:
                one = reference in logits and _one_of_many(teachers[owner].model)
                found[reference] = one and found.get(reference, True)
    return found


def _one_of_many(model: Any) -> bool:
    """Return whether a model says of each place which one class it is, as far as is known."""
    labels = label_set(model)
    return not labels.kind or labels.classes is not None
