"""MGD: the teacher's features are generated from a part of the student's."""

from mmkd.methods.fgd import PLACES
from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS

# published α of a sum over channels and places, the channels of the teacher, and places
SEGMENTATION = 2e-5 * 2048 * 64 * 64  # PSPNet of ResNet-101, crops of 512×512 at stride 8
CLASSIFICATION = 7e-5 * 512 * 7 * 7  # ResNet-34 on ImageNet
ONE_STAGE = 2e-5 * 256 * PLACES  # stride 8 of 800×1333
TWO_STAGES = 5e-7 * 256 * 4 * PLACES  # stride 4


@METHODS.register_module(name='mgd')
@needs(
    tasks=('segmentation', 'classification', 'detection'),
    paper='Yang et al., ECCV 2022, arXiv 2205.01529',
)
def mgd(
    pair: Pair,
    weight: float | None = None,
    mask_ratio: float | None = None,
    per: str | None = None,
    regressor: str | dict = 'auto',
) -> Plan:
    """The teacher's last map is generated from what is left of the student's, masked at random.

    Of segmentors and classifiers of images it is the backbone's last map, of detectors each level
    of the neck. Two 3×3 convolutions with a ReLU between, as wide as the teacher, are trained with
    the student; where channels differ, a 1×1 convolution before. Places are masked, of classes of
    images channels, as in the authors' code.

    Defaults: the published α multiplies a sum over C channels and P places of an image, so that
    here it is α C P of the authors' runs. 2e-5 of label maps, with 2048 channels and 64×64 places,
    are 168; 7e-5 of classes of images, with 512 and 7×7, 1.76. Of detectors α = 2e-5, 256 channels
    and 800×1333 pixels are 86 at stride 8 and a quarter at each level on; with two stages 5e-7 and
    8.6 at stride 4. Shares that are masked are 0.75, 0.15, 0.65, and 0.45 with two stages, theirs.
    Their runs on Cityscapes have channel-wise distillation of the logits beside it, of weight 3 and
    τ = 4 (``use_logit``): method=['mgd', 'cwd'].

    Args:
        pair: The pair.
        weight: Of the objective; of detectors of the finest level.
        mask_ratio: Share that is masked.
        per: 'position' or 'channel'.
        regressor: Connector of the student.
    """
    two_stages = hasattr(pair.models.get(pair.student), 'roi_head')
    weight = of_task(
        pair,
        weight,
        segmentation=SEGMENTATION,
        classification=CLASSIFICATION,
        detection=TWO_STAGES if two_stages else ONE_STAGE,
    )
    mask_ratio = of_task(
        pair,
        mask_ratio,
        segmentation=0.75,
        classification=0.15,
        detection=0.45 if two_stages else 0.65,
    )
    per = of_task(
        pair, per, segmentation='position', classification='channel', detection='position'
    )
    loss = dict(type='MaskedGenerationLoss', mask_ratio=mask_ratio, per=per)
    plan = on_features(pair, 'mgd', loss, weight, regressor)
    if pair.kind == 'detection':
        for k, one in enumerate(plan.objectives.values()):
            one['weight'] = weight / 4**k
        return plan
    return Plan(objectives=plan.objectives, taps=dict(feat='auto:stages[-1]'))
