"""ResidualAttentionLoss by value: CIRKD's formula, what it forgets, sizes, weights, refusals."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from references import residual_attention as reference
from torch import Tensor

from mmkd.losses import ResidualAttentionLoss, attention_transfer, residual_attention


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT = [draw(3, c, 4, 6, seed=c) for c in (2, 3, 5)]
TEACHER = [draw(3, c, 4, 6, seed=c) for c in (7, 8, 5)]
TEACHER[2] = 3 * TEACHER[2] + 1


def official(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the pixel term as CIRKD's comparison has it."""

    def residuals(maps: list[Tensor]) -> list[Tensor]:
        seen = [F.normalize(x.pow(2).mean(1).flatten(1)) for x in maps]
        return [F.normalize(seen[m] - seen[n]) for n, m in combinations(range(len(maps)), 2)]

    pairs = zip(residuals(student), residuals(teacher), strict=True)
    values = [(F.normalize(s) - F.normalize(t)).pow(2).mean() for s, t in pairs]
    return sum(values) / len(values)


@pytest.mark.parametrize('layers', [2, 3])
def test_it_is_the_formula_of_others_times_the_places(layers: int) -> None:
    """Value and gradients; theirs of a map that is repeated 2×2 is a quarter."""
    ours = [x.clone().requires_grad_() for x in STUDENT[:layers]]
    theirs = TEACHER[:layers]
    value, expected = residual_attention(ours, theirs), 24 * official(ours, theirs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, ours), torch.autograd.grad(expected, ours)
    )
    tiled = [[x.repeat(1, 1, 2, 2) for x in side] for side in (ours, theirs)]
    torch.testing.assert_close(residual_attention(*tiled), value)
    torch.testing.assert_close(24 * official(*tiled), value / 4)
    torch.testing.assert_close(ResidualAttentionLoss(2.0, 0.5)(ours, theirs), 0.5 * value)


@pytest.mark.parametrize('power', [1.0, 2.0, 3.0])
def test_masks_weights_and_powers_equal_the_slow_loop(power: float) -> None:
    mask = torch.arange(72).view(3, 4, 6) % 3 != 1
    weight = draw(3, 4, 6, seed=9).abs()
    empty = mask.clone()
    empty[0] = False
    for kept in (None, mask, empty):
        for own in (None, weight):
            value = residual_attention(STUDENT, TEACHER, power, kept, own)
            expected = reference.residual_attention(STUDENT, TEACHER, power, kept, own)
            assert value.item() == pytest.approx(expected, rel=1e-9)
        ones = torch.ones(3, 4, 6)
        assert residual_attention(STUDENT, TEACHER, power, kept, ones) == residual_attention(
            STUDENT, TEACHER, power, kept
        )


def test_what_a_layer_says_by_itself_is_forgotten() -> None:
    """Its scale, image by image, and whatever attention both layers have in common."""
    expected = residual_attention(STUDENT[:2], TEACHER[:2])
    scaled = [draw(3, 1, 1, 1, seed=k).exp() * x for k, x in enumerate(STUDENT[:2])]
    torch.testing.assert_close(residual_attention(scaled, TEACHER[:2]), expected)
    swapped = residual_attention(STUDENT[:2], TEACHER[1::-1])
    # |r + t|² + |r − t|² = 4 of unit vectors
    torch.testing.assert_close(swapped + expected, torch.tensor(4.0, dtype=torch.float64))
    # attention (0.6, 0.8) → (0, 1) and (0.8, 0.6) → (0.28, 0.96) differ; their changes do not
    first = [torch.tensor([[v]], dtype=torch.float64).sqrt() for v in ([0.6, 0.8], [0.0, 1.0])]
    second = [torch.tensor([[v]], dtype=torch.float64).sqrt() for v in ([0.8, 0.6], [0.6, 0.8])]
    assert attention_transfer(first[0], second[0]) > 0.05
    assert residual_attention(first, second) < 0.4


def test_layers_that_are_one_have_no_residual() -> None:
    student = STUDENT[0].clone().requires_grad_()
    value = residual_attention([student, student], TEACHER[:2])
    assert value.item() == pytest.approx(1)  # the norm of the teacher's
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize('noise', [1e-4, 1e-6, 1e-8])
def test_layers_that_are_nearly_one_have_a_small_residual_and_a_bounded_slope(noise: float) -> None:
    """Without a least norm the slope is 1 / noise, towards nothing but the rounding."""
    student = STUDENT[0].clone().requires_grad_()
    near = STUDENT[0] * (1 + noise * draw(3, 2, 4, 6, seed=11))
    maps = [[student, near], TEACHER[:2]]
    value = residual_attention(*maps)
    assert value.item() == pytest.approx(reference.residual_attention(*maps), rel=1e-6)
    (slope,) = torch.autograd.grad(value, student)
    (large,) = torch.autograd.grad(
        residual_attention([student, STUDENT[0].neg() + 1], TEACHER[:2]), student
    )
    assert slope.abs().max() < 1e3 * large.abs().max()
    if noise < 1e-5:  # the teacher's own norm, and little of the student's
        assert value.item() == pytest.approx(1, abs=2e-2)


def test_layers_of_other_sizes_are_averaged_to_the_students_first() -> None:
    """Energies are averaged, and under a mask over what counts alone."""
    large = [x.repeat_interleave(2, 2).repeat_interleave(3, 3) for x in (STUDENT[1], *TEACHER[:2])]
    expected = residual_attention(STUDENT[:2], TEACHER[:2])
    torch.testing.assert_close(
        residual_attention([STUDENT[0], large[0]], [large[1], large[2]]), expected
    )
    mask = torch.ones(3, 4, 6, dtype=torch.bool)
    mask[:, :, 4:] = False
    expected = residual_attention(STUDENT[:2], TEACHER[:2], mask=mask)
    spoilt = [x.clone() for x in large]
    for x in spoilt:
        x[..., 12:] = torch.nan
    value = residual_attention([STUDENT[0], spoilt[0]], [spoilt[1], spoilt[2]], mask=mask)
    torch.testing.assert_close(value, expected)
    cut = [[x[..., :4] for x in side[:2]] for side in (STUDENT, TEACHER)]
    torch.testing.assert_close(residual_attention(*cut), expected)


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match='teacher must be a list of maps.*mend: reads'):
        residual_attention(STUDENT, TEACHER[0])
    for student, teacher in ((STUDENT[:1], TEACHER[:1]), (STUDENT, TEACHER[:2])):
        with pytest.raises(ValueError, match='compares two layers or more.*mend: reads'):
            residual_attention(student, teacher)
    for wrong in (TEACHER[1][:2], TEACHER[1][..., 0]):
        with pytest.raises(ValueError, match='needs maps .* of the same images.*mend: taps'):
            residual_attention(STUDENT[:2], [TEACHER[0], wrong])
    with pytest.raises(ValueError, match='power must be 1 or above, got 0.5'):
        ResidualAttentionLoss(0.5)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        residual_attention(STUDENT, TEACHER, mask=torch.ones(3, 4, 6))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        residual_attention(STUDENT, TEACHER, weight=torch.ones(3, 4, 6).bool())
