"""HiddenCosineLoss by value."""

import pytest
import torch
import torch.nn.functional as F
from references.internal import cosine, prototypes
from torch import Tensor

from mmkd.losses import HiddenCosineLoss, hidden_cosine
from mmkd.losses.features.hidden_cosine import prototypes as class_states


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), torch.randn(
        *shape, dtype=torch.float64
    )


def test_hand_value() -> None:
    student, teacher = (
        torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]),
        torch.tensor([[[3.0, 3.0], [0.0, -1.0]]]),
    )
    assert hidden_cosine(student, teacher).item() == pytest.approx((1 - 0.5**0.5 + 2) / 2)
    assert hidden_cosine(student, teacher, torch.tensor([[False, True]])).item() == 2


@pytest.mark.parametrize('shape', [(4, 5), (3, 4, 5)])
def test_equals_torch(shape: tuple[int, ...]) -> None:
    student, teacher = pair(*shape)
    torch.testing.assert_close(
        hidden_cosine(student, teacher), 1 - F.cosine_similarity(student, teacher, -1).mean()
    )


def test_two_against_the_teacher() -> None:
    _, teacher = pair(3, 4, 5)
    assert hidden_cosine(-teacher, teacher).item() == pytest.approx(2)


def test_scales_change_nothing() -> None:
    student, teacher = pair(2, 3, 5)
    value = hidden_cosine(student, teacher)
    torch.testing.assert_close(hidden_cosine(7 * student, 0.1 * teacher), value)


@pytest.mark.parametrize('scale', [1e-30, 1e25])
def test_states_whose_squares_are_no_numbers(scale: float) -> None:
    """The cosine of (3, 4) and (4, 3) is 24/25 whatever the length."""
    student = (scale * torch.tensor([[3.0, 4.0]])).requires_grad_()
    value = hidden_cosine(student, torch.tensor([[4.0, 3.0]]))
    assert value.item() == pytest.approx(0.04, abs=1e-6)
    (gradient,) = torch.autograd.grad(value, student)
    expected = (0.96 * torch.tensor([0.6, 0.8]) - torch.tensor([0.8, 0.6])) / (5 * scale)
    torch.testing.assert_close(gradient[0], expected, rtol=1e-4, atol=0)


def test_a_zero_state_has_cosine_zero_and_a_finite_gradient() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    value = hidden_cosine(student, torch.ones(1, 3))
    assert value.item() == 1
    assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


# ---------------------------------------------------------------- tokens


def test_the_first_token_is_cls() -> None:
    student, teacher = pair(2, 4, 5)
    torch.testing.assert_close(
        HiddenCosineLoss(token='first')(student, teacher),
        hidden_cosine(student[:, 0], teacher[:, 0]),
    )


def test_the_mean_token_counts_what_the_mask_does() -> None:
    student, teacher = pair(2, 3, 5)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    loss = HiddenCosineLoss(token='mean')
    torch.testing.assert_close(
        loss(student, teacher), hidden_cosine(student.mean(1), teacher.mean(1))
    )
    expected = cosine(student[0, :2].mean(0).tolist(), teacher[0, :2].mean(0).tolist())
    assert loss(student, teacher, mask).item() == pytest.approx(
        expected
    )  # the second sentence is all padding


def test_places_of_a_map_are_tokens() -> None:
    student, teacher = pair(2, 5, 3, 4)
    flat = [x.flatten(2).transpose(1, 2) for x in (student, teacher)]
    mask = torch.rand(2, 3, 4) > 0.3
    torch.testing.assert_close(
        HiddenCosineLoss()(student, teacher, mask), hidden_cosine(*flat, mask.flatten(1))
    )
    torch.testing.assert_close(
        HiddenCosineLoss(token='mean')(student, teacher),
        hidden_cosine(*(x.mean((2, 3)) for x in (student, teacher))),
    )


def test_a_place_without_a_class_belongs_to_none() -> None:
    """−1 is none, as 255 is; of another image it would else have the number of a class."""
    states = torch.arange(4.0).view(2, 1, 1, 2)
    labels = torch.tensor([[[0, 1]], [[-1, 0]]])
    assert class_states(labels, 255, states)[0].flatten().tolist() == [0.0, 1.0, 3.0]


def test_class_prototypes_equal_the_slow_loop() -> None:
    student, teacher = pair(2, 5, 3, 4)
    labels = torch.randint(0, 3, (2, 3, 4))
    labels[0, 0], labels[1] = 255, labels[1].clamp(max=1)
    pairs = zip(prototypes(student, labels, 255), prototypes(teacher, labels, 255), strict=True)
    found = [cosine(a, b) for a, b in pairs]
    value = HiddenCosineLoss(token='class', loss_weight=0.5)(student, teacher, labels=labels)
    assert value.item() == pytest.approx(0.5 * sum(found) / len(found))


def test_no_class_at_all_is_an_exact_zero() -> None:
    student, teacher = pair(2, 5, 3, 4)
    value = HiddenCosineLoss(token='class')(student, teacher, labels=torch.full((2, 3, 4), 255))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize(
    ('token', 'shape', 'other', 'message'),
    [
        (
            None,
            (2, 3),
            (2, 4),
            r'token=None\) needs states \(N, D\) or \(N, L, D\) or .* connectors=dict',
        ),
        (
            'first',
            (2, 3),
            (2, 3),
            r"token='first'\) needs states \(N, L, D\) of one shape, got student \(2, 3\)",
        ),
        ('class', (2, 3, 4), (2, 3, 4), r'needs states \(N, D, H, W\) of one shape'),
    ],
)
def test_states_that_do_not_fit(
    token: str, shape: tuple[int, ...], other: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HiddenCosineLoss(token)(torch.zeros(shape), torch.zeros(other))


def test_other_bad_input() -> None:
    x, m = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 4)
    with pytest.raises(
        ValueError, match=r'one shape, got student \(2, 3, 4\), teacher \(2, 3, 5\); mend'
    ):
        hidden_cosine(x, torch.zeros(2, 3, 5))
    with pytest.raises(TypeError, match=r'mask must be a bool tensor \(2, 3\)'):
        hidden_cosine(x, x, torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r'mask must be a bool tensor \(2, 3\).* got torch.bool \(2, 4\)'
    ):
        HiddenCosineLoss()(x, x, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"token='class' needs labels \(2, 4, 4\) .* got None; mend: reads=dict"
    ):
        HiddenCosineLoss('class')(m, m)
    with pytest.raises(ValueError, match="token='first' takes no mask"):
        HiddenCosineLoss('first')(x, x, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="token must be one of .*'class'"):
        HiddenCosineLoss('cls')
