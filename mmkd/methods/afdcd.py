"""Af-DCD: groups of channels are told apart within patches, after masked generation."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice

POINTS = dict(stage='auto:stages[-1]', feature='auto:feature')


@METHODS.register_module(name='afdcd')
@needs(tasks=('segmentation',), paper='Fan et al., NeurIPS 2023, arXiv 2312.04168')
def afdcd(
    pair: Pair,
    on: str = 'stage',
    contrast: float = 0.005 * 16,
    mimic: float = 2e-6 * 2048 * 64 * 128,
    mask_ratio: float = 0.75,
    groups: int = 16,
    weight: float = 1.0,
) -> Plan:
    """What a generator makes of the student's masked map is the teacher's, group by group.

    What is compared is the backbones' last map, as the authors' DeepLabV3. A 1×1 convolution makes
    the student's channels equal where they differ, then two 3×3 convolutions fill in what is
    masked. They are as wide as the teacher's map: of 2048 channels 75 million weights, beside
    which ``on='feature'``, what the classifier reads, is small.

    Defaults: the authors' of Cityscapes, 0.005 of the contrast, a sum over 16 groups and a mean
    over places, so that of a mean over both it is 0.08; 2e-6 of the sum of squares of an image, of
    2048 channels and 64×128 places 33.6 of the mean. On CamVid their contrast is twice that, on
    ADE20K eight times, and the squares 4 times and half. They train it beside plain distillation of
    weight 1, on ADE20K of 0.5: ``method=['afdcd', dict(type='kd', weight=1.)]``. Their code clips
    the gradient of what stands between the networks, and of nothing else, at a norm of 15.

    Args:
        pair: The pair.
        on: 'stage' or 'feature', what the classifier reads.
        contrast: Weight of the contrast.
        mimic: Weight of the mean square.
        mask_ratio: Share of the places that the generator does not see.
        groups: That channels are divided into.
        weight: Of both.
    """
    check_choice('on', on, tuple(POINTS))
    loss = dict(
        type='PatchContrastLoss',
        groups=groups,
        contrast=contrast,
        mimic=mimic,
        mask_ratio=mask_ratio,
    )
    objective = dict(
        loss=loss,
        **pair.on('feat'),
        connectors=dict(student=dict(type='auto', always=False)),
        weight=weight,
    )
    return Plan(objectives=dict(afdcd=objective), taps=dict(feat=POINTS[on]))
