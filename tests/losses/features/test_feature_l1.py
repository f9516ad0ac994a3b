"""FeatureL1Loss by value."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import FeatureL1Loss, feature_l1
from mmkd.registry import build_part


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def slow(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean over valid positions and channels, one number at a time."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    found = [
        abs(s[i][k][p] - t[i][k][p])
        for i in range(n)
        for p in range(len(s[0][0]))
        for k in range(c)
        if mask is None or mask.reshape(n, -1)[i, p]
    ]
    return sum(found) / max(len(found), 1)


def test_hand_value() -> None:
    student, teacher = (
        torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[0.0, 4.0], [3.0, 0.0]]]),
    )
    assert feature_l1(student, teacher).item() == (1 + 2 + 3 + 0) / 4
    assert feature_l1(student, teacher, torch.tensor([[False, True]])).item() == 1


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4)])
def test_equals_the_slow_loop_and_torch(shape: tuple[int, ...]) -> None:
    student, teacher = pair(*shape)
    mask = torch.rand(shape[0], *shape[2:]) > 0.4
    for m in (None, mask):
        assert feature_l1(student, teacher, m).item() == pytest.approx(
            slow(student, teacher, m), rel=1e-12
        )
    torch.testing.assert_close(feature_l1(student, teacher), F.l1_loss(student, teacher))


def test_zero_with_zero_gradient_at_the_teacher_and_its_size_does_not_matter() -> None:
    student, teacher = pair(2, 4, 3, 3)
    same = teacher.clone().requires_grad_()
    value = feature_l1(same, teacher)
    assert value.item() == 0
    assert (torch.autograd.grad(value, same)[0] == 0).all()
    torch.testing.assert_close(
        feature_l1(student.repeat(1, 2, 4, 2), teacher.repeat(1, 2, 4, 2)),
        feature_l1(student, teacher),
    )


def test_gradcheck_and_the_teacher_gets_none() -> None:
    student, teacher = pair(2, 3, 2, 2)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: feature_l1(s, teacher, mask), student)
    build_part(dict(type='FeatureL1Loss', loss_weight=0.5))(
        student, teacher.requires_grad_()
    ).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 0.5 * (student - teacher).detach().sign() / 24)
    assert FeatureL1Loss().loss_name == 'loss_feature_l1_loss'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (
        x.detach().mul(3e3).to(dtype) for x in pair(2, 64, 8, 8)
    )  # the sum is no float16
    value = feature_l1(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(slow(student.double(), teacher.double()), rel=1e-5)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_masked_positions_count_nowhere(bad: float) -> None:
    student, teacher = pair(2, 3, 3, 3)
    mask = torch.rand(2, 3, 3) > 0.5
    dirty = student.detach().masked_fill(~mask[:, None], bad).requires_grad_()
    value = feature_l1(dirty, teacher, mask)
    assert value == feature_l1(student, teacher, mask)
    torch.testing.assert_close(
        torch.autograd.grad(value, dirty)[0],
        torch.autograd.grad(feature_l1(student, teacher, mask), student)[0],
        rtol=0,
        atol=0,
    )
    empty = feature_l1(student, teacher, torch.zeros(2, 3, 3, dtype=torch.bool))
    assert empty.item() == 0
    assert (torch.autograd.grad(empty, student)[0] == 0).all()


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r'student \(2, 3, 4, 4\), teacher \(2, 5, 4, 4\); mend: connectors'
    ):
        feature_l1(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        feature_l1(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2))
