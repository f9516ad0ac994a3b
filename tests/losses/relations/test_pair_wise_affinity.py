"""PairWiseAffinityLoss by value."""

import math

import pytest
import torch
import torch.nn.functional as F
from references.pair_wise_affinity import pair_wise_affinity as reference
from torch import Tensor

from mmkd.losses import PairWiseAffinityLoss, pair_wise_affinity
from mmkd.losses.relations import inner_products

METHODS = ['dense', 'gram']


def maps(
    cs: int, ct: int, height: int, width: int, images: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(images, cs, height, width, dtype=dtype).requires_grad_(),
        torch.randn(images, ct, height, width, dtype=dtype),
    )


def dense(student: Tensor, teacher: Tensor) -> Tensor:
    """Materialise the N×N form in float64."""
    s, t = (F.normalize(x.double().flatten(2), dim=1) for x in (student, teacher))
    return (s.mT @ s - t.mT @ t).square().mean()


@pytest.mark.parametrize('options', [{'method': m} for m in METHODS] + [{'neighbourhood': 3}])
def test_hand_value(options: dict) -> None:
    # Angles of 0, 60 and 90 degrees; the teacher is constant. Six directed edges besides the zero
    # diagonal: cosines 1/2, 0 and √3/2 against 1. A single row: the outer nodes are no neighbours
    # within 3×3.
    angles = torch.tensor([0.0, math.pi / 3, math.pi / 2], dtype=torch.float64)
    student = torch.stack([angles.cos(), angles.sin()]).view(1, 2, 1, 3)
    near, far = 0.5**2 + (1 - math.sqrt(3) / 2) ** 2, 1.0
    expected = 2 * near / 7 if 'neighbourhood' in options else 2 * (near + far) / 9
    assert pair_wise_affinity(student, torch.ones(1, 4, 1, 3), **options).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize('channels', [(3, 3), (3, 5), (5, 2)])
@pytest.mark.parametrize('pool', ['avg', 'max'])
@pytest.mark.parametrize('patch', [(1, 1), (2, 2), (3, 2), (4, 1)])
def test_equals_the_slow_loop(patch: tuple[int, int], pool: str, channels: tuple[int, int]) -> None:
    student, teacher = maps(*channels, 5, 7)  # partial windows at the border
    expected = reference(student, teacher, patch, pool)
    for method in METHODS:
        value = pair_wise_affinity(student, teacher, patch, pool, method=method)
        assert value.item() == pytest.approx(expected, rel=1e-11)
    for k in (3, 5):
        assert pair_wise_affinity(
            student, teacher, patch, pool, neighbourhood=k
        ).item() == pytest.approx(reference(student, teacher, patch, pool, k), rel=1e-11)


def test_a_neighbourhood_that_covers_the_map_is_the_full_graph() -> None:
    student, teacher = maps(4, 6, 5, 4)
    torch.testing.assert_close(
        pair_wise_affinity(student, teacher, neighbourhood=9), dense(student, teacher)
    )


@pytest.mark.parametrize('options', [{'method': m} for m in METHODS] + [{'neighbourhood': 3}])
@pytest.mark.parametrize('channels', [(3, 3), (2, 4)])
def test_gradcheck(channels: tuple[int, int], options: dict) -> None:
    student, teacher = maps(*channels, 4, 5)
    teacher = F.pad(teacher, (0, 2))  # the last node of each row is a zero vector

    def loss(s: Tensor) -> Tensor:
        return pair_wise_affinity(F.pad(s, (0, 2)), teacher, (1, 2), **options)

    assert torch.autograd.gradcheck(loss, student)


