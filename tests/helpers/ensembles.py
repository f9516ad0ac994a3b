"""What every loss of an ensemble must do, for the tests of each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

SHAPES = [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 3, 2, 2, 2)]


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


def check_order_of_members_tiling_and_layout(loss: Callable[..., Tensor]) -> None:
    student, teachers = ensemble(2, 4, 3, 5)
    expected = loss(student, teachers)
    torch.testing.assert_close(loss(student, teachers.flip(0)), expected)
    torch.testing.assert_close(
        loss(student, torch.cat([teachers, teachers])), expected
    )  # as an ensemble of six
    torch.testing.assert_close(
        loss(student.repeat(1, 1, 4, 2), teachers.repeat(1, 1, 1, 4, 2)), expected
    )
    torch.testing.assert_close(
        loss(student.contiguous(memory_format=torch.channels_last), teachers), expected
    )
    torch.testing.assert_close(loss(student, teachers.mT.contiguous().mT), expected)


def check_mask(loss: Callable[..., Tensor]) -> None:
    """A masked position changes nothing, whatever it holds; an all-False mask gives 0 with zero
    gradient.
    """
    student, teachers = ensemble(2, 3, 3, 3)
    mask = torch.rand(2, 3, 3) > 0.5
    expected = loss(student, teachers, mask=mask)
    (gradient,) = torch.autograd.grad(expected, student)
    alone = loss(student.movedim(1, -1)[mask], teachers.movedim(2, -1)[:, mask])
    torch.testing.assert_close(expected, alone)
    for bad in (float('nan'), float('inf'), -float('inf')):
        dirty_s = student.detach().masked_fill(~mask[:, None], bad).requires_grad_()
        dirty = loss(dirty_s, teachers.masked_fill(~mask[:, None], bad), mask=mask)
        assert dirty == expected
        (dirty_gradient,) = torch.autograd.grad(dirty, dirty_s)
        torch.testing.assert_close(dirty_gradient, gradient, rtol=0, atol=0)
        assert (dirty_gradient.movedim(1, -1)[~mask] == 0).all()
    empty = loss(student, teachers, mask=torch.zeros_like(mask))
    assert empty.item() == 0
    assert (torch.autograd.grad(empty, student)[0] == 0).all()


def check_half_precision(loss: Callable[..., Tensor], reference: Callable[..., float]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        student, teachers = (x.detach().to(dtype) for x in ensemble(2, 5, 3, 3))
        value = loss(student.requires_grad_(), teachers)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(
            reference(student.double(), teachers.double()), rel=1e-6
        )
        assert torch.autograd.grad(value, student)[0].dtype == dtype
    student, teachers = ensemble(2, 5, 3, 3, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        inside = loss(student, teachers)
    assert inside.dtype == torch.float32
    assert inside == loss(student, teachers)
    assert loss(student.double(), teachers).dtype == torch.float64


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
