"""Where the teacher is sure."""

import math

from torch import Tensor

from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_positive
from mmkd.where.base import Where, class_logits


@MODELS.register_module()
class TeacherConfidence(Where):
    r"""One minus the entropy of the teacher's classes, over the largest that there can be.

    .. math:: w = 1 - \frac{H(\mathrm{softmax}(z^t / \tau))}{\ln C}

    1 where the teacher is certain of one class, 0 where all are alike to it.

    Args:
        tau: Temperature.
        reads: ``dict(teacher='teacher.logits')`` beside a loss on features.

    Raises:
        ValueError: A temperature that is not above 0; no class logits, or of a single class.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3.], [1., 1.]]).log()  # H = 0.5623 and ln 2, of ln 2
        >>> TeacherConfidence()(Batch(torch.zeros(2, 3)), torch.zeros(2, 2), teacher)
        tensor([0.1887, 0.0000])
    """

    class_logits = ('teacher',)

    def __init__(self, tau: float = 1.0, reads: dict[str, str] | None = None) -> None:
        super().__init__(reads)
        check_positive('tau of TeacherConfidence', tau)
        self.tau = tau

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return 1 − H / ln C of the teacher's logits, (N, \*S)."""
        logits = class_logits('TeacherConfidence', 'teacher', teacher)
        log_p = (logits / self.tau).log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1)
        return (1 - entropy / math.log(logits.shape[1])).clamp(min=0)
