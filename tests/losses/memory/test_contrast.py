"""memory_contrast by value: loops, limits, invariances, partial memories, chunks, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from references.memory_contrast import mean_of_random
from references.memory_contrast import memory_contrast as slow

from mmkd.losses import memory_contrast
from mmkd.losses.memory import contrast
from mmkd.losses.memory.contrast import log_mean_of_random

GENERATOR = torch.Generator().manual_seed(3)
STUDENT, TEACHER = (
    scale * torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=GENERATOR) for scale in (1, 2)
)
KEYS = torch.randn(7, 5, dtype=torch.float64, generator=GENERATOR)
KNOWN = torch.arange(7) % 3 != 1
WEIGHT = torch.rand(2, 3, 4, dtype=torch.float64, generator=GENERATOR) * (
    torch.arange(24).view(2, 3, 4) % 4 > 0
)
MASK = torch.arange(24).view(2, 3, 4) % 3 != 1
COMPARISONS = ('kl', 'info-nce', 'nce')


@pytest.mark.parametrize('compare', COMPARISONS)
@pytest.mark.parametrize('known', [None, KNOWN], ids=['all', 'some'])
@pytest.mark.parametrize('own', [{}, dict(mask=MASK), dict(weight=WEIGHT)], ids=str)
def test_it_is_the_equation(compare: str, known: torch.Tensor | None, own: dict) -> None:
    options = dict(known=known, tau=0.3, compare=compare, **own)
    value = memory_contrast(STUDENT, TEACHER, KEYS, **options)
    assert value.item() == pytest.approx(slow(STUDENT, TEACHER, KEYS, **options), rel=1e-12)


@pytest.mark.parametrize('compare', COMPARISONS)
def test_keys_that_are_not_there_are_as_if_taken_out(compare: str) -> None:
    """Whatever they hold; and the gradient is that of autograd, where this one is written out."""
    own = [x.clone().requires_grad_() for x in (STUDENT, STUDENT, STUDENT)]
    spoilt = KEYS.where(KNOWN.unsqueeze(1), 1e6)
    first = memory_contrast(own[0], TEACHER, spoilt, KNOWN, 0.3, compare)
    second = memory_contrast(own[1], TEACHER, KEYS[KNOWN], None, 0.3, compare)
    third = written_out(own[2], TEACHER, KEYS[KNOWN], 0.3, compare)
    gradients = [
        torch.autograd.grad(v, x)[0] for v, x in zip((first, second, third), own, strict=True)
    ]
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)
    torch.testing.assert_close(first, third, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-10, atol=1e-14)


def written_out(
    student: torch.Tensor, teacher: torch.Tensor, keys: torch.Tensor, tau: float, compare: str
) -> torch.Tensor:
    """Return the same by torch's own losses."""
    s, t = (F.normalize(x.movedim(1, -1).flatten(0, 2)) for x in (student, teacher))
    m = F.normalize(keys)
    ours, theirs, own = s @ m.T / tau, t @ m.T / tau, (s * t).sum(1, keepdim=True) / tau
    if compare == 'kl':
        log_s, log_t = ours.log_softmax(1), theirs.log_softmax(1)
        return F.kl_div(log_s, log_t, reduction='batchmean', log_target=True)
    if compare == 'info-nce':
        return F.cross_entropy(torch.cat([own, ours], 1), torch.zeros(len(s), dtype=torch.long))
    b = math.log(len(m) * mean_of_random(s.shape[1], tau))
    scores = torch.cat([own, ours], 1) - b
    target = torch.zeros_like(scores)
    target[:, 0] = 1
    return F.binary_cross_entropy_with_logits(scores, target, reduction='sum') / len(s)


@pytest.mark.parametrize('compare', COMPARISONS)
def test_of_no_key_it_is_nothing(compare: str) -> None:
    student = STUDENT.clone().requires_grad_()
    nothing = torch.zeros(7, dtype=torch.bool)
    value = memory_contrast(student, TEACHER, KEYS, nothing, 0.1, compare)
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


def test_keys_that_are_all_alike_tell_nothing() -> None:
    student = STUDENT.clone().requires_grad_()
    value = memory_contrast(student, TEACHER, KEYS[:1].repeat(9, 1))
    assert abs(value.item()) < 1e-15
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-14
    # and one key is no choice
    assert memory_contrast(STUDENT, TEACHER, KEYS[:1]).item() == 0


