"""The four games of a critic: what the student loses and what the critic loses, of raw scores.

The teacher's map is real, the student's fake. Each function averages over the scores that count.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.functional import masked_mean


def wgan_student(fake: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return −mean d(S), which the student of 'hinge' loses as well.

    >>> import torch
    >>> wgan_student(torch.tensor([1., 2.]))
    tensor(-1.5000)
    """
    return -masked_mean(fake, valid)


def wgan_critic(fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean d(S) − mean d(T); the gradient penalty comes on top.

    >>> import torch
    >>> wgan_critic(torch.tensor([1., 2.]), torch.tensor([4., 4.]))
    tensor(-2.5000)
    """
    return masked_mean(fake, valid) - masked_mean(real, valid)


def hinge_critic(fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean relu(1 − d(T)) + mean relu(1 + d(S)).

    >>> import torch
    >>> hinge_critic(torch.tensor([-3., 0.]), torch.tensor([0.5, 2.]))  # 0.5 / 2 + 1 / 2
    tensor(0.7500)
    """
    return masked_mean(F.relu(1 - real), valid) + masked_mean(F.relu(1 + fake), valid)


def lsgan_student(fake: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean (1 − d(S))².

    >>> import torch
    >>> lsgan_student(torch.tensor([0.5, 0.]))  # (0.25 + 1) / 2
    tensor(0.6250)
    """
    return masked_mean((1 - fake).square(), valid)


def lsgan_critic(fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean (1 − d(T))² + mean d(S)².

    >>> import torch
    >>> lsgan_critic(torch.tensor([0.5, 0.]), torch.tensor([1., 0.]))  # 1 / 2 + 0.25 / 2
    tensor(0.6250)
    """
    return masked_mean((1 - real).square(), valid) + masked_mean(fake.square(), valid)


def bce_student(fake: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean softplus(−d(S)), which is −log D(S) of the probability D = σ(d).

    >>> import torch
    >>> bce_student(torch.tensor([0., 0.]))  # ln 2
    tensor(0.6931)
    """
    return masked_mean(F.softplus(-fake), valid)


def bce_critic(fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean softplus(−d(T)) + mean softplus(d(S)).

    >>> import torch
    >>> bce_critic(torch.tensor([0., 0.]), torch.tensor([0., 0.]))  # 2 ln 2
    tensor(1.3863)
    """
    return masked_mean(F.softplus(-real), valid) + masked_mean(F.softplus(fake), valid)


class Mode(NamedTuple):
    """A game: the student's loss of (fake, valid), the critic's of (fake, real, valid)."""

    student: Callable[..., Tensor]
    critic: Callable[..., Tensor]


MODES = {
    'wgan-gp': Mode(wgan_student, wgan_critic),
    'hinge': Mode(wgan_student, hinge_critic),
    'lsgan': Mode(lsgan_student, lsgan_critic),
    'bce': Mode(bce_student, bce_critic),
}
