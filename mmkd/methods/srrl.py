"""SRRL: the teacher's classifier takes the student's features for its own."""

from typing import Any

from mmkd.methods.fitnet import REGRESSOR
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, last_map, needs
from mmkd.registry import METHODS

TAU = 1.0


@METHODS.register_module(name='srrl')
@needs(tasks=('segmentation', 'classification'), paper='Yang et al., SRRL, ICLR 2021')
def srrl(
    pair: Pair,
    feature: float = 1.0,
    logits: float = 5.0,
    penalty: str = 'l2',
    tau: float = TAU,
    regressor: str | dict = REGRESSOR,
) -> Plan:
    """The student's features have the teacher's means, and its classifier says the same of them.

    Behind one regressor, a 1×1 convolution, normalisation and ReLU, the means over places are
    compared, and what the teacher's frozen classifier makes of the features: from the last map of
    an image's classifier, pooled; place by place of label maps, for which nothing is published.

    Defaults: weights 1 and 5, as in a later code of others (cls_KD) on CIFAR; that code and the
    authors' script have 1 and 1 on ImageNet. All of them take means over images, and over channels
    or classes, as here, so that nothing is converted.

    Args:
        pair: The pair.
        feature: Weight of the features' term.
        logits: Weight of the logits' term.
        penalty: 'l2', the squares of both codes, or 'kl', of the classes' probabilities.
        tau: Temperature of 'kl'.
        regressor: Connector of the student: 'auto:conv-bn-relu', dict(type='auto', …), 'auto'.
    """
    if not logits:
        why, mend = 'logits=0 leaves the term of the logits out', ', or logits above 0'
        pair.refuse_unused(why, mend, penalty=(penalty, 'l2'), tau=(tau, TAU))
    loss = dict(type='SoftmaxRegressionLoss', feature=feature, logits=logits)
    if penalty == 'l2':
        mend = ", or penalty='kl'"
        pair.refuse_unused("penalty='l2' has no temperature", mend, tau=(tau, TAU))
    else:
        loss.update(penalty=penalty, tau=tau)
    whole = pair.kind == 'classification'
    read = 'pooled' if whole else 'feat'  # what the classifier reads
    objective: dict[str, Any] = dict(
        loss=loss,
        **pair.on('feat', teacher_logits=f'{pair.teacher}.logits'),
        teacher_head=dict(at=f'{pair.teacher}.{read}', gives='student_logits'),
        connectors=dict(student=regressor),
    )
    taps = dict(feat=last_map(pair), logits='auto')
    return Plan(
        objectives=dict(srrl=objective), taps=taps | ({read: 'auto:feature'} if whole else {})
    )
