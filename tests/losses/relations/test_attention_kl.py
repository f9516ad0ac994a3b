"""AttentionKLLoss by value."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import AttentionKLLoss, attention_kl
from mmkd.losses.relations.attention_kl import attention_rows


def scores(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (
        2 * torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    return one.requires_grad_(), other


def test_hand_value() -> None:
    teacher = torch.tensor([[[[0.5, 0.5, 0.0]], [[0.0, 1.0, 0.0]]]])
    student = torch.tensor([[[[0.25, 0.25, 0.5]], [[0.5, 0.25, 0.25]]]])
    expected = (
        math.log(2) + math.log(4)
    ) / 2  # a head each; what the teacher does not look at adds nothing
    assert attention_kl(student, teacher).item() == pytest.approx(expected)
    mean = math.log(0.25 / 0.375) * 0.25 + math.log(0.75 / 0.25) * 0.75
    assert attention_kl(student, teacher, heads='mean').item() == pytest.approx(mean)


def test_equals_torch() -> None:
    s, t = scores(3, 2, 4, 5)
    expected = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction='batchmean') / (2 * 4)
    torch.testing.assert_close(attention_kl(s.softmax(-1), t.softmax(-1)), expected)


def test_padding_tells_the_true_length() -> None:
    """A sentence of 3 padded to 5 gives what it gives alone, though padded keys get exactly 0 on
    both sides.
    """
    s, t = scores(1, 2, 3, 3)
    alone = attention_kl(s.softmax(-1), t.softmax(-1))
    padded = [F.pad(x.softmax(-1), (0, 2, 0, 2), value=0.0) for x in (s, t)]
    mask = torch.tensor([[True] * 3 + [False] * 2])
    torch.testing.assert_close(attention_kl(*padded, mask), alone)
    (grad,) = torch.autograd.grad(attention_kl(*padded, mask), s)
    torch.testing.assert_close(grad, torch.autograd.grad(alone, s)[0])


def test_gradcheck_of_queries_and_keys() -> None:
    q, k = (x.detach() for x in scores(1, 2, 3, 4))
    assert torch.autograd.gradcheck(
        lambda a, b: AttentionKLLoss()(a, k, student_key=b, teacher_key=q),
        (q.clone().requires_grad_(), k.clone().requires_grad_()),
    )


def test_a_student_that_never_looks_there_stays_finite() -> None:
    teacher, student = (
        torch.tensor([[[[1.0, 0.0]]]]),
        torch.tensor([[[[0.0, 1.0]]]], requires_grad=True),
    )
    value = attention_kl(student, teacher)
    assert value.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


def test_queries_and_keys_equal_the_probabilities_of_torch() -> None:
    """The rows are those of scaled dot-product attention."""
    q, k = (
        torch.randn(2, 3, 5, 8, dtype=torch.float64),
        torch.randn(2, 3, 6, 8, dtype=torch.float64),
    )
    v = torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6)
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    rows = attention_rows(q, k, keep)
    torch.testing.assert_close(rows, F.scaled_dot_product_attention(q, k, v, keep[:, None, None]))
    other = attention_rows(k[:, :, :5], q.repeat(1, 1, 2, 1)[:, :, :6], keep)
    value = AttentionKLLoss(loss_weight=0.5)(
        q, k[:, :, :5], student_key=k, teacher_key=q.repeat(1, 1, 2, 1)[:, :, :6], key_mask=keep
    )
    torch.testing.assert_close(value, 0.5 * attention_kl(rows, other))


@pytest.mark.parametrize('heads', ['match', 'mean'])
@pytest.mark.parametrize('masked', [False, True])
def test_drawn_rows_are_unbiased(heads: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over every draw of 2 of 5 rows is the loss over all, its gradient too."""
    q, k = scores(2, 2, 5, 4)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5]) if masked else None
    kwargs = dict(mask=mask, student_key=k, teacher_key=q.detach())
    whole = AttentionKLLoss(heads)(q, k, **kwargs)
    found = []
    for draw in itertools.combinations(range(5), 2):
        order = torch.tensor([*draw, *(set(range(5)) - set(draw))])
        monkeypatch.setattr('torch.randperm', lambda n, device=None, order=order: order)
        found.append(AttentionKLLoss(heads, rows=2)(q, k, **kwargs))
    mean = torch.stack(found).mean()
    assert len({round(value.item(), 9) for value in found}) > 5
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, q, retain_graph=True)[0] for x in (mean, whole))
    )


def test_as_many_rows_as_there_are_draw_nothing() -> None:
    s, t = (x.softmax(-1) for x in scores(2, 2, 4, 5))
    state = torch.get_rng_state()
    assert AttentionKLLoss(rows=4)(s, t) == attention_kl(s, t)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_matrix_is_larger_than_the_drawn_rows() -> None:
    """Of 4,096 queries over 256 keys, 64 are drawn: what autograd keeps is a fraction of one
    matrix.
    """
    q, k = torch.randn(1, 1, 4096, 8, requires_grad=True), torch.randn(1, 1, 256, 8)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        AttentionKLLoss(rows=64)(q, q.detach(), student_key=k, teacher_key=-k)
    assert max(sizes) <= max(64 * 256, 4096 * 8)


