"""FitNet: the student's features are the teacher's, after a regressor."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, last_map, needs, of_task
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification', 'depth', 'detection')
REGRESSOR = 'auto:conv-bn-relu'


@METHODS.register_module(name='fitnet')
@needs(tasks=TASKS, paper='Romero et al., ICLR 2015, arXiv 1412.6550')
def fitnet(
    pair: Pair,
    weight: float | None = None,
    pooled: bool = False,
    regressor: str | dict | None = None,
) -> Plan:
    """The student's last features are the teacher's: the mean squared difference.

    A regressor is trained between them. The paper trains hints first, here as in later code both at
    once.

    Defaults: of label maps weight 10 and a 1×1 convolution without bias, as CIRKD's, which has
    plain distillation of weight 1 beside it (``method=['fitnet', dict(type='kd', weight=1.)]``); of
    classes of images 100 and convolution, normalisation and ReLU, as RepDistiller's. Both average
    over everything, as here, so that nothing is converted. Of depth and of each level of a
    detector's neck 1 and a 1×1 convolution where channels differ, which is ours.

    ``pooled=True`` is the first term of SRRL (Yang et al., ICLR 2021), with its weight 1 and its
    regressor, convolution, normalisation and ReLU: the means over places are compared. Its second
    term, the teacher's classifier on the student's features, is not in it: ``method='srrl'``.

    Args:
        pair: The pair.
        weight: Of the objective; of detectors of each level.
        pooled: Whether the means over the places of an image are compared.
        regressor: Connector of the student: 'auto:conv-bn-relu', dict(type='auto', …), 'auto'.
    """
    loss: dict[str, Any] = dict(type='FeatureMatchingLoss')
    if pooled:
        loss['pooled'] = True
        weight = 1.0 if weight is None else weight
        regressor = REGRESSOR if regressor is None else regressor
    weight = of_task(
        pair, weight, segmentation=10.0, classification=100.0, depth=1.0, detection=1.0
    )
    regressor = of_task(
        pair,
        regressor,
        segmentation=dict(type='auto', bias=False),
        classification=REGRESSOR,
        depth='auto',
        detection='auto',
    )
    return on_features(pair, 'fitnet', loss, weight, regressor)


def on_features(
    pair: Pair,
    name: str,
    loss: dict[str, Any],
    weight: float,
    regressor: str | dict | None = 'auto',
) -> Plan:
    """Return one objective on the last features, or one on each level of two detectors' necks.

    Args:
        pair: The pair.
        name: Of the objective, on levels before their number.
        loss: Its loss.
        weight: Of each.
        regressor: Connector of the student; None: of a loss that needs nothing alike.
    """

    def objective(tap: str) -> dict[str, Any]:
        return dict(loss=dict(loss), **pair.on(tap), **_connected(regressor), weight=weight)

    if pair.kind == 'detection':
        levels = range(pair.levels())
        return Plan(
            objectives={f'{name}{k}': objective(f'feat{k}') for k in levels},
            taps={f'feat{k}': f'auto:neck[{k}]' for k in levels},
        )
    return Plan(objectives={name: objective('feat')}, taps=dict(feat=last_map(pair)))


def on_stages(
    pair: Pair,
    name: str,
    loss: dict[str, Any],
    weight: float,
    regressor: str | dict | None = 'auto',
    ratio: float = 1.0,
    stages: int | None = None,
) -> Plan:
    """Return an objective on every stage of the backbones.

    Args:
        pair: The pair.
        name: Of the objectives, before the stage's number.
        loss: Their loss.
        weight: Of the last stage's.
        regressor: Connector of the student; None: of a loss that needs nothing alike.
        ratio: How many times the weight of the stage before a stage has.
        stages: How many maps the backbones give; None: as the configs say.
    """
    last = pair.stages(given=stages)
    objectives = {
        f'{name}{n}': dict(
            loss=dict(loss),
            **pair.on(f'stage{n}'),
            **_connected(regressor),
            weight=weight / ratio ** (last - n),
        )
        for n in range(1, last + 1)
    }
    return Plan(
        objectives=objectives,
        taps={f'stage{n}': f'auto:stages[{n - 1}]' for n in range(1, last + 1)},
    )


def _connected(regressor: str | dict | None) -> dict[str, dict]:
    return {} if regressor is None else dict(connectors=dict(student=regressor))
