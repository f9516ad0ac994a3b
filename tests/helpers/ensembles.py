"""What every loss of an ensemble must do beside the battery, for the tests of each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def ensemble(
    *shape: int, members: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return logits of a student that learns and of members around a common mean."""
    teachers = 2 * torch.randn(shape, dtype=dtype) + torch.randn((members, *shape), dtype=dtype)
    return torch.randn(shape, dtype=dtype).requires_grad_(), teachers


def check_streams(loss: Any) -> None:
    """Members one by one give what all of them at once give, and the teachers get no gradient."""
    student, teachers = ensemble(2, 4, 3, 3)
    statistics = loss.running()
    for member in teachers.requires_grad_():
        statistics.update(member)
    stacked, streamed = loss(student, teachers), loss(student, statistics)
    assert streamed.item() == pytest.approx(stacked.item(), rel=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(v, student)[0] for v in (stacked, streamed)), rtol=0, atol=1e-12
    )
    loss(student, teachers).backward()
    assert teachers.grad is None


def check_order_of_members(loss: Callable[..., Tensor]) -> None:
    student, teachers = ensemble(2, 4, 3, 5)
    expected = loss(student, teachers)
    torch.testing.assert_close(loss(student, teachers.flip(0)), expected)
    torch.testing.assert_close(
        loss(student, torch.cat([teachers, teachers])), expected
    )  # as an ensemble of six


def check_refusals(loss: Callable[..., Tensor]) -> None:
    """Every ensemble that does not fit is refused by a message that says what to do."""

    def refused(student: tuple[int, ...], teachers: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            loss(torch.zeros(student), torch.zeros(teachers))

    refused(
        (2, 3, 4, 4), (1, 2, 3, 4, 4), r'two members or more, got 1 .*Mend: .* by PixelWiseKLLoss'
    )
    refused(
        (2, 19, 4, 4),
        (3, 2, 11, 4, 4),
        r'student has 19 classes but the ensemble has 11 \(student \(2, 19, 4, 4\), teachers \(3, '
        r'2, 11, 4, 4\)\).*Mend: members of the same classes',
    )
    refused(
        (2, 3, 4, 4),
        (3, 2, 3, 8, 8),
        r'members differ in shape: .*\(3, 2, 3, 8, 8\).*Mend: connectors',
    )
    refused(
        (2, 3),
        (2, 3),
        r'logits \(N, C, \*S\), got \(3,\). Mend: stack the members to teachers \(M, N, C, \*S\)',
    )
    refused(
        (2, 1, 4),
        (3, 2, 1, 4),
        'softmax over a single class is always 1.*Mend: give the members a background',
    )
    refused((), (3, 2, 4), r'differ in shape: student \(\), teachers \(3, 2, 4\)')
    x = torch.zeros(2, 2, 3, 4, 4)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        loss(x[0], x, mask=torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match='mend: resize the mask'):
        loss(x[0], x, mask=torch.ones(2, 8, 8, dtype=torch.bool))
