"""ChannelGramLoss by value."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.relations import channel_gram as reference
from torch import Tensor

from mmkd.losses import ChannelGramLoss, channel_gram
from mmkd.utils.timing import peak_memory

KINDS = ['nst', 'ickd', 'dsd']


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(2, 4, 4, 6), 2 * draw(2, 4, 4, 6, seed=1)


def nst(s: Tensor, t: Tensor) -> Tensor:
    """Return the formula of RepDistiller's code, which holds C² P numbers."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2).mean()

    s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def ickd(s: Tensor, t: Tensor) -> Tensor:
    ours, theirs = (F.normalize(x.flatten(2) @ x.flatten(2).mT, dim=2) for x in (s, t))
    return (ours - theirs).square().sum() / (len(s) * s.shape[1])


def dsd(s: Tensor, t: Tensor) -> Tensor:
    """Return P² times the value of CIRKD's code."""
    pooled = [F.avg_pool2d(x, 2, ceil_mode=True).flatten(2) for x in (s, t)]
    ours, theirs = ((x / 4).softmax(2) for x in pooled)
    return pooled[0].shape[2] ** 2 * F.mse_loss(ours @ ours.mT, theirs @ theirs.mT)


OFFICIAL = dict(nst=nst, ickd=ickd, dsd=dsd)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(4, 6), (1, 2), (8, 8)])
def test_it_is_the_formula_of_the_authors(kind: str, size: tuple[int, int]) -> None:
    """Value and gradient; of few places by places, of many by channels."""
    student, teacher = draw(2, 5, *size).requires_grad_(), draw(2, 5, *size, seed=1)
    found, expected = channel_gram(student, teacher, kind), OFFICIAL[kind](student, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize('channels', [2, 4, 9])
def test_nst_takes_any_channels_by_places_and_by_channels(channels: int) -> None:
    for size in ((1, 2), (4, 6), (16, 16)):
        student, teacher = draw(2, 4, *size), draw(2, channels, *size, seed=1)
        torch.testing.assert_close(channel_gram(student, teacher), nst(student, teacher))


def test_nst_compares_sets() -> None:
    """Channels in another order, repeated or stretched, are the same set."""
    assert channel_gram(STUDENT, STUDENT[:, [2, 0, 3, 1]]).abs() < 1e-15
    assert channel_gram(STUDENT, STUDENT.repeat(1, 3, 1, 1)).abs() < 1e-15
    factor = draw(1, 4, 1, 1, seed=4)
    assert channel_gram(STUDENT, factor * STUDENT).abs() < 1e-15, 'of either sign'
    assert channel_gram(STUDENT, STUDENT[:, :2]) > 1e-2


@pytest.mark.parametrize('kind', KINDS)
def test_the_order_of_places_does_not_matter(kind: str) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    moved = [x.flatten(2)[..., order].view_as(x) for x in (STUDENT, TEACHER)]
    found, expected = (channel_gram(*pair, kind, pool=1) for pair in (moved, (STUDENT, TEACHER)))
    torch.testing.assert_close(found, expected)
    other = channel_gram(moved[0], TEACHER, kind, pool=1)
    if kind == 'nst':
        assert other != pytest.approx(expected.item(), rel=1e-3)
    else:  # each side's channels are related among themselves
        torch.testing.assert_close(other, expected)


@pytest.mark.parametrize('kind', KINDS)
def test_masks_equal_the_slow_loop_and_weights_repeat_places(kind: str) -> None:
    mask = torch.arange(48).view(2, 4, 6) % 3 != 1
    weight = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(3)).double()
    empty = mask.clone()
    empty[1] = False
    for own in (None, mask, empty):
        for pool in (1, 2):
            options: dict[str, Any] = dict(tau=0.7, pool=pool, mask=own)
            expected = reference(STUDENT, TEACHER, kind, **options)
            found = channel_gram(STUDENT, TEACHER, kind, **options)
            assert found.item() == pytest.approx(expected, rel=1e-9)
            ones = torch.ones_like(weight)
            found = channel_gram(STUDENT, TEACHER, kind, weight=ones, **options)
            assert found.item() == pytest.approx(expected, rel=1e-9)
        options = dict(tau=0.7, pool=1, mask=own)
        whole = weight if own is None else weight * own
        expected = reference(STUDENT, TEACHER, kind, **options | dict(mask=whole > 0), weight=whole)
        for scale in (1.0, 5.0):
            found = channel_gram(STUDENT, TEACHER, kind, weight=scale * weight, **options)
            assert found.item() == pytest.approx(expected, rel=1e-9)
    assert channel_gram(STUDENT, TEACHER, kind, weight=0 * weight) == 0


