"""GDKD: KL of class distributions, decoupled at the teacher's likeliest classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_distributions, check_one_counts
from mmkd.losses.divergence.split import split_kl
from mmkd.losses.functional import counted, fill_masked, no_autocast, weighted_mean, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_non_negative, check_positive


def top_k_decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    k: int = 3,
    weights: Sequence[float] = (1.0, 1.0, 2.0),
    tau: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KL of the mass of the teacher's k likeliest classes, within them, and within the rest.

    After the seg-gdkd repository (GDKD), which generalises Zhao et al., Decoupled Knowledge
    Distillation, CVPR 2022, arXiv 2203.08679: it needs no label. K is the set of the teacher's k
    likeliest classes, m its mass and that of the rest, r the softmax within K, and q the softmax
    within the rest. With w = (1, m_K, 1 − m_K) of the teacher it would be plain KL.

    .. math:: \tau^2 \frac{1}{|V|} \sum_{i \in V} \left[ w_0 \mathrm{KL}(m_i^t \Vert m_i^s)
              + w_1 \mathrm{KL}(r_i^t \Vert r_i^s) + w_2 \mathrm{KL}(q_i^t \Vert q_i^s) \right]

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch. In the
    authors' code an ignored class 0 is not ignored. Of classes that are equally likely, as half
    precision has them, torch.topk decides which are in front.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        k: How many classes are in front, below their number.
        weights: Of the masses, within the first k, and within the rest.
        tau: Temperature.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, as many classes in front as there are,
            not three weights of 0 or above.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[2., 6., 1., 3.]]).log()  # r = (2/3, 1/3), of the 6 and the 3
        >>> student = torch.tensor([[1., 3., 1., 9.]]).log()  # r = (1/4, 3/4)
        >>> top_k_decoupled_kl(student, teacher, k=2, weights=(0., 1., 0.))
        tensor(0.3836)
    """
    check_positive('tau', tau)
    _check_split(k, weights)
    check_distributions(student, teacher, 'GDKD', mask, weight)
    if k >= student.shape[1]:
        raise ValueError(
            f'k must be below the {student.shape[1]} classes, so that there is a rest, got {k}. '
            f'Mend: k={student.shape[1] - 1} or less'
        )
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        front = torch.zeros_like(teacher, dtype=torch.bool)
        front.scatter_(1, teacher.topk(k, 1).indices, True)
        terms = split_kl(student, teacher, front, tau)
        total = sum(w * term for w, term in zip(weights, terms, strict=True))
        return tau**2 * weighted_mean(total, mask, weight)  # type: ignore[arg-type]


def _check_split(k: int, weights: Sequence[float]) -> None:
    check_count('k', k, 1)
    if not isinstance(weights, Sequence) or len(weights) != 3:
        raise ValueError(
            'weights must be three numbers, of the masses, within the first k and within the rest, '
            f'got {weights!r}. Mend: weights=(1, 1, 2)'
        )
    for one in weights:
        check_non_negative('each of weights', one)


@MODELS.register_module()
class TopKDecoupledKLLoss(Loss):
    r"""GDKD: the masses of the teacher's first k classes and of the rest, and within each.

    See :func:`top_k_decoupled_kl`.

    Args:
        k: How many classes are in front, below their number.
        weights: Of the masses, within the first k, and within the rest.
        tau: Temperature.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[2., 6., 1., 3.]]).log()
        >>> TopKDecoupledKLLoss(k=2, weights=(1, 0, 0))(torch.zeros(1, 4), teacher)  # (3/4, 1/4)
        tensor(0.1308)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self,
        k: int = 3,
        weights: Sequence[float] = (1.0, 1.0, 2.0),
        tau: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        _check_split(k, weights)
        masses, within, rest = weights
        check_one_counts('TopKDecoupledKLLoss', masses=masses, within=within, rest=rest)
        self.k, self.weights, self.tau = k, tuple(weights), tau

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        return self.loss_weight * top_k_decoupled_kl(
            student, teacher, self.k, self.weights, self.tau, mask, weight
        )
