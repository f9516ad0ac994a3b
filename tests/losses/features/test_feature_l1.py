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


def test_hand_value() -> None:
    student, teacher = (
        torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[0.0, 4.0], [3.0, 0.0]]]),
    )
    assert feature_l1(student, teacher).item() == (1 + 2 + 3 + 0) / 4
    assert feature_l1(student, teacher, torch.tensor([[False, True]])).item() == 1


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4)])
def test_equals_torch(shape: tuple[int, ...]) -> None:
    student, teacher = pair(*shape)
    torch.testing.assert_close(feature_l1(student, teacher), F.l1_loss(student, teacher))


def test_the_gradient_by_hand() -> None:
    student, teacher = pair(2, 3, 2, 2)
    build_part(dict(type='FeatureL1Loss', loss_weight=0.5))(student, teacher).backward()
    torch.testing.assert_close(student.grad, 0.5 * (student - teacher).detach().sign() / 24)
    assert FeatureL1Loss().loss_name == 'loss_feature_l1_loss'


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r'student \(2, 3, 4, 4\), teacher \(2, 5, 4, 4\); mend: connectors'
    ):
        feature_l1(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        feature_l1(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2))
