"""FeatureMatchingLoss by value: what normalisations forget, what penalties cost, many ranks."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks_matching
from helpers.processes import ranks
from references import feature_matching as reference
from torch import Tensor

from mmkd.losses import FeatureMatchingLoss, feature_l1, feature_matching
from mmkd.losses.features.point_wise import NORMALISATIONS, PENALTIES

OPTIONS = [*product(NORMALISATIONS, PENALTIES)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), 2 * draw(3, 4, 5, 6, seed=1) + 1


def test_penalties_are_those_of_torch() -> None:
    for penalty, same in dict(l2=F.mse_loss, l1=F.l1_loss, huber=F.huber_loss).items():
        torch.testing.assert_close(
            feature_matching(STUDENT, TEACHER, None, penalty), same(STUDENT, TEACHER)
        )
    cosine = 1 - F.cosine_similarity(STUDENT, TEACHER, 1).mean()
    torch.testing.assert_close(feature_matching(STUDENT, TEACHER, None, 'cosine'), cosine)
    assert feature_matching(STUDENT, TEACHER, None, 'l1') == feature_l1(STUDENT, TEACHER)


def test_squares_grow_with_the_square() -> None:
    once = feature_matching(STUDENT, TEACHER)
    torch.testing.assert_close(feature_matching(3 * STUDENT, 3 * TEACHER), 9 * once)


def test_half_of_batch_is_one_minus_the_mean_correlation() -> None:
    """And of opposite features it is 2."""
    rows = (x.transpose(0, 1).flatten(1) for x in (STUDENT, TEACHER))
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*rows, strict=True)]
    expected = 1 - torch.stack(correlations).mean()
    torch.testing.assert_close(0.5 * feature_matching(STUDENT, TEACHER, 'batch'), expected)
    torch.testing.assert_close(
        0.5 * feature_matching(-STUDENT, STUDENT, 'batch'), torch.tensor(2.0).double()
    )


def test_the_authors_of_pkd_divide_by_one_less() -> None:
    """Their code: unbiased deviation, 1e-6 beside it, half the mean square."""

    def norm(x: Tensor) -> Tensor:
        flat = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1)
        return (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)

    official = F.mse_loss(norm(STUDENT), norm(TEACHER)) / 2
    n = STUDENT[:, 0].numel()
    expected = (n - 1) / n * 0.5 * feature_matching(STUDENT, TEACHER, 'batch')
    torch.testing.assert_close(official, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('penalty', PENALTIES)
def test_what_normalisations_forget(penalty: str) -> None:
    """Scale and offset of a channel; of an image too; the length of a position's vector."""
    scale, offset = draw(1, 4, 1, 1, seed=2).exp(), draw(1, 4, 1, 1, seed=3)
    own_scale, own_offset = draw(3, 4, 1, 1, seed=4).exp(), draw(3, 4, 1, 1, seed=5)
    length = draw(3, 1, 5, 6, seed=6).exp()
    for normalise, changed in (
        ('batch', scale * STUDENT + offset),
        ('sample', own_scale * STUDENT + own_offset),
        ('l2', length * STUDENT),
    ):
        torch.testing.assert_close(
            feature_matching(changed, TEACHER, normalise, penalty),
            feature_matching(STUDENT, TEACHER, normalise, penalty),
        )
    one, other = (
        feature_matching(x, TEACHER, 'batch', penalty)
        for x in (STUDENT, own_scale * STUDENT + own_offset)
    )
    assert (one - other).abs() > 1e-3


def test_a_dead_channel_costs_one_and_gets_no_gradient() -> None:
    """Though the mean of many equal numbers is not quite that number."""
    student = torch.full((2, 2, 32, 32), 0.1)
    student[:, 1] = draw(2, 32, 32)
    teacher = draw(2, 2, 32, 32).float()
    student.requires_grad_()
    for normalise in ('batch', 'sample'):
        value = feature_matching(student, teacher, normalise)
        alive = feature_matching(student[:, 1:], teacher[:, 1:], normalise)
        torch.testing.assert_close(value, (1 + alive) / 2)
        gradient = torch.autograd.grad(value, student)[0]
        assert (gradient[:, 0] == 0).all()
        assert (gradient[:, 1] != 0).any()
        assert feature_matching(teacher[:, :1] * 0 + 0.1, student[:, :1], normalise) == 0


