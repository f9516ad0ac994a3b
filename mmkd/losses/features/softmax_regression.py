"""SRRL: features that the teacher's classifier takes for its own."""

from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_logits, check_one_counts, shape_of
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.features.point_wise import point_wise
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_non_negative, check_positive

NAME = 'softmax regression'
PENALTIES = ('l2', 'kl')


def softmax_regression(
    student: Tensor,
    teacher: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    feature: float = 1.0,
    logits: float = 5.0,
    penalty: str = 'l2',
    tau: float = 1.0,
    pooled: bool = True,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Features of the teacher's means, whose logits by the teacher's classifier are its own.

    Paper: Yang et al., Knowledge Distillation via Softmax Regression Representation Learning
    (SRRL), ICLR 2021. With f the features, of the student behind a regressor, h their means over
    places and W the teacher's frozen classifier:

    .. math:: \alpha \frac{1}{N C} \lVert h^s - h^t \rVert^2 + \beta \frac{1}{|V| K}
              \sum_{i \in V} \lVert W f_i^s - W f_i^t \rVert^2

    'kl' puts KL(softmax(W f^t / τ) ‖ softmax(W f^s / τ)) τ², averaged over V, in place of the
    squares. One regressor serves both terms. The authors' code has both of weight 1, a later one of
    others 1 and 5 on CIFAR; both average as here. Of label maps nothing is published.

    Normaliser: of the first term images and channels, and with ``pooled=False`` valid positions and
    channels; of the second valid positions and classes, or images.

    Args:
        student: Features (N, C, \*S), any number of spatial axes, none included.
        teacher: Features of the same shape; receives no gradient.
        student_logits: What the teacher's classifier makes of the student's, (N, K, \*S) or (N, K).
        teacher_logits: What it makes of the teacher's; receives no gradient.
        feature: α, 0 or above.
        logits: β, 0 or above.
        penalty: 'l2' or 'kl', how logits are compared.
        tau: Temperature of 'kl'.
        pooled: Whether the first term compares means over places.
        mask: Bool (N, \*S), True where a position counts; not with logits of whole images.
        weight: Float (N, \*S), 0 or above: how much it counts; likewise.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an unknown penalty, both weights 0.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> f, z = torch.tensor([[[1., 3.]]]), torch.tensor([[[2., 6.]]])
        >>> softmax_regression(f, 0 * f, z, 0 * z, logits=.5)  # 2² + (4 + 36) / 2 / 2
        tensor(14.)
    """
    _check(feature, logits, penalty, tau)
    check_logits(student_logits, teacher_logits, NAME)
    if student_logits.shape[2:] != student.shape[2:]:
        _check_sizes(student, student_logits, mask, weight)
    parts = []
    if feature:
        mean = pooled and student.dim() > 2
        parts.append(feature * point_wise(student, teacher, None, 'l2', mask, weight, NAME, mean))
    if logits and penalty == 'kl':
        kl = pixel_wise_kl(student_logits, teacher_logits, tau, mask=mask, weight=weight)
        parts.append(logits * kl)
    elif logits:
        squares = point_wise(student_logits, teacher_logits, None, 'l2', mask, weight, NAME)
        parts.append(logits * squares)
    return sum(parts[1:], parts[0])


def _check(feature: float, logits: float, penalty: str, tau: float) -> None:
    check_non_negative('feature', feature)
    check_non_negative('logits', logits)
    check_choice('penalty', penalty, PENALTIES)
    check_positive('tau', tau)
    check_one_counts(NAME, feature=feature, logits=logits)


def _check_sizes(
    student: Tensor, logits: Tensor, mask: Tensor | None, weight: Tensor | None
) -> None:
    if logits.dim() != 2 or len(logits) != len(student):
        raise ValueError(
            f'{NAME} needs logits of the features, place by place or one an image, got features '
            f'{shape_of(student)}, logits {shape_of(logits)}; mend: a head that keeps the size'
        )
    if mask is not None or weight is not None:
        raise ValueError(
            f'{NAME}: a mask or weight of places does not say which images count, got features '
            f'{shape_of(student)}, logits {shape_of(logits)}; mend: leave it out'
        )


@MODELS.register_module()
class SoftmaxRegressionLoss(Loss):
    r"""SRRL's two terms behind one regressor; see :func:`softmax_regression`.

    An objective of it lets the student's features pass the teacher's classifier:
    ``reads=dict(student='student.feat', teacher='teacher.feat', teacher_logits='teacher.logits'),
    teacher_head=dict(at='teacher.feat', gives='student_logits')``.

    Args:
        feature: α, 0 or above.
        logits: β, 0 or above.
        penalty: 'l2' or 'kl', how logits are compared.
        tau: Temperature of 'kl'.
        pooled: Whether the first term compares means over places.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> f, z = torch.tensor([[1., 3.]]), torch.tensor([[2.]])
        >>> SoftmaxRegressionLoss()(f, 0 * f, z, 0 * z)  # 10 / 2 + 5 · 4
        tensor(25.)
    """

    roles = dict(
        student=Map(),
        teacher=Map(),
        student_logits=Map(alike=()),
        teacher_logits=Map(alike=(), class_logits=True),
    )

    def __init__(
        self,
        feature: float = 1.0,
        logits: float = 5.0,
        penalty: str = 'l2',
        tau: float = 1.0,
        pooled: bool = True,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check(feature, logits, penalty, tau)
        self.feature, self.logits, self.pooled = feature, logits, pooled
        self.penalty, self.tau = penalty, tau

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of features and logits, mask and weight (N, \*S)."""
        return self.loss_weight * softmax_regression(
            student,
            teacher,
            student_logits,
            teacher_logits,
            self.feature,
            self.logits,
            self.penalty,
            self.tau,
            self.pooled,
            mask,
            weight,
        )
