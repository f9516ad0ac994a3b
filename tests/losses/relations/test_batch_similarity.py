"""BatchSimilarityLoss by value."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from references.relations import BETWEEN_IMAGES
from references.relations import batch_similarity as reference
from torch import Tensor

from mmkd.losses import BatchSimilarityLoss, batch_similarity
from mmkd.losses.relations import batch_similarity as module_of
from mmkd.losses.relations import inner_products

KINDS = [*BETWEEN_IMAGES]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(6, 4), 2 * draw(6, 7, seed=1)


def sp(s: Tensor, t: Tensor) -> Tensor:
    """Return N times the authors' value."""
    ours, theirs = (F.normalize(x @ x.T) for x in (s, t))
    return (ours - theirs).square().sum() / len(s)


def rkd_distance(s: Tensor, t: Tensor) -> Tensor:
    ours, theirs = (torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist') for x in (s, t))
    return F.smooth_l1_loss(ours / ours[ours > 0].mean(), theirs / theirs[theirs > 0].mean())


def rkd_angle(s: Tensor, t: Tensor) -> Tensor:
    edges = (F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2) for x in (s, t))
    ours, theirs = (e @ e.mT for e in edges)
    return F.smooth_l1_loss(ours, theirs)


def pkt(s: Tensor, t: Tensor) -> Tensor:
    """Return N times the authors' value."""
    ours, theirs = ((1 + F.normalize(x) @ F.normalize(x).T) / 2 for x in (s, t))
    ours, theirs = (x / x.sum(1, keepdim=True) for x in (ours, theirs))
    return (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).sum(1).mean()


def cc(s: Tensor, t: Tensor) -> Tensor:
    ours, theirs = (0.8 * F.normalize(x) @ F.normalize(x).T for x in (s, t))
    kernels = (torch.tensor(-0.8).exp() * (1 + x + x**2 / 2) for x in (ours, theirs))
    return F.mse_loss(*kernels)


OFFICIAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'sp': sp,
    'rkd-distance': rkd_distance,
    'rkd-angle': rkd_angle,
    'pkt': pkt,
    'cc': cc,
}


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_the_formula_of_the_authors(kind: str) -> None:
    """Value and gradient, by torch's own functions."""
    student = STUDENT.clone().requires_grad_()
    found, expected = batch_similarity(student, TEACHER, kind), OFFICIAL[kind](student, TEACHER)
    torch.testing.assert_close(found, expected, rtol=3e-6, atol=0)
    slopes = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-7)