@pytest.mark.parametrize('compare', COMPARISONS)
def test_lengths_and_rotations_change_nothing(compare: str) -> None:
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=GENERATOR))
    value = memory_contrast(STUDENT, TEACHER, KEYS, tau=0.3, compare=compare)
    turned = [torch.einsum('dc,nchw->ndhw', rotation, x) for x in (STUDENT, TEACHER)]
    lengths = WEIGHT.unsqueeze(1) + 0.5
    for student, teacher, keys in (
        (lengths * STUDENT, TEACHER / lengths, 7 * KEYS),
        (*turned, KEYS @ rotation.T),
        (STUDENT, TEACHER, KEYS.flip(0)),
    ):
        other = memory_contrast(student, teacher, keys, tau=0.3, compare=compare)
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)


@pytest.mark.parametrize('compare', COMPARISONS)
def test_chunks_change_nothing(compare: str) -> None:
    student = STUDENT.clone().requires_grad_()
    found = []
    for chunk in (None, 1, 5, 24):
        value = memory_contrast(student, TEACHER, KEYS, KNOWN, 0.3, compare, MASK, chunk=chunk)
        found.append((value, torch.autograd.grad(value, student)[0]))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-12, atol=1e-16)


def test_repeated_keys_are_one_for_kl() -> None:
    """Each has half the mass, on both sides."""
    once = memory_contrast(STUDENT, TEACHER, KEYS, tau=0.3)
    twice = memory_contrast(STUDENT, TEACHER, KEYS.repeat(2, 1), tau=0.3)
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=0)


def test_the_constant_of_crd_is_that_of_a_random_memory() -> None:
    """Its code draws the memory uniformly of variance 1/C, and takes Z from the first batch."""
    generator = torch.Generator().manual_seed(0)
    bound = 1 / math.sqrt(128 / 3)
    memory = bound * (2 * torch.rand(4096, 128, dtype=torch.float64, generator=generator) - 1)
    vectors = F.normalize(torch.randn(512, 128, dtype=torch.float64, generator=generator))
    mean = (vectors @ memory.T / 0.07).exp().mean().item()
    assert mean == pytest.approx(math.exp(1 / (2 * 128 * 0.07**2)), rel=0.01)


@pytest.mark.parametrize('channels', [1, 2, 3, 5, 16, 128, 2048])
@pytest.mark.parametrize('tau', [0.01, 0.07, 0.5, 10.0])
def test_the_mean_over_random_vectors_is_that_of_a_quadrature(channels: int, tau: float) -> None:
    expected = math.log(mean_of_random(channels, tau))
    assert log_mean_of_random(channels, tau) == pytest.approx(expected, rel=1e-10, abs=1e-11)


@pytest.mark.parametrize(('channels', 'tau'), [(3, 0.3), (8, 0.2), (64, 0.07)])
def test_the_mean_over_random_vectors_is_that_of_random_vectors(channels: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400_000, channels, dtype=torch.float64, generator=generator)
    mean = (F.normalize(rows)[:, 0] / tau).exp().mean().log().item()
    assert log_mean_of_random(channels, tau) == pytest.approx(mean, abs=0.02)


def test_the_mean_over_random_vectors_in_closed_form_and_in_limits() -> None:
    """In three dimensions sinh κ / κ, whose exponential no float holds; of many a Gaussian's."""
    for kappa in (0.01, 1.0, 30.0):
        expected = math.log(math.sinh(kappa) / kappa)
        assert log_mean_of_random(3, 1 / kappa) == pytest.approx(expected, rel=1e-9)
    for kappa in (1e4, 1e8):
        expected = kappa - math.log(2 * kappa)
        assert log_mean_of_random(3, 1 / kappa) == pytest.approx(expected, rel=1e-9)
    assert log_mean_of_random(10**6, 0.07) == pytest.approx(1 / (2e6 * 0.07**2), rel=1e-3)
    assert log_mean_of_random(128, 1e200) == 0.0


def test_of_few_channels_the_constant_of_nce_is_no_gaussian() -> None:
    own, gaussian = log_mean_of_random(4, 0.07), 1 / (8 * 0.07**2)
    assert own == pytest.approx(10.04, abs=0.01)
    assert gaussian == pytest.approx(25.51, abs=0.01)


