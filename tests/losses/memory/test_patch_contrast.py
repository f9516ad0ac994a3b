"""PatchContrastLoss: the authors' sums, hand values, borders, the generator, what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.memory_contrast import patch_contrast as slow
from torch import Tensor

from mmkd.losses import PatchContrastLoss, feature_matching, patch_contrast
from mmkd.losses.memory import patch_contrast as patch_contrast_file

GENERATOR = torch.Generator().manual_seed(5)
STUDENT, TEACHER = (
    scale * torch.randn(2, 6, 7, 9, dtype=torch.float64, generator=GENERATOR) for scale in (1, 2)
)
WEIGHT = torch.rand(2, 7, 9, dtype=torch.float64, generator=GENERATOR) * (
    torch.arange(126).view(2, 7, 9) % 4 > 0
)
MASK = torch.arange(126).view(2, 7, 9) % 3 != 1
MASK[0, :4, :4] = False  # a whole patch


@pytest.mark.parametrize('own', [{}, dict(mask=MASK), dict(weight=WEIGHT)], ids=str)
@pytest.mark.parametrize(('groups', 'patch', 'pool'), [(2, 2, 2), (3, 4, 1), (6, 1, 3), (2, 9, 4)])
def test_it_is_the_equation(groups: int, patch: int, pool: int, own: dict) -> None:
    """Windows and patches at the border included, and places of which nothing counts."""
    options = groups, patch, pool, 1.5
    value = patch_contrast(STUDENT, TEACHER, *options, **own)
    assert value.item() == pytest.approx(slow(STUDENT, TEACHER, *options, **own), rel=1e-9)


def test_it_is_the_sum_of_the_authors_over_their_groups() -> None:
    """A cross-entropy of all pairs of (place, group) of a patch, those of the own group left out,
    over places and images.
    """
    student, teacher = (x.repeat(1, 1, 2, 2)[..., :8, :16] for x in (STUDENT, TEACHER))
    groups, tau, total = 3, 0.9, 0.0
    s, t = (F.max_pool2d(x, 2) for x in (student, teacher))
    for k in range(2):
        for y, x in ((y, x) for y in range(0, 4, 4) for x in range(0, 8, 4)):
            a, b = (
                one[k, :, y : y + 4, x : x + 4]
                .reshape(groups, 2, 16)
                .permute(2, 0, 1)
                .flatten(0, 1)
                for one in (s, t)
            )
            logits = -(a.unsqueeze(1) - b.unsqueeze(0)).abs().sum(2) / tau
            group = torch.arange(48) % groups
            same = (group.unsqueeze(1) == group) & ~torch.eye(48, dtype=torch.bool)
            logits = logits.masked_fill(same, -torch.inf)
            total += F.cross_entropy(logits, torch.arange(48), reduction='sum').item()
    official = total / (4 * 8) / 2
    value = patch_contrast(student, teacher, groups, 4, 2, tau)
    assert groups * value.item() == pytest.approx(official, rel=1e-12)


@pytest.mark.parametrize('entries', [1, 500, 1500, 2**24])
def test_some_patches_at_a_time_change_no_digit(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call has more pairs of rows than it may hold the differences of, or one patch."""
    found = []
    for limit in (2**40, entries):
        held: list[int] = []
        own = torch.cdist

        def watched(x: Tensor, y: Tensor, p: int, held: list = held, own: Any = own) -> Tensor:
            held.append(len(x) * x.shape[1] * y.shape[1] * x.shape[2])
            return own(x, y, p=p)

        with monkeypatch.context() as patched:
            patched.setattr(patch_contrast_file, '_ENTRIES', limit)
            patched.setattr(torch, 'cdist', watched)
            student = STUDENT.clone().requires_grad_()
            value = patch_contrast(student, TEACHER, 3, 2, 2, 1.5, MASK, WEIGHT)
            found.append((value, torch.autograd.grad(value, student)[0], held))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    one = 12 * 12 * 2  # the differences of a patch
    assert found[0][2] == [2 * 2 * 3 * one]
    assert max(found[1][2]) <= max(entries, one)
    assert sum(found[1][2]) == sum(found[0][2])


def test_of_one_place_it_is_a_choice_of_groups() -> None:
    """Groups at distance d of each other: ln(1 + (M − 1) e^(−d/τ))."""
    for groups, d, tau in ((2, 1.0, 1.0), (4, 3.0, 2.0)):
        x = (d / 2) * torch.eye(groups, dtype=torch.float64)  # 1-norm of two rows apart: d
        x = x.reshape(1, -1, 1, 1)
        value = patch_contrast(x, x, groups, 4, 4, tau)
        expected = math.log(1 + (groups - 1) * math.exp(-d / tau))
        assert value.item() == pytest.approx(expected, rel=1e-12)


def test_places_of_other_patches_do_not_matter() -> None:
    value = patch_contrast(STUDENT[..., :4, :4], TEACHER[..., :4, :4], 2, 4, 1, 1.0)
    halves = torch.cat([TEACHER[..., :4, :4], 100 + TEACHER[..., :4, 4:8]], 3)
    first = torch.arange(8).expand(2, 4, 8) < 4
    joined = patch_contrast(STUDENT[..., :4, :8], halves, 2, 4, 1, 1.0, mask=first)
    torch.testing.assert_close(joined, value, rtol=1e-12, atol=0)


