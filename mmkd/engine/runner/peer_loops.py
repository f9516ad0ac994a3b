"""Validation and test of networks that learn together: each, their mean, and all as one."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import TestLoop, ValLoop, autocast

from mmkd.evaluation.functional.uncertainty import EnsembleUncertainty
from mmkd.models.ensemble import probabilities_of, write_prediction
from mmkd.registry import LOOPS
from mmkd.utils.averages import mean_metrics
from mmkd.utils.checks import nearest
from mmkd.utils.unwrap import unwrap

MEAN, ENSEMBLE = 'mean', 'ensemble'


@LOOPS.register_module()
class PeerValLoop(ValLoop):
    """Evaluate every student of a Distiller in one pass over the validation set.

    Metrics are named ``<peer>/<metric>``, ``mean/<metric>`` (the mean of the peers' numbers) and
    ``ensemble/<metric>`` (of the mean of their class probabilities, as :class:`mmkd.Ensemble`
    predicts). The best checkpoint of each peer:
    ``default_hooks=dict(checkpoint=dict(save_best=['peer0/mIoU', 'peer1/mIoU']))``.

    Args:
        runner: The Runner, whose model is a Distiller with two students or more.
        dataloader: Images with labels.
        evaluator: Metrics; each peer gets a copy.
        fp16: Whether to predict under autocast.

    Raises:
        TypeError: Another model.
        ValueError: One student; a student that is called 'mean' or 'ensemble'; a best checkpoint by
            another metric.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.evaluators = _copies(self)
        _check_save_best(runner, list(self.evaluators))

    def run(self) -> dict[str, float]:
        """Evaluate, and return the metrics."""
        return _run(self, 'val')


@LOOPS.register_module()
class PeerTestLoop(TestLoop):
    """Test every student of a Distiller in one pass; see :class:`PeerValLoop`."""

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.evaluators = _copies(self)

    def run(self) -> dict[str, float]:
        """Evaluate, and return the metrics."""
        return _run(self, 'test')


def _copies(loop: Any) -> dict[str, Evaluator]:
    model, name = unwrap(loop.runner.model), type(loop).__name__
    plain = name.removeprefix('Peer')
    if not hasattr(model, 'students'):
        raise TypeError(
            f'{name} evaluates the students of a Distiller, got {type(model).__name__}. Mend: '
            f"type='{plain}'"
        )
    if len(model.students) < 2:
        raise ValueError(
            f'{name} evaluates peers, but there is one student, {list(model.students)}. Mend: '
            f"type='{plain}'"
        )
    for taken in (MEAN, ENSEMBLE):
        if taken in model.students:
            raise ValueError(
                f'a student is called {taken!r}, as {name} calls what it reports of all. Mend: '
                'another name'
            )
    return {peer: _copy(loop.evaluator, peer) for peer in [*model.students, ENSEMBLE]}


def _copy(evaluator: Evaluator, peer: str) -> Evaluator:
    """Copy an evaluator; what its metrics write goes into a folder of the peer's."""
    evaluator = copy.deepcopy(evaluator)
    for metric in evaluator.metrics:
        if getattr(metric, 'output_dir', None):
            metric.output_dir = str(Path(metric.output_dir, peer))
            Path(metric.output_dir).mkdir(parents=True, exist_ok=True)
        if getattr(metric, 'out_file_path', None):
            path = Path(metric.out_file_path)
            metric.out_file_path = str(path.parent / peer / path.name)
    return evaluator


def _check_save_best(runner: Any, names: list[str]) -> None:
    """Say now what the checkpoint hook would find at the end of the first validation."""
    for hook in runner.hooks:
        for key in _as_list(getattr(hook, 'save_best', None)):
            if key != 'auto':
                _check_metric(key, names)


def _check_metric(key: str, names: list[str]) -> None:
    first, _, rest = key.partition('/')
    known = [*names, MEAN]
    if first in known:
        return
    near = rest and nearest(first, known)  # a peer's name, mistyped; else a metric without a peer
    metric = rest if near else key
    mend = [f'{name}/{metric}' for name in names if name != ENSEMBLE]
    raise ValueError(
        f'the checkpoint hook keeps the best by {key!r}{near}, but metrics of peers begin with one '
        f'of {known}. Mend: default_hooks=dict(checkpoint=dict(save_best={mend}))'
    )


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


@torch.no_grad()
def _run(loop: Any, stage: str) -> dict[str, float]:
    """Do what mmengine's loop does, with an evaluator for each peer.

    Hooks get the outputs of the student that predicts.
    """
    runner = loop.runner
    runner.call_hook(f'before_{stage}')
    runner.call_hook(f'before_{stage}_epoch')
    runner.model.eval()
    model = unwrap(runner.model)
    for index, data in enumerate(loop.dataloader):
        runner.call_hook(f'before_{stage}_iter', batch_idx=index, data_batch=data)
        with autocast(enabled=loop.fp16):
            outputs = _predict(model, data)
        for name, evaluator in loop.evaluators.items():
            evaluator.process(data_samples=outputs[name], data_batch=data)
        runner.call_hook(
            f'after_{stage}_iter',
            batch_idx=index,
            data_batch=data,
            outputs=outputs[model.predict_with],
        )
    metrics = _evaluate(loop.evaluators, len(loop.dataloader.dataset))
    runner.call_hook(f'after_{stage}_epoch', metrics=metrics)
    runner.call_hook(f'after_{stage}')
    return metrics


def _predict(model: Any, data: Any) -> dict[str, Sequence]:
    """Return the data samples as each peer predicts them, and as all of them do."""
    data = model.data_preprocessor(data, False)
    outputs = {}
    for name, student in model.students.items():
        outputs[name] = student(data['inputs'], _clones(data['data_samples']), mode='predict')
    together = _clones(data['data_samples'])
    for sample, *predictions in zip(together, *outputs.values(), strict=True):
        sums = EnsembleUncertainty()
        for student, prediction in zip(model.students.values(), predictions, strict=True):
            sums.update(probabilities_of(prediction, student))
        write_prediction(sample, sums)
    return {**outputs, ENSEMBLE: together}


def _clones(samples: Sequence) -> list:
    """Return samples of one's own: a model writes its prediction into them."""
    return [sample.clone() for sample in samples]


def _evaluate(evaluators: dict[str, Evaluator], size: int) -> dict[str, float]:
    found = {}
    for name, evaluator in evaluators.items():
        # metrics that print a table do not say whose it is
        print_log(f'mmkd: {name}', logger='current')
        found[name] = evaluator.evaluate(size)
    peers = [metrics for name, metrics in found.items() if name != ENSEMBLE]
    found[MEAN] = mean_metrics(peers)
    return {
        f'{name}/{key}': value for name, metrics in found.items() for key, value in metrics.items()
    }
