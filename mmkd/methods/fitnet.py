"""FitNet: the student's features are the teacher's, after a convolution."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, last_map, needs, of_task
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification', 'depth', 'detection')


@METHODS.register_module(name='fitnet')
@needs(tasks=TASKS, paper='Romero et al., ICLR 2015, arXiv 1412.6550')
def fitnet(pair: Pair, weight: float | None = None) -> Plan:
    """The student's last features are the teacher's: the mean squared difference.

    A 1×1 convolution is trained between them where channels differ. The paper trains hints first,
    here as in later code both at once.

    Defaults: of label maps weight 10, as CIRKD's, which has plain distillation of weight 1 beside
    it (``method=['fitnet', dict(type='kd', weight=1.)]``); of classes of images 100, as
    RepDistiller's. Both average over everything, as here, so that nothing is converted. Of depth
    and of each level of a detector's neck 1, which is ours.

    Args:
        pair: The pair.
        weight: Of the objective; of detectors of each level.
    """
    weight = of_task(
        pair, weight, segmentation=10.0, classification=100.0, depth=1.0, detection=1.0
    )
    return on_features(pair, 'fitnet', dict(type='FeatureMatchingLoss'), weight)


def on_features(pair: Pair, name: str, loss: dict[str, Any], weight: float) -> Plan:
    """Return one objective on the last features, or one on each level of two detectors' necks."""

    def objective(tap: str) -> dict[str, Any]:
        return dict(loss=dict(loss), **pair.on(tap), connectors=dict(student='auto'), weight=weight)

    if pair.kind == 'detection':
        levels = range(pair.levels())
        return Plan(
            objectives={f'{name}{k}': objective(f'feat{k}') for k in levels},
            taps={f'feat{k}': f'auto:neck[{k}]' for k in levels},
        )
    return Plan(objectives={name: objective('feat')}, taps=dict(feat=last_map(pair)))
