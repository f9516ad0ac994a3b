"""DecoupledKLLoss, TopKDecoupledKLLoss and NormalizedKLLoss by value."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from references import decoupled_kl as slow
from torch import Tensor

from mmkd.losses import (
    DecoupledKLLoss,
    NormalizedKLLoss,
    TopKDecoupledKLLoss,
    binary_kl,
    decoupled_kl,
    normalized_kl,
    pixel_wise_kl,
    top_k_decoupled_kl,
)

TAU = 2.0


def pair(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return student.requires_grad_(), 2 * teacher, labels


def test_it_is_kl_where_beta_is_the_mass_of_the_rest() -> None:
    student, teacher, labels = pair(6, 5)
    mass = (teacher / TAU).softmax(1)
    for i in range(6):
        one = (student[i : i + 1], teacher[i : i + 1])
        rest = 1 - mass[i, labels[i]].item()
        torch.testing.assert_close(
            decoupled_kl(*one, labels[i : i + 1], TAU, alpha=1.0, beta=rest),
            pixel_wise_kl(*one, TAU),
        )


@pytest.mark.parametrize('k', [1, 2, 4])
def test_the_first_k_are_kl_with_their_masses_as_weights(k: int) -> None:
    student, teacher, _ = pair(6, 5)
    mass = (teacher / TAU).softmax(1).topk(k, 1).values.sum(1)
    for i in range(6):
        one = (student[i : i + 1], teacher[i : i + 1])
        weights = (1.0, mass[i].item(), 1 - mass[i].item())
        torch.testing.assert_close(
            top_k_decoupled_kl(*one, k, weights, TAU), pixel_wise_kl(*one, TAU)
        )


@pytest.mark.parametrize('k', [1, 2, 4])
def test_the_first_k_equal_the_loop(k: int) -> None:
    student, teacher, _ = pair(2, 5, 3, 4)
    weights = (1.0, 3.0, 2.0)
    assert top_k_decoupled_kl(student, teacher, k, weights, TAU).item() == pytest.approx(
        slow.top_k_decoupled_kl(student, teacher, k, weights, TAU), rel=1e-9
    )


def test_without_the_rest_it_is_binary_kl_of_the_label() -> None:
    student, teacher, labels = pair(6, 5)
    odds = [
        torch.logit((x / TAU).softmax(1).gather(1, labels[:, None])) for x in (student, teacher)
    ]
    torch.testing.assert_close(
        decoupled_kl(student, teacher, labels, TAU, beta=0.0), TAU**2 * binary_kl(*odds)
    )


def test_the_first_of_a_teacher_that_is_right_is_its_label() -> None:
    student, teacher, _ = pair(2, 5, 3, 4)
    torch.testing.assert_close(
        top_k_decoupled_kl(student, teacher, 1, (1.0, 5.0, 2.0), TAU),
        decoupled_kl(student, teacher, teacher.argmax(1), TAU, 1.0, 2.0),
    )


def test_the_rest_of_nkd_has_the_gradient_of_dkds() -> None:
    student, teacher, labels = pair(2, 5, 3, 4)
    of_rest = normalized_kl(student, teacher, labels, 1.5, TAU) - normalized_kl(
        student, teacher, labels, 0.0, TAU
    )
    same = decoupled_kl(student, teacher, labels, TAU, 0.0, 1.5)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (of_rest, same)))


def test_nkd_is_the_cross_entropy_of_a_sure_teacher() -> None:
    student, _, labels = pair(2, 5, 3, 4)
    sure = torch.zeros(2, 5, 3, 4, dtype=torch.float64).scatter(1, labels[:, None], 1e3)
    value = normalized_kl(student, sure, labels, gamma=0.0)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(student, labels))


LABELLED: dict[str, Callable[..., Tensor]] = dict(
    DKD=partial(decoupled_kl, tau=TAU), NKD=partial(normalized_kl, tau=TAU)
)


@pytest.mark.parametrize('name', LABELLED)
def test_a_position_without_a_label_is_left_out(name: str) -> None:
    """Whatever number stands for it, and whatever is predicted there."""
    student, teacher, labels = pair(2, 5, 10)
    keep = torch.tensor([0, 2, 3, 7])
    expected = LABELLED[name](student[..., keep], teacher[..., keep], labels[:, keep])
    for none in (255, -100, 5):
        ignored = torch.full_like(labels, none)
        ignored[:, keep] = labels[:, keep]
        value = LABELLED[name](student, teacher, ignored)
        torch.testing.assert_close(value, expected)
        hidden = (ignored == none)[:, None]
        spoilt = (x.masked_fill(hidden, torch.nan) for x in (student, teacher))
        value = LABELLED[name](*spoilt, ignored)
        torch.testing.assert_close(value, expected)
        assert torch.autograd.grad(value, student)[0].isfinite().all()
    value = LABELLED[name](student, teacher, torch.full_like(labels, 255))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize('name', LABELLED)
def test_class_255_of_an_image_counts_and_of_a_pixel_by_option(name: str) -> None:
    student, teacher, _ = pair(2, 300)
    labels = torch.tensor([255, 1])
    other = torch.tensor([254, 1])
    function = LABELLED[name]
    both = sum(function(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1]) for i in (0, 1))
    torch.testing.assert_close(function(student, teacher, labels), both / 2)
    maps = [x[..., None] for x in (student, teacher, labels)]
    torch.testing.assert_close(function(*maps), function(student[1:], teacher[1:], labels[1:]))
    torch.testing.assert_close(function(*maps, ignore_index=7), function(student, teacher, labels))
    assert abs(function(student, teacher, other) - function(student, teacher, labels)) > 1e-6


@pytest.mark.parametrize('scale', [1e4, -1e4])
@pytest.mark.parametrize('label', [3, 5])
def test_extreme_logits_are_finite(scale: float, label: int) -> None:
    """Where official code takes the logarithm of a sum that is 0."""
    student = torch.zeros(1, 1000, 2, 2)
    student[0, 3, 1, 1] = scale
    student.requires_grad_()
    labels = torch.full((1, 2, 2), label)
    functions = (
        lambda s, t: decoupled_kl(s, t, labels),
        lambda s, t: normalized_kl(s, t, labels),
        top_k_decoupled_kl,
    )
    for function in functions:
        value = function(student, -student.detach())
        exact = function(student.double(), -student.detach().double())
        assert value.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-5)
        assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_two_classes_have_no_rest() -> None:
    """What is left beside the label is certain, so KL is that of the label."""
    student, teacher, labels = pair(2, 2, 3, 4)
    torch.testing.assert_close(
        decoupled_kl(student, teacher, labels, TAU), pixel_wise_kl(student, teacher, TAU)
    )


def test_bad_input() -> None:
    x, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(TypeError, match='DKD needs labels of an integer dtype, got torch.float32'):
        decoupled_kl(x, x, labels.float())
    with pytest.raises(ValueError, match=r'NKD needs labels \(2, 4, 4\).*got \(2, 8, 8\)'):
        normalized_kl(x, x, torch.zeros(2, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match='k must be below the 3 classes.*got 3. Mend: k=2'):
        top_k_decoupled_kl(x, x, 3)
    with pytest.raises(ValueError, match='weights must be three numbers'):
        TopKDecoupledKLLoss(weights=(1, 2))
    with pytest.raises(ValueError, match='each of weights'):
        TopKDecoupledKLLoss(weights=(1, 2, -1))
    with pytest.raises(ValueError, match='k must be a whole number'):
        TopKDecoupledKLLoss(k=0)
    with pytest.raises(ValueError, match='beta'):
        DecoupledKLLoss(beta=-1)
    with pytest.raises(ValueError, match='gamma'):
        NormalizedKLLoss(gamma=-1)
    one = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match='softmax over a single class'):
        decoupled_kl(one, one, labels)
