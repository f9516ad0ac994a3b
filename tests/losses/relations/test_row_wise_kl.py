"""RowWiseKLLoss by value."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.relations import row_wise_kl as reference
from torch import Tensor

from mmkd.losses import RowWiseKLLoss, row_wise_kl
from mmkd.losses.relations import inner_products
from mmkd.utils.timing import peak_memory


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 3, 5), draw(3, 6, 3, 5, seed=1)
MASK = torch.arange(45).view(3, 3, 5) % 4 != 1
WEIGHT = draw(3, 3, 5, seed=2).abs()


def cirkd(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return the formula of the authors' code: a mean over pairs of images, by torch's KL."""
    student, teacher = (F.normalize(x, dim=1).flatten(2) for x in (student, teacher))
    found = []
    for i in range(len(student)):
        for j in range(len(student)):
            ours, theirs = (x[i].mT @ x[j] / tau for x in (student, teacher))
            found.append(F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction='batchmean'))
    return torch.stack(found).mean()


def value_and_gradient(student: Tensor, teacher: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = row_wise_kl(student, teacher, **options)
    return value, torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize('method', ['dense', 'chunked'])
def test_hand_value(method: str) -> None:
    """Two orthogonal pixels against two that are the same: cosines (1, 0) and (1, 1), τ = 1/2."""
    teacher = torch.eye(2, dtype=torch.float64)[None]
    p = math.exp(2) / (math.exp(2) + 1)
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    found = row_wise_kl(torch.ones(1, 3, 2).double(), teacher, 0.5, method=method)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('method', ['dense', 'chunked'])
def test_it_is_the_formula_of_the_authors(method: str) -> None:
    expected = cirkd(STUDENT, TEACHER, 0.1)
    found = row_wise_kl(STUDENT, TEACHER, method=method)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('across', ['batch', 'image'])
@pytest.mark.parametrize('nodes', [None, 15, 8, 4])
def test_nodes_masks_and_weights_equal_the_slow_loop(across: str, nodes: int | None) -> None:
    empty = MASK.clone()
    empty[1] = False
    for mask in (None, MASK, empty):
        expected = reference(STUDENT, TEACHER, 0.3, across, nodes, mask)
        ones = torch.ones_like(WEIGHT)
        for own in (None, ones):
            found = row_wise_kl(STUDENT, TEACHER, 0.3, across, nodes, mask=mask, weight=own)
            assert found.item() == pytest.approx(expected, rel=1e-11)
        if nodes in (None, 15):
            weighted = reference(STUDENT, TEACHER, 0.3, across, None, mask, WEIGHT)
            found = row_wise_kl(STUDENT, TEACHER, 0.3, across, nodes, mask=mask, weight=WEIGHT)
            assert found.item() == pytest.approx(weighted, rel=1e-11)
            assert abs(weighted / expected - 1) > 1e-3


def test_the_weight_of_a_node_is_the_mean_of_its_window() -> None:
    weight = torch.tensor([[[4.0, 2.0, 1.0], [0.0, 2.0, 3.0]]]).double()
    student, teacher = draw(1, 4, 2, 3), draw(1, 4, 2, 3, seed=1)
    pooled = [
        F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (student, teacher)
    ]
    own = torch.tensor([[[2.0, 2.0]]]).double()
    found = row_wise_kl(student, teacher, nodes=2, weight=weight)
    torch.testing.assert_close(found, row_wise_kl(*pooled, weight=own))
    torch.testing.assert_close(found, row_wise_kl(*pooled))
    own = torch.tensor([[[2.0, 1.0]]]).double()  # of the right window one place is left
    mask = torch.tensor([[[True, True, True], [True, True, False]]])
    pooled[0][..., 1], pooled[1][..., 1] = student[:, :, :1, 2], teacher[:, :, :1, 2]
    found = row_wise_kl(student, teacher, nodes=2, weight=weight, mask=mask)
    torch.testing.assert_close(found, row_wise_kl(*pooled, weight=own))


@pytest.mark.parametrize('across', ['batch', 'image'])
@pytest.mark.parametrize('kind', ['whole', 'masked', 'weighted'])
def test_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch, across: str, kind: str) -> None:
    """Value and gradient, in chunks of 16 rows, the last of them smaller."""
    student, teacher = draw(3, 4, 5, 7), draw(3, 6, 5, 7, seed=1)
    mask = torch.arange(105).view(3, 5, 7) % 4 != 1
    own: dict[str, Tensor] = {}
    if kind != 'whole':
        own['mask'] = mask
    if kind == 'weighted':
        own['weight'] = draw(3, 5, 7, seed=2).abs()
    expected = value_and_gradient(student, teacher, across=across, method='dense', **own)
    monkeypatch.setitem(inner_products._CHUNK, 'cpu', 1)
    for method in ('chunked', 'auto'):
        found = value_and_gradient(student, teacher, across=across, method=method, **own)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    with torch.no_grad():
        found = row_wise_kl(student, teacher, across=across, method='chunked', **own)
    torch.testing.assert_close(found, expected[0])


