"""One architecture in one role: built by a config of a few lines, no tap written, and trained."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from helpers.zoo import DETECTORS, PARTNER, ZOO, Architecture, Detector, lacks, member, with_weights
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmkd.apis.doctor.measure import gradient_norm
from mmkd.distiller import Distiller
from mmkd.tasks.base import task_of
from mmkd.tasks.generated import generated_batch
from mmkd.utils.explain import explain


@dataclass
class Result:
    """What came of one case.

    Args:
        name: Of the architecture.
        role: ``'student'`` or ``'teacher'``.
        verdict: 'works', 'features only', 'refused', 'not here' or 'wrong'.
        reason: Why it is none of the first.
        taps: Those that were found.
        seconds: Of the processor.
    """

    name: str
    role: str
    verdict: str = ''
    reason: str = ''
    taps: str = ''
    seconds: float = 0.0

    def record(self) -> dict:
        """Return it as it is written to a file."""
        return asdict(self)


def run_case(name: str, role: str) -> Result:
    """Build, measure and train two iterations; detectors are called ``'det:…'``."""
    one: Any = DETECTORS[name[4:]] if name.startswith('det:') else ZOO[name]
    result, begun = Result(name, role), time.process_time()
    missing = lacks(one)
    if missing and name != 'vpd':
        result.verdict, result.reason = 'not here', f'needs {missing}'
        return result
    try:
        with TemporaryDirectory() as folder:
            _run(one, result, Path(folder))
    except Exception as error:
        result.verdict, result.reason = 'refused', ' '.join(explain(error).split())[:300]
    finally:
        DefaultScope._instance_dict.clear()
    result.seconds = round(time.process_time() - begun, 1)
    return result


def _run(one: Architecture | Detector, result: Result, folder: Path) -> None:
    detects = isinstance(one, Detector)
    init_default_scope('mmdet' if detects else 'mmseg')
    torch.manual_seed(0)
    partner = DETECTORS['gfl'] if detects else Architecture(PARTNER, size=one.size)
    mine, other = member(one), member(partner)
    if isinstance(one, Architecture) and one.weights:
        mine = with_weights(mine, result.role, folder)
    student, teacher = (mine, other) if result.role == 'student' else (other, mine)
    scores = one.shared if detects else True
    model = Distiller(
        student=student,
        teacher=dict(allow_untrained=True) | teacher,
        **(_of_detectors(scores) if detects else dict(method='skd-pi-pa')),
    )
    model.init_weights()
    paths = model.runs[result.role].taps.paths
    named = {tap: path.text for tap, path in paths.items()}
    result.taps = ', '.join(dict.fromkeys(named.values()))
    wrong = _train(model, one.size)
    result.verdict = 'wrong' if wrong else 'works' if scores else 'features only'
    result.reason = wrong or ('' if scores else _why_no_scores(one))


def _of_detectors(scores: bool) -> dict[str, Any]:
    """Return what detectors of any necks can learn: the finest level's features, and its scores."""
    pair = dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat')
    pixel = dict(loss=dict(type='BinaryKLLoss'), on='logits', connectors=dict(teacher='auto'))
    return dict(
        taps=dict(logits='auto', feat='auto:neck[0]'),
        objectives=dict(
            pair=dict(**pair, weight=10.0, connectors=dict(student='auto')),
            **(dict(pixel=pixel) if scores else {}),
        ),
    )


def _why_no_scores(one: Any) -> str:
    return (
        "its scores are of other anchors than the partner's"
        if one.logits
        else 'it has no map of scores: queries, or proposals of its own'
    )


def _train(model: Distiller, size: tuple[int, int]) -> str:
    """Return what is wrong after two steps, '' for nothing."""
    source, student = model.data_preprocessor, model.student
    data = generated_batch(2, size, task_of(student, source))
    before = digest(model.teacher)
    model.train()
    parameters = [p for p in student.parameters() if p.requires_grad]
    record, _ = model.observe(**source(data, True))
    for name, objective in model.objectives.items():
        value = objective(record)[f'{name}.loss']
        norm = gradient_norm(value, parameters)
        if not 0 < value.item() < float('inf') or not 0 < norm < float('inf'):
            return f'{name} is {value.item():.3g}, its gradient {norm:.3g}'
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    for _ in range(2):
        logs = model.train_step(generated_batch(2, size, task_of(student, source)), wrapper)
        if not torch.isfinite(logs['loss']):
            return f'the loss is {logs["loss"].item()}'
    return '' if digest(model.teacher) == before else 'the teacher changed'


def digest(model: nn.Module) -> str:
    """Return a hash of all weights and buffers."""
    found = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        found.update(key.encode() + value.detach().cpu().numpy().tobytes())
    return found.hexdigest()
