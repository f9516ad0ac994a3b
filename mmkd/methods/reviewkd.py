"""ReviewKD: each level of the student, joined by all deeper ones, is the teacher's."""

from collections.abc import Sequence
from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='reviewkd')
@needs(
    tasks=('segmentation', 'classification', 'detection'),
    paper='Chen et al., CVPR 2021, arXiv 2104.09044',
)
def reviewkd(
    pair: Pair, weight: float = 1.0, mid_channels: int | None = None, stages: int | None = None
) -> Plan:
    """Each level of the student, fused with all deeper ones, is the teacher's, at four scales.

    Levels are the stages of the backbones; of classes of images the pooled features too, as in the
    authors' code, of detectors the levels of the neck. The fusion is trained with the student.

    Defaults: the published λ = 1 of a sum over levels, so that the objective has that number of
    levels as its weight of a mean over them. The authors' runs have λ between 0.6 and 8 on
    CIFAR-100, pair by pair, 1 and 8 on ImageNet, 0.8 to 2 of detectors; on CIFAR it rises over the
    first 20 of 240 epochs, which is the default of classes of images. For label maps none is
    published by them; TransKD's comparison has λ = 1 too. The fusion is as wide as the deepest
    level, 512 at most. Teachers' maps are those before the last ReLU of a stage in the authors'
    code, here what the stage gives.

    Args:
        pair: The pair.
        weight: λ, of the sum over levels.
        mid_channels: Of what is handed on from level to level; None: as the authors'.
        stages: How many maps the backbones give, from the first on; None: as the configs say. Not
            of detectors.
    """
    fusion: dict[str, Any] = dict(type='LevelFusion')
    if mid_channels is not None:
        fusion['mid_channels'] = mid_channels
    taps = levels_of(pair, stages)
    return Plan(
        objectives=dict(review=on_levels(pair, list(taps), fusion, weight)),
        taps=taps,
        warm_up=of_task(pair, None, classification=20 / 240),
    )


def levels_of(pair: Pair, stages: int | None = None) -> dict[str, str]:
    """Return the taps of all levels, shallow to deep."""
    if pair.kind == 'detection':
        pair.refuse_unused('of detectors the levels of the neck are read', stages=(stages, None))
        return {f'level{k}': f'auto:neck[{k}]' for k in range(pair.levels())}
    taps = {f'stage{k + 1}': f'auto:stages[{k}]' for k in range(pair.stages(given=stages))}
    if pair.kind == 'classification':
        taps['feat'] = 'auto:feature'
    return taps


def on_levels(
    pair: Pair, taps: Sequence[str], fusion: dict[str, Any], weight: float
) -> dict[str, Any]:
    """Return the objective that compares all levels, of a weight of their sum."""
    return dict(
        loss=dict(type='HierarchicalContextLoss'),
        reads=dict(
            student=[f'{pair.student}.{tap}' for tap in taps],
            teacher=[f'{pair.teacher}.{tap}' for tap in taps],
        ),
        connectors=dict(student=fusion),
        weight=weight * len(taps),
    )
