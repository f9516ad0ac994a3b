"""VID: how likely the teacher's features are around the student's."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='vid')
@needs(tasks=('segmentation', 'classification'), paper='Ahn et al., CVPR 2019, arXiv 1904.05835')
def vid(
    pair: Pair, weight: float = 1.0, variance: float = 5.0, regressor: str | dict | None = None
) -> Plan:
    """The teacher's last features are likely under Gaussians around the student's.

    Their variances, one a channel, are learned with the student, so that channels which it cannot
    follow count less. Variances begin at 5, as the authors'. A weight decay draws them to 0.69:
    ``paramwise_cfg=dict(custom_keys={'vid.loss.raw': dict(decay_mult=0.)})`` keeps it away.
    Between the networks are the three 1×1 convolutions of the paper, with ReLU and without bias, as
    wide as the teacher.

    Defaults: weight 1 of the mean over everything, which is how later codes average; RepDistiller's
    weight is 1 too, as far as it is remembered, over several stages.

    Args:
        pair: The pair.
        weight: Of the objective.
        variance: Where the variances begin.
        regressor: Connector of the student; 'auto' is one convolution, where channels differ.
    """
    if regressor is None:
        regressor = dict(type='auto', kind='conv-relu-conv-relu-conv', bias=False)
    loss = dict(type='VariationalInformationLoss', variance=variance)
    return on_features(pair, 'vid', loss, weight, regressor)