def test_multihead_attention_of_torch_needs_no_adapter() -> None:
    """Its weights by head are rows of probability, from which a layer is at no distance to
    itself.
    """
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    weights = layer(x, x, x, average_attn_weights=False)[1]
    AttentionKLLoss().build(weights, weights)
    assert abs(attention_kl(weights, weights.detach()).item()) < 1e-12


def test_padding_of_queries_and_keys_changes_neither_value_nor_gradient() -> None:
    """NaN, infinity and large numbers at masked queries and keys of both sides."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    q, k, tq, tk = torch.randn(4, 2, 2, 3, 4, dtype=torch.float64)
    results = []
    for fill in (0.0, 1e9, float('nan'), float('inf')):
        a, b, c, d = (x.masked_fill(~mask[:, None, :, None], fill) for x in (q, k, tq, tk))
        a.requires_grad_(), b.requires_grad_()
        for heads in ('match', 'mean'):
            value = attention_kl(a, c, mask, heads, student_key=b, teacher_key=d, key_mask=mask)
            results.append([value, *torch.autograd.grad(value, (a, b))])
    for number, result in enumerate(results):
        torch.testing.assert_close(result, results[number % 2], rtol=0, atol=0)
    assert all(result[0] > 0 for result in results)


def test_a_confident_student_keeps_its_gradient() -> None:
    """A gap of 300 between scores: KL against an even teacher is 150 − ln 2, where a probability
    would be 0.
    """
    q, k = torch.ones(1, 1, 1, 1, requires_grad=True), torch.tensor([300.0, 0.0]).view(1, 1, 2, 1)
    value = attention_kl(q, torch.zeros(1, 1, 1, 1), student_key=k, teacher_key=k)
    assert value.item() == pytest.approx(150 - math.log(2), rel=1e-5)
    assert torch.autograd.grad(value, q)[0].item() == pytest.approx(150, rel=1e-4)


def test_keys_are_nobodys_where_all_are_padding() -> None:
    q, k = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    none = torch.zeros(1, 3, dtype=torch.bool)
    value = attention_kl(q, -q.detach(), student_key=k, teacher_key=k.detach(), key_mask=none)
    assert value.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, (q, k)))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (
            (2, 4, 4),
            (2, 4, 4),
            r'needs attention \(N, heads, Q, K\), got student \(2, 4, 4\).* gives \(N, Q, K\): x',
        ),
        ((2, 3, 4, 4), (2, 2, 4, 4), r"student has 3 heads but teacher has 2 .*mend: heads='mean'"),
        (
            (2, 2, 4, 4),
            (2, 2, 4, 9),
            'student looks from 4 queries at 4 keys, teacher from 4 at 9 .*AffinityRows',
        ),
        ((2, 2, 4, 4), (2, 2, 9, 4), 'student looks from 4 queries at 4 keys, teacher from 9 at 4'),
    ],
)
def test_shapes_that_do_not_fit(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    for function in (attention_kl, AttentionKLLoss()):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(student), torch.zeros(teacher))


def test_masks_and_keys_that_do_not_fit() -> None:
    x = torch.zeros(2, 1, 3, 4)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        attention_kl(x, x, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r'\(2, 3\) of the queries, got \(2, 4\)'):
        attention_kl(x, x, torch.ones(2, 4, dtype=torch.bool))
    keys = dict(student_key=x, teacher_key=x)
    with pytest.raises(
        TypeError, match='key_mask must be a bool tensor, True for keys that count, got torch.int64'
    ):
        attention_kl(x, x, **keys, key_mask=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r'key_mask must have the shape \(2, 3\) of the keys, got \(2, 4\)'
    ):
        attention_kl(x, x, **keys, key_mask=torch.ones(2, 4, dtype=torch.bool))
    for key in (
        torch.zeros(1, 1, 3, 4),
        torch.zeros(2, 2, 3, 4),
        torch.zeros(2, 1, 3, 5),
        torch.zeros(3, 4),
    ):
        with pytest.raises(
            ValueError,
            match='queries and keys are those of one attention.*Mend: taps :query and :key',
        ):
            attention_kl(x, x, student_key=key, teacher_key=x)
    for kwargs in (dict(student_key=x), dict(key_mask=torch.ones(2, 3, dtype=torch.bool))):
        with pytest.raises(ValueError, match='student_key and teacher_key come together'):
            AttentionKLLoss()(x, x, **kwargs)


@pytest.mark.parametrize(
    'rows',
    [
        torch.zeros(1, 1, 2, 2),
        torch.full((1, 1, 2, 2), 0.6),
        torch.tensor([[[[2.0, -1.0], [0.5, 0.5]]]]),
    ],
)
def test_what_is_no_attention_is_refused(rows: Tensor) -> None:
    fine = torch.full((1, 1, 2, 2), 0.5)
    AttentionKLLoss().build(fine, fine)
    with pytest.raises(
        ValueError,
        match=r'student \(1, 1, 2, 2\) is no attention: its rows sum to .*before dropout',
    ):
        AttentionKLLoss().build(rows, fine)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="heads must be one of .*'match', 'mean'"):
        AttentionKLLoss('max')
    with pytest.raises(ValueError, match='rows'):
        AttentionKLLoss(rows=0)
