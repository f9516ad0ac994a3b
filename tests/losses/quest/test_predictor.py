"""AssignmentPredictor: a cosine 1×1 convolution with a learned scale."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkd.losses import AssignmentPredictor
from mmkd.losses.quest.predictor import unit


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_scores_are_scaled_cosines(shape: tuple[int, ...]) -> None:
    predictor, student = AssignmentPredictor(3, num_words=6, gamma=2.5), torch.randn(shape)
    scores = predictor(student)
    assert scores.shape == (shape[0], 6, *shape[2:])
    for word in range(6):
        weight = predictor.weight[word].view(1, 3, *[1] * (len(shape) - 2)).expand(shape)
        torch.testing.assert_close(scores[:, word], 2.5 * F.cosine_similarity(student, weight))


def test_it_is_a_convolution_of_unit_vectors() -> None:
    predictor, student = AssignmentPredictor(3, num_words=6), torch.randn(2, 3, 4, 5)
    convolution = nn.Conv2d(3, 6, 1, bias=False)
    convolution.weight.data.copy_(F.normalize(predictor.weight.detach())[..., None, None])
    torch.testing.assert_close(predictor(student), 3 * convolution(F.normalize(student)))


def test_initial_values_and_what_learns() -> None:
    predictor = AssignmentPredictor(200, num_words=500, gamma=1.5)
    assert predictor.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert predictor.weight.mean().item() == pytest.approx(0, abs=0.002)
    assert predictor.scale.item() == 1.5
    assert predictor.scale.shape == ()
    assert [name for name, _ in predictor.named_parameters()] == ['weight', 'scale']
    predictor(torch.randn(4, 200)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in predictor.parameters())


def test_unit_vectors_and_their_gradient() -> None:
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit(x), F.normalize(x))
    assert torch.autograd.gradcheck(unit, x)
    zero = torch.zeros(2, 3, requires_grad=True)
    (unit(zero) * torch.randn(2, 3)).sum().backward()
    assert (unit(zero) == 0).all()
    assert (zero.grad == 0).all()
