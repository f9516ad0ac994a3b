"""Where a class is hard."""

from torch import Tensor

from mmkd.losses.functional import labelled
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_choice, check_non_negative
from mmkd.where.base import Where, labels_at
from mmkd.where.disagreement import both_logits


@MODELS.register_module()
class Focal(Where):
    r"""What the student misses of the right class, to a power.

    Paper: the factor of Lin et al., Focal Loss, ICCV 2017, arXiv 1708.02002.

    .. math:: w = (1 - p^s_y)^\gamma

    with the label y, and the class that the teacher holds most likely where there is no label.
    γ = 0 is 1 everywhere.

    Args:
        gamma: γ.
        target: 'labels'; 'teacher': the teacher's class everywhere, without labels.
        reads: ``dict(student='student.logits', teacher='teacher.logits')`` beside a loss on
            features.

    Raises:
        ValueError: γ below 0, an unknown target, no class logits.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[1., 3.]]).log()  # p = (1/4, 3/4)
        >>> Focal(target='teacher')(Batch(torch.zeros(1, 3)), student, torch.tensor([[9., 0.]]))
        tensor([0.5625])
    """

    class_logits = ('student', 'teacher')

    def __init__(
        self, gamma: float = 2.0, target: str = 'labels', reads: dict[str, str] | None = None
    ) -> None:
        super().__init__(reads)
        check_non_negative('gamma of Focal', gamma)
        check_choice('target of Focal', target, ('labels', 'teacher'))
        self.gamma, self.labels = gamma, target == 'labels'

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return (1 − p)^γ of the student's logits, (N, \*S)."""
        s, t = both_logits('Focal', student, teacher)
        target = t.argmax(1)
        if self.labels:
            labels, valid = labels_at(batch, s)
            valid = labelled(labels, s.shape[1], batch.ignored, valid)
            target = labels.long().where(valid, target)
        p = s.softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
        return (1 - p).clamp(min=0).pow(self.gamma)