def test_one_image_is_related_to_itself() -> None:
    one = STUDENT[:1], TEACHER[:1]
    assert row_wise_kl(*one, across='batch') == row_wise_kl(*one, across='image') > 0
    each = [row_wise_kl(STUDENT[n : n + 1], TEACHER[n : n + 1]) for n in range(3)]
    found = row_wise_kl(STUDENT, TEACHER, across='image')
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_turned_and_stretched_features_are_the_same() -> None:
    """An orthogonal map of the channels, and a positive factor of each pixel."""
    turn = torch.linalg.qr(draw(4, 4, seed=5))[0]
    factor = draw(3, 1, 3, 5, seed=6).exp()
    other = factor * torch.einsum('dc,nchw->ndhw', turn, STUDENT)
    found, expected = (row_wise_kl(x, TEACHER) for x in (other, STUDENT))
    torch.testing.assert_close(found, expected)
    assert row_wise_kl(-STUDENT.abs(), TEACHER) != pytest.approx(expected.item(), rel=1e-3)


def test_at_high_temperature_it_is_the_variance_of_differences() -> None:
    """τ² KL → half the variance over columns of A_t − A_s."""
    tau = 1e3
    s, t = (F.normalize(x, dim=1).flatten(2) for x in (STUDENT, TEACHER))
    pairs = [(s[i].mT @ s[j] - t[i].mT @ t[j]) for i in range(3) for j in range(3)]
    limit = torch.stack([x.var(1, unbiased=False).mean() for x in pairs]).mean() / 2
    found = tau**2 * row_wise_kl(STUDENT, TEACHER, tau)
    torch.testing.assert_close(found, limit, rtol=1e-3, atol=0)


def test_windows_are_images_of_their_own() -> None:
    student, teacher = draw(2, 4, 4, 6), draw(2, 6, 4, 6, seed=1)
    mask = torch.arange(48).view(2, 4, 6) % 5 != 1
    weight = draw(2, 4, 6, seed=2).abs()
    cuts = [(slice(y, y + 2), slice(x, x + 2)) for y in (0, 2) for x in (0, 2, 4)]

    def images(x: Tensor) -> Tensor:
        return torch.cat([x[..., y, z] for y, z in cuts])

    for own in ({}, dict(mask=mask), dict(mask=mask, weight=weight)):
        expected = row_wise_kl(
            images(student),
            images(teacher),
            across='image',
            **{name: images(x) for name, x in own.items()},
        )
        found = row_wise_kl(student, teacher, across='image', window=2, **own)
        torch.testing.assert_close(found, expected)
    whole = row_wise_kl(student, teacher, across='image')
    for shift in ((0, 0), (2, 0)):  # one window holds the map, wherever in it that lies
        found = row_wise_kl(student, teacher, across='image', window=6, shift=shift)
        torch.testing.assert_close(found, whole)
    # a grid that begins one row above: one row, two, and one
    rows = [slice(0, 1), slice(1, 3), slice(3, 4)]
    parts = [
        row_wise_kl(student[..., r, x], teacher[..., r, x], across='image') * (r.stop - r.start)
        for r in rows
        for x in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    found = row_wise_kl(student, teacher, across='image', window=2, shift=(1, 0))
    torch.testing.assert_close(found, torch.stack(parts).sum() / 12)


def test_windows_lie_elsewhere_in_each_call_of_training() -> None:
    loss = RowWiseKLLoss(across='image', window=3)
    torch.manual_seed(0)
    seen = {loss(STUDENT, TEACHER).item() for _ in range(30)}
    grids = [(y, x) for y in range(3) for x in range(3)]
    values = [
        row_wise_kl(STUDENT, TEACHER, across='image', window=3, shift=shift).item()
        for shift in grids
    ]
    assert seen <= set(values)
    assert len(seen) > 5
    loss.eval()
    assert {loss(STUDENT, TEACHER).item() for _ in range(5)} == {values[0]}


def test_memory_is_linear_in_the_places() -> None:
    """Of a batch of 4, of which the scores of one side would be 59 and 236 MB."""

    def peak(width: int) -> float:
        student = torch.randn(4, 8, 16, width).requires_grad_()
        teacher = torch.randn(4, 8, 16, width)
        return peak_memory(lambda: row_wise_kl(student, teacher, nodes=None).backward()) / 2**20

    half, whole = peak(60), peak(120)
    assert whole < 40
    assert whole < 2.5 * half


def test_what_is_refused() -> None:
    maps = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, 'tau must be a finite number above 0', dict(tau=0.0)),
        (ValueError, 'across must be one of', dict(across='images')),
        (ValueError, 'method must be one of', dict(method='gram')),
        (ValueError, 'nodes must be a whole number of at least 2', dict(nodes=1)),
        (ValueError, 'window must be a whole number', dict(window=1, across='image')),
        (ValueError, "window=4 relates pixels of one image.*mend: across='image'", dict(window=4)),
    ]
    for kind, message, options in refused:
        with pytest.raises(kind, match=message):
            row_wise_kl(*maps, **options)
        with pytest.raises(kind, match=message):
            RowWiseKLLoss(**options)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        row_wise_kl(*maps, mask=torch.ones(2, 4, 4))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        row_wise_kl(*maps, weight=torch.ones(2, 4, 4).bool())
    for shape in ((2, 3), (2, 3, 4, 5), (1, 3, 4, 4)):
        with pytest.raises(ValueError, match='row-wise KL needs maps .*mend: connectors'):
            row_wise_kl(maps[0], torch.ones(shape))
    long = torch.ones(1, 2, 2, 2, 2, 2)
    with pytest.raises(ValueError, match='one to three spatial axes.*mend: window=None'):
        row_wise_kl(long, long)
    line = torch.ones(1, 2, 6)
    with pytest.raises(ValueError, match='by windows'):
        row_wise_kl(line, line, across='image', window=2)
