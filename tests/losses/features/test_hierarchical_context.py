"""HierarchicalContextLoss by value: levels, cells, and what counts in them."""

import pytest
import torch
import torch.nn.functional as F
from references import hierarchical_context as reference
from torch import Tensor

from mmkd.losses import HierarchicalContextLoss, hierarchical_context

SHAPES = ((2, 3, 8, 12), (2, 5, 5, 3), (2, 4))


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT = [draw(*shape, seed=k) for k, shape in enumerate(SHAPES)]
TEACHER = [2 * draw(*shape, seed=9 + k) for k, shape in enumerate(SHAPES)]
MASK = torch.arange(192).view(2, 8, 12) % 5 != 1
MASK[0, :3] = False


def hcl(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the loss of the authors, of square maps: a sum over levels."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=True):
        value, count, counts = F.mse_loss(s, t), 1.0, 1.0
        for side in (4, 2, 1):
            if side < s.shape[2]:
                count /= 2
                pooled = [F.adaptive_avg_pool2d(x, (side, side)) for x in (s, t)]
                value = value + count * F.mse_loss(*pooled)
                counts += count
        total = total + value / counts
    return total


def test_it_is_the_loss_of_the_authors_as_a_mean_over_levels() -> None:
    student, teacher = ([draw(2, 3, n, n, seed=n + k) for n in (16, 7, 4, 2, 1)] for k in (0, 50))
    expected = hcl(student, teacher) / 5
    torch.testing.assert_close(hierarchical_context(student, teacher), expected, rtol=1e-12, atol=0)


def test_a_level_of_weight_0_takes_part_with_0() -> None:
    """DDP waits for a gradient of everything that its connector trained."""
    student = [x.clone().requires_grad_() for x in STUDENT]
    HierarchicalContextLoss((1.0, 0.0, 0.0))(student, TEACHER).backward()
    assert [bool(x.grad.any()) for x in student] == [True, False, False]


@pytest.mark.parametrize('level_weights', [None, (1.0, 3.0, 0.0), (0.5, 0.25, 2.0)])
def test_it_is_the_slow_loop(level_weights: tuple[float, ...] | None) -> None:
    """Maps that are no squares, a vector, masks and weights of the first level."""
    loss = HierarchicalContextLoss(level_weights)
    weight = draw(2, 8, 12, seed=5).relu()
    values = []
    for mask in (None, MASK):
        for given in (None, weight):
            found = loss(STUDENT, TEACHER, mask, given)
            slow = reference.hierarchical_context(STUDENT, TEACHER, level_weights, mask, given)
            assert found.item() == pytest.approx(slow, rel=1e-9)
            values.append(slow)
        whole = loss(STUDENT, TEACHER, mask)
        ones = torch.ones(2, 8, 12, dtype=torch.float64)
        torch.testing.assert_close(loss(STUDENT, TEACHER, mask, ones), whole, rtol=1e-13, atol=0)
    assert len({round(value, 9) for value in values}) == 4


def test_a_constant_difference_of_1_is_1() -> None:
    """Whatever the sizes, the weights of levels, the mask; equal maps are 0 without gradient."""
    loss = HierarchicalContextLoss((1.0, 2.0, 0.5), loss_weight=3.0)
    for mask in (None, MASK):
        value = loss([x + 1 for x in TEACHER], TEACHER, mask)
        torch.testing.assert_close(value, torch.tensor(3.0, dtype=torch.float64))
        same = [x.clone().requires_grad_() for x in TEACHER]
        value = loss(same, TEACHER, mask)
        value.backward()
        assert value == 0
        assert all((x.grad == 0).all() for x in same)


def test_the_order_of_levels_is_that_of_their_weights() -> None:
    back = [0.2, 3.0, 1.0]
    value = hierarchical_context(STUDENT, TEACHER, back)
    apart = [hierarchical_context([s], [t]) for s, t in zip(STUDENT, TEACHER, strict=True)]
    expected = sum(w * x for w, x in zip(back, apart, strict=True)) / sum(back)
    torch.testing.assert_close(value, expected)
    assert len({round(x.item(), 3) for x in apart}) == 3
    assert hierarchical_context(STUDENT, TEACHER, [0, 7, 0]) == apart[1]


def test_a_vector_is_a_map_of_one_place() -> None:
    fused = [*STUDENT[:2], STUDENT[2][..., None, None]]
    assert hierarchical_context(fused, TEACHER) == hierarchical_context(STUDENT, TEACHER)


def test_without_cells_it_is_the_mean_square() -> None:
    loss = HierarchicalContextLoss(cells=())
    expected = sum(F.mse_loss(s, t) for s, t in zip(STUDENT, TEACHER, strict=True)) / 3
    torch.testing.assert_close(loss(STUDENT, TEACHER), expected)


def test_what_is_masked_reaches_nothing() -> None:
    """Of the first level; a place of another level goes where all that it covers is masked."""
    mask = torch.ones(2, 8, 12, dtype=torch.bool)
    mask[:, :4] = False
    student = [x.clone() for x in STUDENT[:2]]
    student[0][:, :, :4] = torch.nan
    student[1] = draw(2, 5, 2, 3)
    teacher = [TEACHER[0], draw(2, 5, 2, 3, seed=3)]
    other = [student[0].nan_to_num(7.0), student[1].clone()]
    other[1][:, :, 0] = torch.inf
    for one in (student, other):
        one[0].requires_grad_()
    values = [hierarchical_context(one, teacher, mask=mask) for one in (student, other)]
    assert values[0] == values[1]
    assert values[0].isfinite()
    values[0].backward()
    assert student[0].grad.isfinite().all()
    assert (student[0].grad[:, :, :4] == 0).all()


def test_gradients_are_those_of_differences() -> None:
    given = [x.clone().requires_grad_() for x in STUDENT]
    for mask in (None, MASK):
        assert torch.autograd.gradcheck(
            lambda *maps, mask=mask: hierarchical_context(maps, TEACHER, [1, 2, 3], mask=mask),
            given,
        )


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    for given, error, message in (
        ((STUDENT[0], TEACHER), TypeError, 'student must be a list of maps, one a stage, got'),
        ((STUDENT, TEACHER[:2]), ValueError, 'student has 3 stages, teacher 2; mend: lists of'),
        (([], []), ValueError, 'student has 0 stages'),
        (([draw(2, 3, 4)], [draw(2, 3, 4)]), ValueError, r'student needs maps \(N, F, H, W\)'),
        ((STUDENT, TEACHER[::-1]), ValueError, 'level 0: .* mend: .*LevelFusion'),
        ((STUDENT, [x[..., 1:] for x in TEACHER]), ValueError, 'context, level 0 needs maps'),
        ((STUDENT, TEACHER, None, (4,), MASK[:, :2]), ValueError, 'mask must have the shape'),
        ((STUDENT, TEACHER, None, (4,), None, MASK.long()), TypeError, 'weight must be a float'),
        ((STUDENT, TEACHER, [1.0]), ValueError, 'level_weights must be one for each of 3 levels'),
        (([STUDENT[0][:1]], [TEACHER[0]]), ValueError, 'differ in their number of images'),
    ):
        with pytest.raises(error, match=message):
            hierarchical_context(*given)
    for options, message in (
        (dict(level_weights=(-1.0, 1.0)), 'level_weights must be a finite number, 0 or above'),
        (dict(level_weights=(0, 0)), 'level_weights are all 0, .*mend: one above 0'),
        (dict(cells=(4, 0)), 'cells must be a whole number of at least 1'),
    ):
        with pytest.raises(ValueError, match=message):
            HierarchicalContextLoss(**options)
