"""Where student and teacher say other things."""

import math

from torch import Tensor

from mmkd.losses.divergence.directions import divergence
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_choice, check_positive
from mmkd.utils.resize import resize_map
from mmkd.where.base import Where, class_logits

DISTANCES = ('total-variation', 'js')


@MODELS.register_module()
class Disagreement(Where):
    r"""How far the class distributions of student and teacher are apart, from 0 to 1.

    .. math:: w = \tfrac12 \lVert p^t - p^s \rVert_1,
              \quad p = \mathrm{softmax}(z / \tau)

    the total variation: the least probability with which two draws, one of each, must differ. It is
    1 only where no class is likely to both. 'js' is the Jensen-Shannon divergence over ln 2, which
    is of second order near 0. A teacher's map of another size is resized to the student's first.

    Args:
        distance: 'total-variation' or 'js'.
        tau: Temperature.
        reads: ``dict(student='student.logits', teacher='teacher.logits')`` beside a loss on
            features.

    Raises:
        ValueError: An unknown distance, a temperature that is not above 0; no class logits.

    Examples:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[1., 3.]]).log()
        >>> Disagreement()(Batch(torch.zeros(1, 3)), student, teacher)  # |1/2 − 3/4|
        tensor([0.2500])
    """

    class_logits = ('student', 'teacher')

    def __init__(
        self,
        distance: str = 'total-variation',
        tau: float = 1.0,
        reads: dict[str, str] | None = None,
    ) -> None:
        super().__init__(reads)
        check_choice('distance of Disagreement', distance, DISTANCES)
        check_positive('tau of Disagreement', tau)
        self.distance, self.tau = distance, tau

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return the distance of the two distributions, (N, \*S)."""
        s, t = both_logits('Disagreement', student, teacher)
        log_s, log_t = ((x / self.tau).log_softmax(1) for x in (s, t))
        if self.distance == 'js':
            return divergence(log_s, log_t, 'js').sum(1).clamp(min=0) / math.log(2)
        return (log_s.exp() - log_t.exp()).abs().sum(1) / 2


def both_logits(name: str, student: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return class logits of both sides at the student's size, float32 or wider.

    Raises:
        ValueError: There are none, or of other classes.
    """
    s, t = class_logits(name, 'student', student), class_logits(name, 'teacher', teacher)
    if s.shape[1] != t.shape[1] or s.dim() != t.dim():
        raise ValueError(
            f'{name} compares class logits of one set of classes, got student {tuple(s.shape)}, '
            f'teacher {tuple(t.shape)}. Mend: members of the same classes'
        )
    if s.shape[2:] != t.shape[2:]:
        t = resize_map(t, s.shape[2:])
    return s, t