@pytest.mark.parametrize('kind', KINDS)
def test_float32_is_near_to_float64(kind: str) -> None:
    """Where student and teacher are nearly alike too, so that terms of NST cancel."""
    student = draw(2, 16, 40, 40)
    for scale, rel in ((1.0, 1e-4), (1e-2, 1e-2)):
        teacher = student + scale * draw(2, 16, 40, 40, seed=1)
        exact = channel_gram(student, teacher, kind).item()
        found = channel_gram(student.float(), teacher.float(), kind)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact, rel=rel)


@pytest.mark.parametrize('kind', KINDS)
def test_memory_is_linear_in_the_places(kind: str) -> None:
    """Places × places of 64×128 would be 268 MB, channels × channels × places 537 MB."""

    def peak(height: int) -> float:
        student = torch.randn(1, 128, height, 128).requires_grad_()
        teacher = torch.randn(1, 128, height, 128)
        peak = peak_memory(lambda: channel_gram(student, teacher, kind).backward())
        return peak / (student.numel() * 4)

    assert peak(64) < 10, 'maps of the size of the student'
    assert peak(64) < 1.2 * peak(32)


@pytest.mark.parametrize('masked', [False, True])
def test_places_of_the_two_sides_may_differ(masked: bool) -> None:
    """NST averages the larger map to the smaller one, axis by axis; ICKD takes both as they are."""
    student, teacher = draw(2, 3, 6, 4).requires_grad_(), draw(2, 3, 2, 8, seed=1)
    mask = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(2)) > 0.3
    weigh = mask[:, None].double() if masked else torch.ones(2, 1, 6, 4, dtype=torch.float64)
    own = F.adaptive_avg_pool2d(weigh, (2, 8))

    def averaged(x: Tensor, w: Tensor) -> Tensor:
        total = F.adaptive_avg_pool2d(w, (2, 4)).clamp(min=1e-9)
        return F.adaptive_avg_pool2d(x * w, (2, 4)) / total

    less = F.adaptive_avg_pool2d(weigh, (2, 4)).sqrt()
    expected = dict(
        nst=nst(averaged(student, weigh) * less, averaged(teacher, own) * less),
        ickd=ickd(student * weigh.sqrt(), teacher * own.sqrt()),
    )
    for kind, value in expected.items():
        found = channel_gram(student, teacher, kind, mask=mask if masked else None)
        torch.testing.assert_close(found, value, rtol=1e-10, atol=0)
        (slope,) = torch.autograd.grad(found, student)
        assert bool((slope.ne(0).any(1) == (mask if masked else True)).all())


def test_dsd_needs_the_same_places() -> None:
    with pytest.raises(ValueError, match='DSD needs maps .* and places'):
        channel_gram(STUDENT, TEACHER[..., :5], 'dsd')


def test_what_is_refused() -> None:
    maps = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    refused: list[tuple[str, dict[str, Any]]] = [
        ('kind must be one of', dict(kind='fsp')),
        ('tau must be a finite number above 0', dict(tau=-1.0)),
        ('pool must be a whole number of at least 1', dict(pool=0)),
    ]
    for message, options in refused:
        with pytest.raises(ValueError, match=message):
            channel_gram(*maps, **options)
        with pytest.raises(ValueError, match=message):
            ChannelGramLoss(**options)
    for kind in ('ickd', 'dsd'):
        with pytest.raises(ValueError, match=f'{kind.upper()} compares channel with .*mend: conn'):
            channel_gram(maps[0], torch.ones(2, 4, 4, 4), kind)
    for kind in KINDS:
        with pytest.raises(ValueError, match=f'{kind.upper()} needs maps .* with places.*mend'):
            channel_gram(maps[0], torch.ones(3, 3, 4, 4), kind)
        with pytest.raises(ValueError, match='needs maps'):
            channel_gram(torch.ones(2, 3), torch.ones(2, 3), kind)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        channel_gram(*maps, mask=torch.ones(2, 4, 4))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        channel_gram(*maps, weight=torch.ones(2, 4, 4).bool())
