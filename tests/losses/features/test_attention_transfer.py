"""AttentionTransferLoss by value: what it forgets, its normaliser, weights and refusals."""

import pytest
import torch
import torch.nn.functional as F
from references import attention_transfer as reference
from torch import Tensor

from mmkd.losses import AttentionTransferLoss, attention_transfer


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), draw(3, 7, 5, 6, seed=1)


def official(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the authors' at_loss."""
    ours, theirs = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (student, teacher))
    return (ours - theirs).pow(2).mean()


def test_it_is_the_authors_times_the_places() -> None:
    """Theirs of a map that is repeated 2×2 is a quarter; this one is the same."""
    value = attention_transfer(STUDENT, TEACHER)
    torch.testing.assert_close(value, 30 * official(STUDENT, TEACHER))
    tiled = [x.repeat(1, 1, 2, 2) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(official(*tiled), official(STUDENT, TEACHER) / 4)
    torch.testing.assert_close(attention_transfer(*tiled), value)


def test_scale_of_an_image_signs_and_order_of_channels_are_forgotten() -> None:
    expected = attention_transfer(STUDENT, TEACHER)
    scaled = draw(3, 1, 1, 1, seed=2).exp() * STUDENT
    for changed in (scaled, -STUDENT, STUDENT.flip(1)):
        torch.testing.assert_close(attention_transfer(changed, TEACHER), expected)
    torch.testing.assert_close(
        attention_transfer(1e-30 * STUDENT.float(), 1e30 * TEACHER.float()).double(),
        expected,
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.parametrize('power', [1.0, 1.5, 2.0, 4.0])
def test_weights_and_powers(power: float) -> None:
    """Ones change nothing; others are the reference's, beside a mask too."""
    ones, weight = torch.ones(3, 5, 6), draw(3, 5, 6, seed=7).relu()
    mask = torch.arange(90).view(3, 5, 6) % 7 > 2
    mask[0, :3] = False  # images of other numbers of places
    for kept in (None, mask):
        whole = attention_transfer(STUDENT, TEACHER, power, kept)
        assert attention_transfer(STUDENT, TEACHER, power, kept, ones) == whole
        assert whole.item() == pytest.approx(
            reference.attention_transfer(STUDENT, TEACHER, power, kept)
        )
        got = AttentionTransferLoss(power)(STUDENT, TEACHER, kept, weight)
        expected = reference.attention_transfer(STUDENT, TEACHER, power, kept, weight)
        assert got.item() == pytest.approx(expected)
        assert abs(got - whole) > 1e-4


@pytest.mark.parametrize('power', [1.0, 1.5, 2.0])
def test_zeros_have_a_finite_gradient(power: float) -> None:
    """A map of zeros costs the teacher's own norm."""
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = attention_transfer(student, draw(2, 5, 4, 4).float(), power)
    value.backward()
    assert value.item() == pytest.approx(1)
    assert student.grad.isfinite().all()


def test_one_place_has_nothing_to_tell() -> None:
    assert attention_transfer(draw(2, 3, 1, 1), draw(2, 1000, 1, 1, seed=1)) == 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r'got student \(2, 3\), .* mend: taps of maps'):
        attention_transfer(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r'teacher \(2, 5, 4\).* mend'):
        attention_transfer(torch.zeros(2, 3, 5), torch.zeros(2, 5, 4))
    for power in (0.5, 0.0, float('nan')):
        with pytest.raises(ValueError, match='power must be'):
            AttentionTransferLoss(power)
        with pytest.raises(ValueError, match='power must be'):
            attention_transfer(STUDENT, TEACHER, power)
    with pytest.raises(ValueError, match='weight must have the shape'):
        attention_transfer(STUDENT, TEACHER, weight=torch.ones(3, 5))