def test_one_position_and_zero_vectors_are_finite() -> None:
    for normalise, penalty in OPTIONS:
        for value in (torch.zeros(2, 3, 1, 1), torch.full((2, 1000, 1, 1), 1e4)):
            student = value.clone().requires_grad_()
            loss = feature_matching(student, -value - 1, normalise, penalty)
            loss.backward()
            assert loss.isfinite()
            assert student.grad.isfinite().all()


def test_a_far_off_channel_loses_no_digits() -> None:
    far = (STUDENT + 1e4).float()
    for normalise in ('batch', 'sample'):
        torch.testing.assert_close(
            feature_matching(far, TEACHER.float(), normalise).double(),
            feature_matching(far.double(), TEACHER, normalise),
            rtol=1e-5,
            atol=0,
        )


def test_squares_beyond_float32_are_not_taken_for_a_dead_channel() -> None:
    assert not feature_matching(STUDENT.float() * 1e30, TEACHER.float(), 'batch').isfinite()


@pytest.mark.parametrize(('normalise', 'penalty'), OPTIONS)
def test_weights(normalise: str | None, penalty: str) -> None:
    """Ones change nothing; others are the reference's, beside a mask too; zeros give zero."""
    options = dict(normalise=normalise, penalty=penalty)
    ones, weight = torch.ones(3, 5, 6), draw(3, 5, 6, seed=7).relu()
    mask = torch.arange(90).view(3, 5, 6) % 3 != 1
    for kept in (None, mask):
        whole = feature_matching(STUDENT, TEACHER, mask=kept, **options)
        assert feature_matching(STUDENT, TEACHER, mask=kept, weight=ones, **options) == whole
        expected = reference.feature_matching(STUDENT, TEACHER, mask=kept, weight=weight, **options)
        got = FeatureMatchingLoss(**options)(STUDENT, TEACHER, kept, weight)
        assert got.item() == pytest.approx(expected)
        assert abs(got - whole) > 1e-4
    assert feature_matching(STUDENT, TEACHER, weight=0 * ones, **options) == 0


def test_what_is_refused() -> None:
    vectors = torch.zeros(2, 3), torch.ones(2, 3)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "'sample' takes mean and deviation .* Mend", dict(normalise='sample')),
        (ValueError, "normalise must be one of .*'none'", dict(normalise='none')),
        (ValueError, "penalty must be one of .*'mse'", dict(penalty='mse')),
        (TypeError, 'weight must be a float tensor .* mend', dict(weight=torch.ones(2).bool())),
        (ValueError, r'weight must have the shape \(2,\) .* mend', dict(weight=torch.ones(2, 3))),
        (TypeError, 'mask must be a bool tensor', dict(mask=torch.ones(2))),
    ]
    for kind, message, options in refused:
        with pytest.raises(kind, match=message):
            feature_matching(*vectors, **options)
    for options in (dict(normalise='none'), dict(penalty='mse')):
        with pytest.raises(ValueError, match='must be one of'):
            FeatureMatchingLoss(**options)
    with pytest.raises(ValueError, match=r'feature matching needs maps .* mend: connectors'):
        feature_matching(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.slow
def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    """Values and the gradients that data parallelism averages; images of one rank alone are not."""
    ranks(two_ranks_matching.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    for kind in ('whole', 'masked'):
        student, teacher, mask = two_ranks_matching.batch(kind)
        value = feature_matching(student, teacher, 'batch', mask=mask)
        value.backward()
        values, gradients = ([one[kind][key] for one in found] for key in ('value', 'gradient'))
        assert sum(values) / 2 == pytest.approx(value.item(), rel=1e-12)
        together = torch.cat([torch.tensor(g, dtype=torch.float64) for g in gradients]) / 2
        torch.testing.assert_close(together, student.grad, rtol=1e-10, atol=1e-14)
        alone = feature_matching(student[:2], teacher[:2], 'batch', mask=mask[:2])
        assert values[0] != pytest.approx(alone.item(), rel=1e-3)
    student, teacher, mask = two_ranks_matching.batch('masked')
    layer = two_ranks_matching.layer()
    feature_matching(layer(student.detach()), teacher, 'batch', mask=mask).backward()
    for one in found:
        for got, parameter in zip(one['layer'], layer.parameters(), strict=True):
            torch.testing.assert_close(
                torch.tensor(got, dtype=torch.float64), parameter.grad, rtol=1e-10, atol=1e-14
            )