@pytest.mark.parametrize('compare', COMPARISONS)
@pytest.mark.parametrize('chunk', [None, 5])
def test_keys_of_a_places_own_label_are_left_out(compare: str, chunk: int | None) -> None:
    """Place by place the equation of what is left, and its gradient that of autograd."""
    labels = torch.arange(24).view(2, 3, 4) % 4 - 1  # −1: none
    tags = torch.tensor([0, 1, 2, -1, 0, 1, 5])
    student = STUDENT.clone().requires_grad_()
    options = dict(known=KNOWN, tau=0.3, compare=compare, chunk=chunk)
    value = memory_contrast(student, TEACHER, KEYS, labels=labels, key_labels=tags, **options)
    slope = torch.autograd.grad(value, student)[0]
    parts, total = torch.zeros_like(slope), 0.0
    for label in range(-1, 3):
        mask, left = labels == label, KNOWN & ((tags != label) | (tags < 0))
        total += slow(STUDENT, TEACHER, KEYS, left, 0.3, compare, mask) * int(mask.sum()) / 24
        own = STUDENT.clone().requires_grad_()
        one = memory_contrast(own, TEACHER, KEYS[left], None, 0.3, compare, mask)
        parts += torch.autograd.grad(one, own)[0] * mask.sum() / 24
    assert value.item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(slope, parts, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('compare', COMPARISONS)
def test_a_place_whose_keys_are_all_left_out_is_nothing(compare: str) -> None:
    student = STUDENT.clone().requires_grad_()
    labels, tags = torch.full((2, 3, 4), 2), torch.full((7,), 2)
    value = memory_contrast(
        student, TEACHER, KEYS, None, 0.1, compare, labels=labels, key_labels=tags
    )
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize('compare', COMPARISONS)
def test_where_nothing_learns_no_gradient_is_formed(
    compare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed = []
    own = contrast.COMPARISONS[compare]

    def watched(*args: object) -> tuple:
        formed.append(own(*args))
        return formed[-1]

    monkeypatch.setitem(contrast.COMPARISONS, compare, watched)
    learning = STUDENT.clone().requires_grad_()
    with torch.no_grad():
        quiet = memory_contrast(learning, TEACHER, KEYS, compare=compare)
    frozen = memory_contrast(STUDENT, TEACHER, KEYS, compare=compare)
    value = memory_contrast(learning, TEACHER, KEYS, compare=compare)
    assert quiet == frozen == value
    assert [slope is None for _, slope in formed] == [True, True, False]


def test_a_place_that_is_told_apart_costs_nothing() -> None:
    """Its own vector is at cosine 1, all keys at −1."""
    x = TEACHER[:, :, :1, :1]
    keys = -x[0].flatten(1).T
    assert memory_contrast(x[:1], x[:1], keys, tau=0.05, compare='info-nce') < 1e-12
    opposite = memory_contrast(-x[:1], x[:1], keys, tau=0.05, compare='info-nce')
    assert opposite.item() == pytest.approx(2 / 0.05, rel=1e-9)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(keys=KEYS[:, :4]), ValueError, r'keys \(7, 4\) must be \(K, C\).*mend'),
        (dict(keys=KEYS[0]), ValueError, r'keys \(5,\) must be'),
        (dict(keys=KEYS[:0]), ValueError, r'keys \(0, 5\) must be'),
        (dict(teacher=TEACHER[:1]), ValueError, 'contrast with a memory needs maps.*mend'),
        (dict(tau=0.0), ValueError, 'tau must be a finite number above 0'),
        (dict(compare='ce'), ValueError, "compare must be one of .*got 'ce'"),
        (dict(chunk=0), ValueError, 'chunk must be a whole number of at least 1'),
        (dict(mask=MASK.float()), TypeError, 'mask must be a bool tensor'),
        (dict(weight=MASK), TypeError, 'weight must be a float tensor'),
        (dict(mask=MASK[:1]), ValueError, 'mask must have the shape'),
        (dict(labels=MASK.long()), ValueError, 'labels and key_labels leave out keys together'),
        (dict(labels=MASK, key_labels=torch.arange(7)), TypeError, 'labels of an integer dtype'),
        (
            dict(labels=MASK.long()[:1], key_labels=torch.arange(7)),
            ValueError,
            r'needs labels \(2, 3, 4\)',
        ),
        (
            dict(labels=MASK.long(), key_labels=torch.arange(6)),
            ValueError,
            r'key_labels must be \(7,\), one for each key, got \(6,\); mend',
        ),
    ],
    ids=str,
)
def test_bad_input(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        memory_contrast(**(dict(student=STUDENT, teacher=TEACHER, keys=KEYS) | changes))
