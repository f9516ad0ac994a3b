"""GradientShareHook: how hard each objective pulls at the student, beside its own task."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd.distiller.members.kinds.combined import spread
from mmkd.distiller.members.parts import OWN
from mmkd.registry import HOOKS
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_count
from mmkd.utils.unwrap import unwrap

FILE = 'shares.json'
STATE = 'mmkd_gradient_shares'  # in a checkpoint


@HOOKS.register_module()
class GradientShareHook(Hook):
    r"""Log the gradient share of every objective, and write its mean when the training ends.

    The share of an objective is

    .. math:: \frac{\lVert \partial (w L) / \partial x \rVert_2}
        {\lVert \partial L_{task} / \partial x \rVert_2},

    x being the student's tensors that the objective reads, w its weight, and the task loss that of
    the step, with its own weight. 1 means that both pull alike at what the student gives there. It
    says nothing of the direction.

    Every ``every`` iterations the batch is run once more, with the weights after the step, in full
    precision; buffers and generators are put back, so that the run is the one without the hook. The
    share is logged as ``<objective>.gradient_share``; the means go to ``<work_dir>/shares.json``,
    null where the task has no gradient at what is read. A plain model has no objectives and is left
    alone.

    Args:
        every: Iterations from one measurement to the next.

    Raises:
        ValueError: ``every`` is no whole number of at least 1.

    Examples:
        >>> hook = GradientShareHook(every=100)
        >>> hook.add(dict(kd=0.5, cwd=None)), hook.add(dict(kd=1.5, cwd=None)), hook.means()
        (None, None, {'kd': 1.0, 'cwd': None})
    """

    priority = 'NORMAL'  # before the loggers

    def __init__(self, every: int = 100) -> None:
        check_count('every', every, 1)
        self.every = every
        self._seen: dict[str, list[float | None]] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Measure, where it is time to."""
        model = unwrap(runner.model)
        if not self.every_n_train_iters(runner, self.every) or not hasattr(model, 'objectives'):
            return
        with left_as_it_was(model):
            shares = shares_of(model, data_batch)
        self.add(shares)
        for name, share in shares.items():
            if share is not None:
                runner.message_hub.update_scalar(f'train/{name}.gradient_share', share)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down what was measured so far."""
        checkpoint[STATE] = {name: list(shares) for name, shares in self._seen.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from there, if the run is resumed."""
        noted = checkpoint.get(STATE)
        if runner._resume and isinstance(noted, dict):
            self._seen = {name: list(shares) for name, shares in noted.items()}

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the means."""
        if self._seen:
            text = json.dumps(self.means(), indent=1) + '\n'
            write_atomically(text.encode(), Path(runner.work_dir) / FILE)

    def add(self, shares: Mapping[str, float | None]) -> None:
        """Note one measurement."""
        for name, share in shares.items():
            self._seen.setdefault(name, []).append(share)

    def means(self) -> dict[str, float | None]:
        """Return the mean share of every objective; None where none could be measured."""
        return {name: _mean(shares) for name, shares in self._seen.items()}


def _mean(shares: list[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None


def shares_of(model: Any, data: Any) -> dict[str, float | None]:
    """Return the gradient share of every objective of a Distiller on one batch.

    Args:
        model: The Distiller.
        data: A batch as the data loader gives it.
    """
    with torch.enable_grad():
        record, task = model.observe(**model.data_preprocessor(data, True))
        own = model.parse_losses(task)[0] if task else torch.zeros(())
        found: dict[str, float | None] = {}
        for name, objective in model.objectives.items():
            references = _references(objective, model)
            read = list(_of_students(references, record, model.students))
            loss = record.batch.inputs.new_zeros(())
            if not objective.mute:
                loss = objective(record)[f'{name}.loss']
            beside = _norm(own, list(_of_students(references, record, model.students, OWN)))
            # on every rank, whatever its own losses are: a backward may hold a collective
            pull = _norm(loss, read)
            found[name] = pull / beside if beside else None
    return found


def _references(objective: Any, model: Any) -> list[str]:
    """Return what an objective reads; of a gate that it trains, what the gate reads as well."""
    gates = {name: one for name, one in model.combinations.items() if one.rule.learns}
    through = [one for one in objective.reads.learned() if one.partition('.')[0] in gates]
    return [*objective.references, *spread(through, gates)]


def _of_students(
    references: Iterable[str],
    record: Mapping[str, Any],
    students: Iterable[str],
    part: str = '{}',
) -> Iterator[Tensor]:
    """Yield the tensors of students that are read, each once.

    Args:
        references: What is read.
        record: What the taps saw.
        students: Their names.
        part: Of a batch that passed in two parts: under which name one part of a tap stands.
    """
    for reference in dict.fromkeys(references):
        member, _, tap = reference.partition('.')
        if member not in students:
            continue
        value = record[member].get(part.format(tap), record[member][tap])
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                yield tensor


def _norm(loss: Tensor, tensors: list[Tensor]) -> float:
    """Return the norm of a loss's gradient over several tensors; 0 where it has none."""
    if not loss.requires_grad or not tensors:
        return 0.0
    gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    squares = [one.double().square().sum() for one in gradients if one is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back buffers, counts and generators that a forward in train mode moves."""
    buffers = {name: one.detach().clone() for name, one in model.named_buffers()}
    void: Any = getattr(model, 'void_batches', None)
    counts = None if void is None else dict(vars(void))
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            with torch.no_grad():
                for name, one in model.named_buffers():
                    one.copy_(buffers[name])
            if counts is not None:
                vars(void).update(counts)