def test_the_same_group_elsewhere_is_no_negative() -> None:
    """Places in a row whose first groups are all alike, far from the second: no cost at all."""
    x = torch.tensor([0.0, 100.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    assert patch_contrast(x, x, 2, 4, 1, 1.0) < 1e-30


def test_the_generator_sees_what_is_not_masked_and_both_terms_see_what_it_makes() -> None:
    loss = PatchContrastLoss(
        2, 2, 2, 1.5, contrast=0.3, mimic=0.7, mask_ratio=0.5, teacher_channels=6, loss_weight=2.0
    ).double()
    torch.manual_seed(3)
    value = loss(STUDENT, TEACHER, MASK, WEIGHT)
    torch.manual_seed(3)
    seen = torch.rand(2, 1, 7, 9) >= 0.5
    filled = STUDENT * (MASK & (WEIGHT > 0)).unsqueeze(1)
    made = loss.generator(filled * seen)
    expected = 0.6 * slow(made, TEACHER, 2, 2, 2, 1.5, MASK, WEIGHT)
    expected += 1.4 * feature_matching(made, TEACHER, mask=MASK, weight=WEIGHT).item()
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_the_share_of_places_that_are_not_seen() -> None:
    for ratio in (0.0, 0.25, 0.75):
        loss = PatchContrastLoss(2, 2, 2, mask_ratio=ratio, teacher_channels=2)
        loss.generator = torch.nn.Conv2d(2, 2, 1, bias=False)
        seen: list[Tensor] = []
        loss.generator.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        torch.manual_seed(0)
        loss(torch.ones(4, 2, 64, 64), torch.ones(4, 2, 64, 64))
        assert (seen[0][:, 0] == seen[0][:, 1]).all()
        assert seen[0].mean().item() == pytest.approx(1 - ratio, abs=0.02)


def test_terms_of_weight_0_are_left_out_and_without_a_ratio_there_is_no_generator() -> None:
    plain = PatchContrastLoss(2, 2, 2, 1.5, contrast=0.0, mimic=1.0, mask_ratio=None)
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(STUDENT, TEACHER), feature_matching(STUDENT, TEACHER))
    assert plain.build(STUDENT, TEACHER) == ''
    loss = PatchContrastLoss(2)
    assert loss.build(STUDENT, TEACHER) == 'generator of 6 channels'
    assert loss.build(STUDENT, TEACHER) == ''
    assert [tuple(p.shape) for p in loss.parameters()] == [(6, 6, 3, 3), (6,)] * 2
    loss.contrast = loss.mimic = 0.0  # by a schedule: DDP waits for gradients all the same
    loss(STUDENT, TEACHER).backward()
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())


def test_training_by_it_brings_a_student_near() -> None:
    torch.manual_seed(0)
    student, teacher = torch.nn.Conv2d(3, 6, 1), torch.randn(2, 6, 8, 8)
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        teacher = torch.nn.Conv2d(3, 6, 1)(image)
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    before = feature_matching(student(image), teacher)
    for _ in range(150):
        optimizer.zero_grad()
        patch_contrast(student(image), teacher, 3, 4, 1, 0.5).backward()
        optimizer.step()
    assert feature_matching(student(image), teacher) < before / 20


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(groups=1), 'groups must be a whole number of at least 2'),
        (dict(patch=0), 'patch must be'),
        (dict(pool=0), 'pool must be'),
        (dict(tau=0), 'tau must be a finite number above 0'),
        (dict(contrast=-1), 'contrast must be a finite number, 0 or above'),
        (dict(mimic=float('nan')), 'mimic must be a finite number'),
        (dict(contrast=0, mimic=0), 'leave nothing to learn. Mend'),
        (dict(mask_ratio=1.0), 'mask_ratio must be a number from 0 to below 1'),
        (dict(teacher_channels=0), 'teacher_channels must be'),
    ],
    ids=str,
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchContrastLoss(**options)


@pytest.mark.bad_input
def test_bad_tensors() -> None:
    loss = PatchContrastLoss(2, teacher_channels=6)
    with pytest.raises(RuntimeError, match='the generator is not built.*Mend'):
        PatchContrastLoss(2)(STUDENT, TEACHER)
    with pytest.raises(ValueError, match=r'generator is of 6 channels.*mend'):
        loss(STUDENT[:, :4], TEACHER[:, :4])
    with pytest.raises(ValueError, match='no multiple of groups=4; mend: groups=3'):
        PatchContrastLoss(4, mask_ratio=None)(STUDENT, TEACHER)
    with pytest.raises(ValueError, match=r'needs maps \(N, C, H, W\)'):
        loss(STUDENT[..., 0], TEACHER[..., 0])
    with pytest.raises(ValueError, match=r'contrast inside patches needs maps.*of one shape'):
        loss(STUDENT, TEACHER[..., :8])
    with pytest.raises(TypeError, match='mask must be a bool'):
        loss(STUDENT, TEACHER, WEIGHT)
    with pytest.raises(TypeError, match='weight must be a float'):
        loss(STUDENT, TEACHER, None, MASK)
