"""LocalizationKLLoss by value."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import LocalizationKLLoss, localization_kl

BINS, CLASSES, SIZES = 5, 3, ((4, 6), (2, 3))


def levels(channels: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, channels, *size, dtype=torch.float64, generator=generator) for size in SIZES
    ]


def draw() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return levels(4 * BINS, 1), levels(4 * BINS, 2), levels(CLASSES, 3)


def official(
    student: list[Tensor], teacher: list[Tensor], scores: list[Tensor], least: float = 0.0
) -> float:
    """Return LDHead's term of all levels, whose positions are those of the scores.

    Mean over bins times T², weighted, ÷ 4 edges, ÷ the sum of all levels' weights; times the bins.
    """
    total = weights = 0.0
    for s, t, c in zip(student, teacher, scores, strict=True):
        s, t, c = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (s, t, c))
        weight = c.sigmoid().max(1)[0]
        weight = weight * (weight >= least)
        pred, soft = (x.reshape(-1, BINS) for x in (s, t))
        each = F.kl_div((pred / 10).log_softmax(1), (soft / 10).softmax(1), reduction='none').mean(
            1
        )
        total += (100 * each * weight[:, None].expand(-1, 4).reshape(-1)).sum().item() / 4
        weights += weight.sum().item()
    return BINS * total / weights


@pytest.mark.parametrize('least', [0.0, 0.6])
def test_it_is_the_authors_over_all_levels(least: float) -> None:
    student, teacher, scores = draw()
    value = LocalizationKLLoss(least=least)(student, teacher, scores)
    assert value.item() == pytest.approx(official(student, teacher, scores, least), rel=1e-12)
    assert value > 1e-3


def test_mmdets_own_loss_agrees() -> None:
    mmdet = pytest.importorskip('mmdet.models.losses', exc_type=ImportError)
    student, teacher, scores = draw()
    s, t = (x[0].permute(0, 2, 3, 1).reshape(-1, BINS) for x in (student, teacher))
    weight = scores[0].sigmoid().amax(1).flatten()
    theirs = mmdet.KnowledgeDistillationKLDivLoss(loss_weight=0.25, T=10)(
        s, t, weight=weight.repeat_interleave(4), avg_factor=4.0
    )
    ours = LocalizationKLLoss(loss_weight=0.25 / BINS)(student[0], teacher[0], scores[0])
    torch.testing.assert_close(ours, theirs / weight.sum())


def test_a_level_without_an_object_does_not_count() -> None:
    student, teacher, scores = draw()
    scores[1] = torch.full_like(scores[1], -1e4)
    module = LocalizationKLLoss()
    torch.testing.assert_close(
        module(student, teacher, scores), module(student[0], teacher[0], scores[0])
    )
    nothing = [torch.full_like(x, -1e4) for x in scores]
    student = [x.requires_grad_() for x in student]
    value = LocalizationKLLoss(least=0.05)(student, teacher, nothing)
    assert value == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, student))


def test_mask_and_weight_of_levels_act_beside_the_scores() -> None:
    student, teacher, scores = draw()
    mask = [torch.arange(x[:, 0].numel()).view_as(x[:, 0]) % 3 != 1 for x in student]
    weight = [1.0 + m.double() for m in mask]
    module = LocalizationKLLoss()
    heard = [x.where(m[:, None], -1e9) for x, m in zip(scores, mask, strict=True)]
    torch.testing.assert_close(
        module(student, teacher, scores, mask), module(student, teacher, heard)
    )
    torch.testing.assert_close(
        module(student, teacher, scores, mask, weight), module(student, teacher, heard)
    )
    joined = [torch.cat([x.flatten(2) for x in maps], 2) for maps in (student, teacher)]
    own = torch.cat([w.flatten(1) for w in weight], 1)
    torch.testing.assert_close(
        module(student, teacher, weight=weight), localization_kl(*joined, weight=own)
    )


def test_the_scores_get_no_gradient_and_edges_are_apart() -> None:
    student, teacher, scores = draw()
    for x in (*student, *scores):
        x.requires_grad_()
    LocalizationKLLoss()(student, teacher, scores).backward()
    assert all(x.grad is None for x in scores)
    assert all(x.grad.abs().sum() > 0 for x in student)
    shifted = student[0].detach().unflatten(1, (4, BINS)) + torch.arange(4.0).view(1, 4, 1, 1, 1)
    torch.testing.assert_close(
        localization_kl(shifted.flatten(1, 2), teacher[0]),
        localization_kl(student[0].detach(), teacher[0]),
    )


def test_bad_input() -> None:
    student, teacher, scores = draw()
    with pytest.raises(ValueError, match='needs 4 distributions over two bins or more .* mend'):
        localization_kl(student[0][:, :4], teacher[0][:, :4])
    with pytest.raises(ValueError, match='needs 3 distributions over two bins or more .* mend'):
        localization_kl(student[0], teacher[0], edges=3)
    with pytest.raises(ValueError, match='of one shape, .* mend: heads of one reg_max'):
        localization_kl(student[0], teacher[0][:, :16])
    with pytest.raises(ValueError, match='maps of the same levels, .* mend'):
        LocalizationKLLoss()(student, teacher[:1], scores)
    with pytest.raises(ValueError, match='maps of the same levels, .* mend'):
        LocalizationKLLoss()(student, teacher, scores[::-1])
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        localization_kl(student[0], teacher[0], mask=torch.ones(2, 4, 6))
    with pytest.raises(ValueError, match='weight must have the shape'):
        localization_kl(student[0], teacher[0], weight=torch.ones(2, 4))
    for options in (dict(edges=0), dict(tau=0.0), dict(least=1.0), dict(least=-0.1)):
        with pytest.raises(ValueError, match=f'{next(iter(options))} .*must be a'):
            LocalizationKLLoss(**options)