@pytest.mark.parametrize(
    ('method', 'channels', 'size'),
    [
        ('dense', (16, 16), (8, 8)),
        ('gram', (16, 16), (8, 8)),
        ('gram', (12, 16), (8, 8)),
        ('auto', (16, 16), (8, 8)),
        ('auto', (12, 16), (24, 24)),
    ],
)  # 'auto' takes dense, then gram
@pytest.mark.parametrize('relative', [1e-1, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_nearly_equal_student_and_teacher_do_not_cancel(
    relative: float, method: str, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    """In float32 the affinities differ by less than their rounding: value and gradient stay right
    nevertheless.
    """
    cs, ct = channels
    base = torch.randn(2, cs, *size)
    student = (base + relative * torch.randn_like(base)).requires_grad_()
    teacher = F.pad(base, (0, 0, 0, 0, 0, ct - cs))  # zero channels change no cosine
    expected = dense(student, teacher)
    (gradient,) = torch.autograd.grad(expected, student)
    value = pair_wise_affinity(student, teacher, method=method)
    (got,) = torch.autograd.grad(value, student)
    tolerance = (2e-2 if relative == 1e-7 else 1e-3) if cs != ct else 1e-5
    assert value.item() == pytest.approx(expected.item(), rel=tolerance)
    assert (got - gradient).norm() <= (2e-3 if cs != ct else 1e-5) * gradient.norm()


@pytest.mark.parametrize('options', [{'method': m} for m in METHODS] + [{'neighbourhood': 5}])
def test_equal_maps_give_exactly_zero_with_zero_gradient(options: dict) -> None:
    teacher = torch.randn(2, 16, 6, 6)
    student = teacher.clone().requires_grad_()
    value = pair_wise_affinity(student, teacher, **options)
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize('options', [{'method': m} for m in METHODS] + [{'neighbourhood': 3}])
def test_invariances(options: dict) -> None:
    student, teacher = maps(6, 6, 5, 5)
    expected = pair_wise_affinity(student, teacher, **options)
    turn = torch.linalg.qr(torch.randn(9, 6, dtype=torch.float64))[0]  # isometric map to 9 channels
    turned = torch.einsum('dc,nchw->ndhw', turn, student)
    scaled = student * torch.rand(2, 1, 5, 5, dtype=torch.float64).add(0.01)
    for same in (turned, scaled):
        torch.testing.assert_close(pair_wise_affinity(same, teacher, **options), expected)
    assert pair_wise_affinity(turned, student, **options) < 1e-15
    assert expected <= 4


def test_average_pooling_divides_partial_windows_by_the_pixels_they_hold() -> None:
    # 1×3 in patches of 1×2: nodes are the mean of the first two vectors, and the last one alone.
    student = torch.tensor(
        [[[[2.0, 0.0, 0.0]], [[0.0, 2.0, 3.0]]]], dtype=torch.float64
    )  # nodes (1, 1) and (0, 3)
    value = pair_wise_affinity(student, torch.ones(1, 4, 1, 3), (1, 2))
    assert value.item() == pytest.approx((1 - math.sqrt(0.5)) ** 2 / 2, rel=1e-12)


def test_the_authors_setting_leaves_nine_nodes() -> None:
    student, teacher = maps(4, 6, 65, 65, images=1)
    nodes_s, nodes_t = (F.max_pool2d(x, 32, 32, ceil_mode=True) for x in (student, teacher))
    assert nodes_s.shape[2:] == (3, 3)
    torch.testing.assert_close(
        pair_wise_affinity(student, teacher, 32, 'max'), dense(nodes_s, nodes_t)
    )


@pytest.mark.parametrize('options', [{'method': m} for m in METHODS] + [{'neighbourhood': 3}])
def test_a_zero_vector_has_cosine_zero_and_zero_gradient(options: dict) -> None:
    student, teacher = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    student[..., 1, 2] = 0
    teacher[..., 3, 3] = 0
    student.requires_grad_()
    value = pair_wise_affinity(student, teacher, **options)
    expected = reference(student, teacher, neighbourhood=options.get('neighbourhood'))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()
    assert (gradient[..., 1, 2] == 0).all()


@pytest.mark.parametrize('method', METHODS)
def test_tiny_and_huge_features_have_the_same_cosines(method: str) -> None:
    student, teacher = maps(3, 5, 4, 4, dtype=torch.float32)
    expected = dense(student, teacher).item()
    for scale in (1e-15, 1e15):
        value = pair_wise_affinity(student * scale, teacher * scale, method=method)
        assert value.item() == pytest.approx(expected, rel=1e-5)


def test_module_equals_function_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = maps(3, 4, 6, 6)
    teacher.requires_grad_()
    value = PairWiseAffinityLoss((2, 1), 'max', 3)(student, teacher)
    assert value == pair_wise_affinity(student, teacher, (2, 1), 'max', 3)
    (value + PairWiseAffinityLoss(method='gram')(student, teacher)).backward()
    assert teacher.grad is None


def test_gram_works_through_chunks_and_keeps_only_the_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = maps(6, 4, 20, 30)  # 600 nodes: 128 at a time
    monkeypatch.setitem(inner_products._CHUNK, 'cpu', 1)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        value = pair_wise_affinity(student, teacher, method='gram')
    expected = dense(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student), torch.autograd.grad(expected, student)
    )
    assert sum(x.numel() for x in kept) == student.numel()


@pytest.mark.parametrize(
    ('student', 'teacher', 'options', 'message'),
    [
        (
            (2, 3, 4, 4),
            (2, 3, 8, 8),
            {},
            r'size: student \(2, 3, 4, 4\), teacher \(2, 3, 8, 8\); mend: connectors',
        ),
        (
            (2, 3, 4, 4),
            (1, 3, 4, 4),
            {},
            r'different numbers of images: student \(2, 3, 4, 4\), teacher \(1, 3, 4, 4\)',
        ),
        ((2, 3), (2, 3), {}, r'needs feature maps \(N, C, H, W\), got student \(2, 3\)'),
        (
            (2, 3, 4, 4),
            (2, 3, 4, 4),
            {'patch': 4},
            r'patch \(4, 4\) leaves a single node .* contributes nothing; mend',
        ),
        ((2, 3, 1, 1), (2, 3, 1, 1), {}, r'patch \(1, 1\) leaves a single node'),
    ],
)
def test_shapes_that_do_not_fit(
    student: tuple, teacher: tuple, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pair_wise_affinity(torch.zeros(student), torch.zeros(teacher), **options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'patch': 0},
            r'patch must be an int of at least 1 or two of them \(height, width\), got 0',
        ),
        ({'patch': (2, 2, 2)}, r'patch must be .* got \(2, 2, 2\)'),
        ({'patch': (2, 1.5)}, r'patch must be .* got \(2, 1.5\)'),
        ({'pool': 'mean'}, "pool must be one of .*got 'mean'"),
        ({'method': 'grams'}, "method must be one of .*did you mean 'gram'"),
        (
            {'neighbourhood': 4},
            'neighbourhood must be None .* or an odd number of at least 3 .* got 4',
        ),
        ({'neighbourhood': 1}, 'contributes nothing.* got 1'),
        (
            {'neighbourhood': 3, 'method': 'gram'},
            "'gram' sums over all nodes .* neighbourhood=3; mend: method='auto'",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairWiseAffinityLoss(**options)
    with pytest.raises(ValueError, match=message):
        pair_wise_affinity(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), **options)
