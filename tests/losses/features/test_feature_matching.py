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
    size = draw(3, 1, 1, 1, seed=8).exp()
    for normalise, changed in (
        ('image', size * STUDENT),
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


MIX = dict(cosine=0.9, huber=0.1)


def test_a_mix_is_the_sum_of_its_parts() -> None:
    """Value and gradient, of any normalisation; by torch's own cosine and smooth L1 too."""
    student = STUDENT.clone().requires_grad_()
    for normalise in NORMALISATIONS:
        mixed = feature_matching(student, TEACHER, normalise, MIX)
        parts = sum(
            w * feature_matching(student, TEACHER, normalise, one) for one, w in MIX.items()
        )
        torch.testing.assert_close(mixed, parts)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, student)[0] for value in (mixed, parts))
        )
    cosine = (1 - F.cosine_similarity(STUDENT, TEACHER, 1)).mean()
    expected = 0.9 * cosine + 0.1 * F.smooth_l1_loss(STUDENT, TEACHER)
    torch.testing.assert_close(FeatureMatchingLoss(penalty=MIX)(STUDENT, TEACHER), expected)
    only = feature_matching(STUDENT, TEACHER, penalty=dict(l1=2.0, cosine=0.0))
    torch.testing.assert_close(only, 2 * F.l1_loss(STUDENT, TEACHER))


def test_images_of_unit_size() -> None:
    """The mean over P values of the squared difference of unit vectors, times P; p = 1 by √P."""
    ours, theirs = (F.normalize(x.flatten(1)) for x in (STUDENT, TEACHER))
    number = ours.shape[1]
    squares = number * (ours - theirs).square().mean()
    torch.testing.assert_close(feature_matching(STUDENT, TEACHER, 'image'), squares)
    absolute = number**0.5 * (ours - theirs).abs().mean()
    torch.testing.assert_close(feature_matching(STUDENT, TEACHER, 'image', 'l1'), absolute)


def test_pooled_maps_are_compared_by_their_means() -> None:
    """With a mask those of what it leaves, and images without anything are left out."""
    ours, theirs = (x.mean((2, 3)) for x in (STUDENT, TEACHER))
    value = feature_matching(STUDENT, TEACHER, pooled=True)
    torch.testing.assert_close(value, F.mse_loss(ours, theirs))
    mask = torch.arange(90).view(3, 5, 6) % 4 == 1
    mask[1] = False
    ours, theirs = (
        torch.stack([x[n][:, mask[n]].mean(1) for n in (0, 2)]) for x in (STUDENT, TEACHER)
    )
    value = feature_matching(STUDENT, TEACHER, mask=mask, pooled=True)
    torch.testing.assert_close(value, F.mse_loss(ours, theirs))
    places = torch.randperm(30, generator=torch.Generator().manual_seed(9))
    shuffled = STUDENT.flatten(2)[..., places].view_as(STUDENT)
    torch.testing.assert_close(
        feature_matching(shuffled, TEACHER, pooled=True),
        feature_matching(STUDENT, TEACHER, pooled=True),
    )


@pytest.mark.parametrize(
    ('normalise', 'penalty'),
    [(n, p) for n in (None, 'l2', 'batch', 'image') for p in ('l2', 'huber', 'cosine')],
)
def test_weights_of_pooled_maps_belong_to_the_means(normalise: str | None, penalty: str) -> None:
    options = dict(normalise=normalise, penalty=penalty, pooled=True)
    weight = draw(3, 5, 6, seed=7).relu()
    mask = torch.arange(90).view(3, 5, 6) % 3 != 1
    mask[1] = False
    for kept in (None, mask):
        whole = feature_matching(STUDENT, TEACHER, mask=kept, **options)
        ones = torch.ones(3, 5, 6)
        torch.testing.assert_close(
            feature_matching(STUDENT, TEACHER, mask=kept, weight=ones, **options), whole
        )
        expected = reference.feature_matching(STUDENT, TEACHER, mask=kept, weight=weight, **options)
        got = feature_matching(STUDENT, TEACHER, mask=kept, weight=weight, **options)
        assert got.item() == pytest.approx(expected)
    assert feature_matching(STUDENT, TEACHER, weight=0 * weight, **options) == 0


def test_what_is_refused() -> None:
    vectors = torch.zeros(2, 3), torch.ones(2, 3)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "'sample' takes mean and deviation .* Mend", dict(normalise='sample')),
        (ValueError, "normalise must be one of .*'none'", dict(normalise='none')),
        (ValueError, "penalty must be one of .*'mse'", dict(penalty='mse')),
        (ValueError, "penalty must be one of .*'mse'", dict(penalty=dict(mse=1.0))),
        (ValueError, 'a mix of penalties needs a weight above 0.* Mend', dict(penalty={})),
        (ValueError, 'a mix of penalties needs a weight', dict(penalty=dict(l1=0.0))),
        (ValueError, r"penalty\['l1'\] must be a finite number, 0 or", dict(penalty=dict(l1=-1.0))),
        (ValueError, 'pooled=True leaves none. Mend', dict(normalise='sample', pooled=True)),
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


@pytest.mark.parametrize('normalise', [None, 'l2'])
@pytest.mark.parametrize('penalty', ['l2', 'l1', 'huber', 'cosine'])
def test_what_weighs_nothing_reaches_no_gradient(normalise: str | None, penalty: str) -> None:
    """NaN times 0 is NaN: neither side's value is looked at where the weight is 0."""
    student, teacher = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    teacher[0, :, 1] = torch.nan
    weight = torch.ones(2, 4)
    weight[0, 1] = 0.0
    loss = FeatureMatchingLoss(normalise=normalise, penalty=penalty)
    value = loss(student, teacher, weight=weight)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad[0, :, 1].eq(0).all()
    assert value.equal(loss(student, teacher.nan_to_num(7.0), weight=weight))


def test_tokens_are_places_of_a_map() -> None:
    """(N, L, D) with mask and weight (N, L); channels are brought by a linear layer."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 5, 3, dtype=torch.float64, generator=generator)
    mask, weight = torch.arange(10).view(2, 5) % 3 != 1, torch.rand(2, 5, generator=generator)
    for options in (dict(), dict(penalty='cosine'), dict(normalise='sample')):
        plain, tokens = (FeatureMatchingLoss(**options, tokens=one) for one in (False, True))
        found = tokens(student, teacher, mask, weight)
        assert found == plain(student.mT, teacher.mT, mask, weight)
    assert tokens.roles['student'].tokens
    assert not plain.roles
    with pytest.raises(ValueError, match=r'tokens=True needs tokens \(N, L, D\), got .*; mend'):
        tokens(student[:, 0], teacher[:, 0])
