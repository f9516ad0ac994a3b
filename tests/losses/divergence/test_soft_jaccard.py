"""SoftJaccardLoss by value."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import SoftJaccardLoss, soft_jaccard

METRICS, SCOPES = ('jaccard', 'dice'), ('batch', 'image')


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64), 2 * torch.randn(*shape, dtype=torch.float64)


def hard(x: Tensor) -> Tensor:
    """Return logits of the likeliest class, which is certain."""
    return 1e4 * F.one_hot(x.argmax(1), x.shape[1]).movedim(-1, 1).to(x.dtype)


def usual(p: Tensor, q: Tensor, metric: str) -> Tensor:
    """Return the mean over classes of 1 − the soft Jaccard or Dice of products."""
    over = tuple(d for d in range(p.dim()) if d != 1)
    both, sizes = (p * q).sum(over), (p + q).sum(over)
    score = both / (sizes - both) if metric == 'jaccard' else 2 * both / sizes
    return (1 - score).mean()


@pytest.mark.parametrize('metric', METRICS)
def test_of_hard_labels_it_is_the_usual_one_and_of_soft_ones_it_is_0_at_equality(
    metric: str,
) -> None:
    student, teacher = pair(2, 3, 6, 6)
    label = hard(teacher)
    torch.testing.assert_close(
        soft_jaccard(student, label, metric), usual(student.softmax(1), label.softmax(1), metric)
    )
    assert soft_jaccard(teacher, teacher, metric).item() == 0
    assert usual(teacher.softmax(1), teacher.softmax(1), metric) > 0.1


def test_hard_on_both_sides_it_is_the_intersection_over_the_union() -> None:
    student = torch.tensor([[[9e3, 9e3, 0.0, 0.0], [0.0, 0.0, 9e3, 9e3]]])
    teacher = torch.tensor([[[9e3, 0.0, 0.0, 0.0], [0.0, 9e3, 9e3, 9e3]]])
    assert soft_jaccard(student, teacher).item() == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    assert soft_jaccard(student, teacher, 'dice').item() == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)


def test_it_is_a_metric() -> None:
    """Symmetric, with the triangle inequality, which Dice lacks."""
    for _ in range(20):
        a, b, c = (3 * torch.randn(1, 3, 4, dtype=torch.float64) for _ in range(3))
        torch.testing.assert_close(soft_jaccard(a, b), soft_jaccard(b, a))
        assert soft_jaccard(a, c) <= soft_jaccard(a, b) + soft_jaccard(b, c)


def test_of_an_image_is_the_mean_over_images() -> None:
    student, teacher = pair(3, 4, 5)
    each = torch.stack([soft_jaccard(student[i : i + 1], teacher[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(soft_jaccard(student, teacher, scope='image'), each.mean())
    assert abs(soft_jaccard(student, teacher) - each.mean()) > 1e-4
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(
        soft_jaccard(student, teacher, scope='image', mask=mask), each[[0, 2]].mean()
    )


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('metric', METRICS)
def test_a_class_without_mass_is_no_distance(metric: str, scope: str) -> None:
    student, teacher = (x.float() for x in pair(2, 4, 3, 3))
    three = soft_jaccard(student[:, :3], teacher[:, :3], metric, scope)
    student[:, 3] = teacher[:, 3] = -1e4
    student.requires_grad_()
    value = soft_jaccard(student, teacher, metric, scope)
    torch.testing.assert_close(value, 0.75 * three)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize('scale', [1e4, 90.0, -1e4])
def test_extreme_logits_are_finite(scale: float) -> None:
    student = torch.zeros(1, 1000, 2, 2)
    student[0, 3] = scale
    student.requires_grad_()
    for metric in METRICS:
        value = soft_jaccard(student, -student.detach(), metric)
        assert torch.autograd.grad(value, student)[0].isfinite().all()
        assert 0 <= value.item() <= 1


def test_bad_input() -> None:
    with pytest.raises(ValueError, match='metric'):
        SoftJaccardLoss('iou')
    with pytest.raises(ValueError, match='scope'):
        SoftJaccardLoss(scope='class')
    with pytest.raises(ValueError, match='softmax over a single class'):
        soft_jaccard(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