def test_hand_values() -> None:
    """Three points of a line, and the corners of an equilateral triangle."""
    line, corners = torch.tensor([[0.0], [1.0], [3.0]]), torch.eye(3)
    # distances 1, 2, 3 over 2 against 1: two pairs each are off by ½, none, and ½
    found = batch_similarity(line, corners, 'rkd-distance')
    assert found.item() == pytest.approx(4 * 0.125 / 9)
    # six angles of 60°; of the line 0° at the ends, 180° in the middle
    found = batch_similarity(line, corners, 'rkd-angle')
    assert found.item() == pytest.approx((4 * 0.125 + 2 * (1.5 - 0.5)) / 27)
    # rows (2, 1) / 3 and (1, 2) / 3 against (1, 1) / 2
    found = batch_similarity(torch.eye(2), torch.ones(2, 1), 'pkt')
    expected = (math.log(0.5 * 3 / 2) + math.log(0.5 * 3)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found = batch_similarity(torch.eye(2), torch.ones(2, 1), 'cc')
    assert found.item() == pytest.approx(math.exp(-1.6) * (0.8 + 0.32) ** 2 / 2)


SAME: dict[str, tuple[float, bool]] = {  # factor, whether a shift changes nothing
    'sp': (3.0, False),
    'rkd-distance': (3.0, True),
    'rkd-angle': (3.0, True),
    'pkt': (3.0, False),
    'cc': (3.0, False),
}


@pytest.mark.parametrize('kind', KINDS)
def test_what_changes_nothing(kind: str) -> None:
    factor, shifted = SAME[kind]
    turn = torch.linalg.qr(draw(4, 4, seed=5))[0]
    move = draw(4, seed=6)
    value = batch_similarity(STUDENT, TEACHER, kind)
    torch.testing.assert_close(batch_similarity(factor * STUDENT @ turn, TEACHER, kind), value)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(batch_similarity(STUDENT[order], TEACHER[order], kind), value)
    other = batch_similarity(STUDENT + move, TEACHER, kind)
    assert (other.item() == pytest.approx(value.item(), rel=1e-9)) is shifted
    far = batch_similarity(STUDENT + 1e3 * move, TEACHER, kind)
    assert (far.item() == pytest.approx(value.item(), rel=1e-6)) is shifted
    each = torch.arange(1.0, 7.0).double()[:, None]  # lengths of their own
    own = batch_similarity(each * STUDENT, TEACHER, kind)
    assert (own.item() == pytest.approx(value.item(), rel=1e-9)) is (kind in ('pkt', 'cc'))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('pooled', [False, True])
def test_masks_and_weights_equal_the_slow_loop(kind: str, pooled: bool) -> None:
    student, teacher = draw(4, 3, 2, 3), draw(4, 2, 2, 3, seed=1)
    mask = torch.arange(24).view(4, 2, 3) % 3 != 1
    mask[2] = False
    weight = torch.randint(0, 3, (4, 2, 3), generator=torch.Generator().manual_seed(3)).double()
    weight[:, 0, 0] = 1
    for own in (None, mask):
        ones = torch.ones_like(weight)
        expected = reference(student, teacher, kind, pooled, own)
        for scale in (None, ones):
            found = batch_similarity(student, teacher, kind, pooled, mask=own, weight=scale)
            assert found.item() == pytest.approx(expected, rel=1e-9)
        expected = reference(student, teacher, kind, pooled, own, weight)
        found = batch_similarity(student, teacher, kind, pooled, mask=own, weight=weight)
        assert found.item() == pytest.approx(expected, rel=1e-9)
    left = [0, 1, 3]
    found = batch_similarity(student, teacher, kind, pooled, mask=mask)
    alone = batch_similarity(student[left], teacher[left], kind, pooled, mask=mask[left])
    torch.testing.assert_close(found, alone)
    if pooled:  # the means over places, as vectors
        means = student.flatten(2).mean(2), teacher.flatten(2).mean(2)
        torch.testing.assert_close(
            batch_similarity(student, teacher, kind, True), batch_similarity(*means, kind)
        )


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_weighed_where_the_weight_is_zero(kind: str) -> None:
    weight = torch.ones(6, dtype=torch.float64)
    weight[4] = 0
    spoilt = STUDENT.clone()
    spoilt[4] = torch.nan
    spoilt.requires_grad_()
    left = [0, 1, 2, 3, 5]
    value = batch_similarity(spoilt, TEACHER, kind, weight=weight)
    torch.testing.assert_close(value, batch_similarity(STUDENT[left], TEACHER[left], kind))
    assert torch.autograd.grad(value, spoilt)[0].isfinite().all()


@pytest.mark.parametrize('kind', KINDS)
def test_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of the numbers of an image, and of the vertices of angles."""
    student, teacher = draw(5, 400).requires_grad_(), draw(5, 300, seed=1)
    expected = batch_similarity(student, teacher, kind)
    monkeypatch.setitem(inner_products._CHUNK, 'cpu', 1)
    monkeypatch.setattr(module_of, '_TRIPLES', 50)
    found = batch_similarity(student, teacher, kind)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes)
    with torch.no_grad():
        torch.testing.assert_close(batch_similarity(student, teacher, kind), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_images_that_are_the_same_have_finite_gradients(kind: str) -> None:
    """Distances of 0 have none, whatever rounding makes of them."""
    student = draw(1, 40).repeat(4, 1) * torch.tensor([1.0, 1.0, 1.0, 2.0]).double()[:, None]
    student.requires_grad_()
    for teacher in (draw(4, 3), torch.zeros(4, 3).double()):
        value = batch_similarity(student, teacher, kind)
        assert value.isfinite()
        assert torch.autograd.grad(value, student)[0].isfinite().all()
    all_same = torch.ones(3, 2, requires_grad=True)
    value = batch_similarity(all_same, all_same.detach() * 2, kind)
    assert value == 0
    assert (torch.autograd.grad(value, all_same)[0] == 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_one_image_is_refused_where_it_would_teach_nothing(kind: str) -> None:
    student, teacher = STUDENT[:1].clone().requires_grad_(), TEACHER[:1]
    value = batch_similarity(student, teacher, kind)
    assert value.abs() < 1e-15
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-15
    loss = BatchSimilarityLoss(kind)
    with pytest.raises(ValueError, match='is one image: .* would be 0. Mend: a batch_size of 2'):
        loss(student, teacher)
    with torch.no_grad():
        loss(student, teacher)
    loss.eval()(student, teacher)  # the probe before training has one image
    loss.train()(STUDENT, TEACHER)
    assert loss(student, teacher).abs() < 1e-15, 'a last batch of one'


def test_a_run_that_goes_on_at_a_last_batch_of_one_is_not_refused() -> None:
    """As it would not be without the interruption."""
    whole = torch.nn.ModuleDict(dict(loss=BatchSimilarityLoss('sp')))
    whole.load_state_dict(whole.state_dict())
    student = STUDENT[:1].clone().requires_grad_()
    assert whole['loss'](student, TEACHER[:1]).abs() < 1e-15
    assert whole['loss'](STUDENT, TEACHER) > 0
    assert whole['loss'](student, TEACHER[:1]).abs() < 1e-15


def test_weights_that_are_loaded_do_not_let_a_batch_of_one_image_pass_for_good() -> None:
    """torch tells every module of a loading, also where the file holds nothing of it."""
    whole = torch.nn.ModuleDict(dict(loss=BatchSimilarityLoss('sp'), net=torch.nn.Linear(2, 2)))
    whole.load_state_dict(dict(whole['net'].state_dict(prefix='net.')), strict=False)
    student = STUDENT[:1].clone().requires_grad_()
    whole['loss'](student, TEACHER[:1])
    with pytest.raises(ValueError, match='is one image: .* would be 0. Mend: a batch_size of 2'):
        whole['loss'](student, TEACHER[:1])


@pytest.mark.parametrize('kind', KINDS)
def test_two_images_are_too_few_for_rkd_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module_of, 'print_log', lambda text, **options: said.append(text))
    student = STUDENT[:2].clone().requires_grad_()
    loss = BatchSimilarityLoss(kind)
    value = loss(student, TEACHER[:2])
    loss(student, TEACHER[:2])
    if not kind.startswith('rkd'):
        assert said == []
        assert value > 1e-3
        return
    assert len(said) == 1
    assert 'is 0 of two images' in said[0]
    assert 'Mend: a batch_size of 3' in said[0]
    assert value.abs() < 1e-15
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-14
    assert batch_similarity(STUDENT[:3], TEACHER[:3], kind) > 1e-3


@pytest.mark.parametrize('kind', KINDS)
def test_places_of_the_two_sides_may_differ(kind: str) -> None:
    """Of means and of all numbers; every place of the student has its share of the gradient."""
    student, teacher = draw(5, 4, 8, 6).requires_grad_(), draw(5, 3, 2, 5, seed=1)
    found = batch_similarity(student, teacher, kind, pooled=True)
    means = batch_similarity(student.mean((2, 3)), teacher.mean((2, 3)), kind)
    torch.testing.assert_close(found, means, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(slope, slope.mean((2, 3), keepdim=True).expand_as(slope))
    assert float(slope.abs().amax()) > 0
    whole = batch_similarity(student, teacher, kind)
    torch.testing.assert_close(
        whole, batch_similarity(student.flatten(1), teacher.flatten(1), kind), rtol=1e-12, atol=0
    )
    beside = batch_similarity(student, teacher.mean((2, 3)), kind, pooled=True)  # a map, a vector
    torch.testing.assert_close(beside, means, rtol=1e-12, atol=0)


@pytest.mark.parametrize('size', [(2, 3), (8, 12), (3, 2)])
def test_a_teacher_of_other_places_is_weighed_by_what_they_cover(size: tuple[int, int]) -> None:
    student, teacher = draw(4, 2, 4, 6), draw(4, 3, *size, seed=1)
    mask = torch.rand(4, 4, 6, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[3] = False
    own = F.adaptive_avg_pool2d(mask[:, None].double(), size)
    teacher = teacher.where(own > 0, torch.nan)  # what does not count may hold anything
    means = [
        (x.nan_to_num() * w).sum((2, 3)) / w.sum((2, 3))
        for x, w in ((student, mask[:, None].double()), (teacher, own))
    ]
    for kind in KINDS:
        found = batch_similarity(student, teacher, kind, pooled=True, mask=mask)
        expected = batch_similarity(*(x[:3] for x in means), kind)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    vectors = [
        (x.nan_to_num() * w.sqrt()).flatten(1)[:3]
        for x, w in ((student, mask[:, None].double()), (teacher, own))
    ]
    found = batch_similarity(student, teacher, mask=mask)
    torch.testing.assert_close(found, batch_similarity(*vectors), rtol=1e-10, atol=0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of .*'rkd'"):
        batch_similarity(STUDENT, TEACHER, 'rkd')
    with pytest.raises(ValueError, match='kind must be one of'):
        BatchSimilarityLoss('ck')
    with pytest.raises(ValueError, match='batch similarity needs maps .*the same images.*mend'):
        batch_similarity(STUDENT, TEACHER[:5])
    with pytest.raises(ValueError, match='batch similarity needs maps'):
        batch_similarity(torch.ones(2), torch.ones(2, 3))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        batch_similarity(STUDENT, TEACHER, mask=torch.ones(6))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        batch_similarity(STUDENT, TEACHER, weight=torch.ones(6).bool())
