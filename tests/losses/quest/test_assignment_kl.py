"""AssignmentKLLoss (QUEST) by value."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from references.assignment_kl import assignment_kl as reference
from scipy.special import rel_entr
from sklearn.exceptions import NotFittedError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd.losses import AssignmentKLLoss, assignment_kl

K, CS, CT = 7, 3, 4


def case(
    n: int = 2,
    h: int = 3,
    w: int = 4,
    pooling: int = 1,
    dtype: torch.dtype = torch.float64,
    k: int = K,
) -> dict[str, Tensor]:
    """Return the tensors of :func:`assignment_kl`, those that learn with gradient."""
    return dict(
        student=torch.randn(n, CS, h, w, dtype=dtype).requires_grad_(),
        teacher=torch.randn(n, CT, pooling * h, pooling * w, dtype=dtype),
        words=torch.randn(k, CT, dtype=dtype),
        weight=torch.randn(k, CS, dtype=dtype).requires_grad_(),
    )


def naive(
    student: Tensor, teacher: Tensor, words: Tensor, weight: Tensor, tau: float, scale: Any
) -> Tensor:
    """The formula over all positions and words at once, differentiated by autograd."""
    p_t = (
        -(
            torch.cdist(
                teacher.movedim(1, -1).flatten(0, -2),
                words,
                compute_mode='donot_use_mm_for_euclid_dist',
            )
            ** 2
        )
        / tau
    ).softmax(1)
    f = student.movedim(1, -1).flatten(0, -2)
    return F.kl_div(
        (scale * F.normalize(f) @ F.normalize(weight).T).log_softmax(1), p_t, reduction='batchmean'
    )


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs)


def loss_of(words: Tensor, weight: Tensor, **kwargs: Any) -> AssignmentKLLoss:
    """Return the module with these words and weights."""
    loss = AssignmentKLLoss(weight.shape[1], words.shape[1], num_words=len(words), **kwargs).to(
        words.dtype
    )
    loss.vocabulary.words.copy_(words)
    loss.predictor.weight.data.copy_(weight)
    return loss


def test_hand_values() -> None:
    words, weight = (
        torch.tensor([[0.0], [1.0]]).double(),
        torch.tensor([[2.0, 0.0], [0.0, 5.0]]).double(),
    )
    student, teacher = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0]]).double()
    # distances 0 and 1, cosines 1 and 0: p_T = σ(1/τ), p_S = σ(γ)
    for tau, gamma in ((1.0, 3.0), (0.2, 1.0)):
        p, q = 1 / (1 + math.exp(-1 / tau)), 1 / (1 + math.exp(-gamma))
        assert assignment_kl(student, teacher, words, weight, tau, gamma).item() == pytest.approx(
            p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), rel=1e-12
        )


@pytest.mark.parametrize('pooling', [1, 2, 3])
@pytest.mark.parametrize(('tau', 'gamma'), [(0.7, 3.0), (4.0, 10.0)])
def test_equals_the_slow_loop(pooling: int, tau: float, gamma: float) -> None:
    x = case(pooling=pooling)
    mask = torch.rand(2, 3, 4) > 0.4
    for m in (None, mask):
        assert assignment_kl(**x, tau=tau, scale=gamma, mask=m).item() == pytest.approx(
            reference(**x, tau=tau, gamma=gamma, mask=m), rel=1e-10
        )


def test_equals_another_library() -> None:
    x = case()
    p_t = (
        -(torch.cdist(x['teacher'].movedim(1, -1).flatten(0, 2), x['words']) ** 2) / 0.7
    ).softmax(1)
    f = x['student'].detach().movedim(1, -1).flatten(0, 2)
    p_s = (3 * F.cosine_similarity(f[:, None], x['weight'].detach()[None], dim=2)).softmax(1)
    assert assignment_kl(**x, tau=0.7).item() == pytest.approx(
        rel_entr(p_t, p_s).sum(1).mean().item(), rel=1e-10
    )


@pytest.mark.parametrize('chunk', [1, 5, 24, 1000, None])
def test_value_and_gradients_of_any_chunk_are_those_of_autograd(chunk: int | None) -> None:
    x, scale = case(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    expected = naive(**x, tau=0.7, scale=scale)
    value = assignment_kl(**x, tau=0.7, scale=scale, chunk=chunk)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    learned = (x['student'], x['weight'], scale)
    got, wanted = (gradients(3 * v, *learned) for v in (value, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('shape', ['map', 'vectors'])
def test_gradcheck(shape: str) -> None:
    x, scale = case(2, 2, 2, pooling=2), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    if shape == 'vectors':
        x |= dict(
            student=torch.randn(3, CS, dtype=torch.float64).requires_grad_(),
            teacher=x['teacher'][0, :, :3, 0].T,
        )
        mask = torch.tensor([True, False, True])

    def value(student: Tensor, weight: Tensor, gamma: Tensor) -> Tensor:
        return assignment_kl(student, x['teacher'], x['words'], weight, 0.7, gamma, mask, chunk=3)

    assert torch.autograd.gradcheck(value, (x['student'], x['weight'], scale))


def test_vectors_are_maps_of_one_position() -> None:
    x = case(3, 1, 1)
    flat = x | {role: x[role].flatten(1) for role in ('student', 'teacher')}
    torch.testing.assert_close(assignment_kl(**flat, tau=0.7), assignment_kl(**x, tau=0.7))


def test_limits() -> None:
    """gamma = 0: log K − H(p_T); tau → 0: the cross-entropy of the nearest word; tau → ∞: uniform
    targets.
    """
    x = case()
    distance = torch.cdist(x['teacher'].movedim(1, -1).flatten(0, 2), x['words'])
    p_t = (-(distance**2) / 0.7).softmax(1)
    assert assignment_kl(**x, tau=0.7, scale=0.0).item() == pytest.approx(
        math.log(K) - torch.special.entr(p_t).sum(1).mean().item(), rel=1e-10
    )
    scores = 3 * F.normalize(x['student'].movedim(1, -1).flatten(0, 2)) @ F.normalize(x['weight']).T
    for tau in (1e-9, 1e-38):
        assert assignment_kl(**x, tau=tau).item() == pytest.approx(
            F.cross_entropy(scores, distance.argmin(1)).item(), rel=1e-10
        )
        single = {role: value.detach().float() for role, value in x.items()}
        assert assignment_kl(**single, tau=tau).item() == pytest.approx(
            F.cross_entropy(scores, distance.argmin(1)).item(), rel=1e-5
        )
    assert assignment_kl(**x, tau=1e12, scale=0.0).item() == pytest.approx(0, abs=1e-12)


def test_zero_with_zero_gradient_where_the_student_predicts_the_assignment() -> None:
    """Words and weights of unit length: −‖v − f‖² / tau = 2 cos / tau + constant, so gamma = 2 /
    tau is the optimum.
    """
    f = F.normalize(torch.randn(2, CT, 3, 3, dtype=torch.float64))
    words = F.normalize(torch.randn(K, CT, dtype=torch.float64))
    student, weight = (5 * f).requires_grad_(), (3 * words).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    value = assignment_kl(student, f, words, weight, 0.5, scale)
    assert abs(value.item()) < 1e-14
    assert all(g.abs().max() < 1e-14 for g in gradients(value, student, weight, scale))


def test_invariances() -> None:
    """Tiling the maps, the order of words, the length of student and weights, a shift of teacher
    and words.
    """
    x = case()
    expected = assignment_kl(**x, tau=0.7)
    tiled = x | {role: x[role].repeat(1, 1, 4, 2) for role in ('student', 'teacher')}
    order = torch.randperm(K)
    longer = x | {role: 7 * x[role] for role in ('student', 'weight')}
    shifted = x | {role: x[role] + 1000 for role in ('teacher', 'words')}
    for other in (
        tiled,
        x | {role: x[role][order] for role in ('words', 'weight')},
        longer,
        shifted,
    ):
        torch.testing.assert_close(assignment_kl(**other, tau=0.7), expected, rtol=1e-9, atol=0)


def test_features_far_from_zero_do_not_cancel() -> None:
    """float32 at 4096 ± 1: |v|² is 7e7, whose spacing is 8; distances are about 8."""
    x = {role: value.detach() for role, value in case(pooling=1).items()}
    grid = {
        role: (16 * x[role]).round() / 16 for role in ('teacher', 'words')
    }  # 4096 + x is exact in float32
    far = {role: (grid[role] + 4096).float() for role in grid}
    expected = reference(**(x | grid), tau=0.7, gamma=3.0)
    assert assignment_kl(
        x['student'].float(), far['teacher'], far['words'], x['weight'].float(), 0.7
    ).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = {role: value.detach().to(dtype) for role, value in case(pooling=2).items()}
    value = assignment_kl(
        x['student'].requires_grad_(), x['teacher'] * 100, x['words'] * 100, x['weight'], 7000.0
    )
    assert value.dtype == torch.float32
    wide = {role: t.detach().double() for role, t in x.items()}
    hundred = {
        role: (x[role] * 100).double() for role in ('teacher', 'words')
    }  # squares are beyond float16
    assert value.item() == pytest.approx(
        reference(**(wide | hundred), tau=7000.0, gamma=3.0), rel=1e-4
    )
    assert gradients(value, x['student'])[0].dtype == dtype


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(bad: float) -> None:
    x, mask = case(pooling=2), torch.rand(2, 3, 4) > 0.5
    clean = assignment_kl(**x, tau=0.7, mask=mask)
    bigger = F.interpolate(mask[:, None].double(), scale_factor=2).bool()
    dirty = x | dict(
        student=x['student'].detach().masked_fill(~mask[:, None], bad).requires_grad_(),
        teacher=x['teacher'].masked_fill(~bigger, bad),
    )
    value = assignment_kl(**dirty, tau=0.7, mask=mask)
    assert value == clean
    got, expected = (
        gradients(v, y['student'], y['weight']) for v, y in ((value, dirty), (clean, x))
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert (got[0].movedim(1, -1)[~mask] == 0).all()


def test_an_empty_mask_gives_exactly_zero_with_zero_gradient() -> None:
    x, scale = case(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = assignment_kl(**x, tau=0.7, scale=scale, mask=torch.zeros(2, 3, 4, dtype=torch.bool))
    assert value.item() == 0
    assert all((g == 0).all() for g in gradients(value, x['student'], x['weight'], scale))


def test_zero_vectors_have_cosine_zero_and_a_finite_gradient() -> None:
    x = case()
    student, weight = x['student'].detach().clone(), x['weight'].detach().clone()
    student[:, :, 0], weight[2] = 0, 0
    x |= dict(student=student.requires_grad_(), weight=weight.requires_grad_())
    value = assignment_kl(**x, tau=0.7)
    assert value.item() == pytest.approx(reference(**x, tau=0.7, gamma=3.0), rel=1e-10)
    grad_s, grad_w = gradients(value, x['student'], x['weight'])
    assert grad_s.isfinite().all()
    assert grad_w.isfinite().all()
    assert (grad_s[:, :, 0] == 0).all()
    assert (grad_s[:, :, 1] != 0).any()


class Sizes(TorchDispatchMode):
    """Notes the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_positions_times_words_never_exist() -> None:
    x = case(1, 32, 32, dtype=torch.float32, k=256)
    saved: list[int] = []
    with (
        Sizes() as sizes,
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: (saved.append(t.numel()), t)[1], lambda t: t
        ),
    ):
        value = assignment_kl(**x, chunk=16)
        value.backward()
    assert sizes.largest == 16 * 256  # not 1024 · 256
    assert max(saved) == 1024 * CS
    with Sizes() as sizes:
        naive(**x, tau=0.2, scale=3.0).backward()
    assert sizes.largest == 1024 * 256  # the measure does see them


def test_no_gradient_is_formed_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, calls = case(), []
    addmm = Tensor.addmm_
    monkeypatch.setattr(
        Tensor, 'addmm_', lambda *args, **kwargs: (calls.append(1), addmm(*args, **kwargs))[1]
    )
    expected = assignment_kl(**x, tau=0.7)
    assert len(calls) == 1
    with torch.no_grad():
        assert assignment_kl(**x, tau=0.7) == expected
    frozen = x | dict(weight=x['weight'].detach())
    got, wanted = (gradients(v, x['student']) for v in (assignment_kl(**frozen, tau=0.7), expected))
    torch.testing.assert_close(got, wanted)
    assert len(calls) == 1


def test_module_equals_function_and_teacher_and_words_get_no_gradient() -> None:
    x = case(pooling=2)
    teacher = x['teacher'].requires_grad_()
    loss = loss_of(x['words'], x['weight'], tau=0.7, gamma=2.0, loss_weight=3.0)
    value = loss(x['student'], teacher)
    torch.testing.assert_close(value, 3 * assignment_kl(**x, tau=0.7, scale=2.0))
    value.backward()
    assert teacher.grad is None
    assert not loss.vocabulary.words.requires_grad
    assert sorted(name for name, p in loss.named_parameters() if p.grad is not None) == [
        'predictor.scale',
        'predictor.weight',
    ]
    assert set(loss.state_dict()) == {
        'predictor.scale',
        'predictor.weight',
        'vocabulary.words',
        'vocabulary.fingerprint',
    }
    built = MODELS.build(
        dict(type='mmkd.AssignmentKLLoss', student_channels=5, teacher_channels=6, num_words=9)
    )
    assert (built.predictor.weight.shape, built.vocabulary.words.shape) == ((9, 5), (9, 6))
    assert (built.predictor.scale.item(), built.vocabulary.tau) == (3.0, 0.2)
    assert AssignmentKLLoss().num_words == 4096


def test_diagnostics() -> None:
    """Four positions on words 0, 0, 1 and 2 of three; the student is right about three of them."""
    words = torch.tensor([[0.0], [10.0], [20.0]])
    loss = loss_of(words, torch.eye(3), tau=50.0)
    teacher = torch.tensor([0.0, 0.0, 10.0, 20.0]).view(4, 1)
    loss(torch.eye(3)[[0, 1, 1, 2]], teacher)
    p_t = (-((teacher - words.T) ** 2) / 50).softmax(1)
    share = torch.tensor([0.5, 0.25, 0.25])
    expected = dict(
        confidence=p_t.amax(1).mean().item(),
        word_accuracy=0.75,
        perplexity=math.exp(-(share * share.log()).sum()),
    )
    assert {key: value.item() for key, value in loss.diagnostics.items()} == pytest.approx(
        expected, rel=1e-6
    )
    assert not any(value.requires_grad for value in loss.diagnostics.values())
    for mask in (torch.tensor([True, False, True, True]), torch.zeros(4, dtype=torch.bool)):
        loss(torch.eye(3)[[0, 1, 1, 2]], teacher, mask)
        assert loss.diagnostics['word_accuracy'].item() == float(mask.any())


# ---------------------------------------------------------------- how it is built, and what it
# refuses


def test_channels_come_from_the_first_maps() -> None:
    loss = AssignmentKLLoss(num_words=5)
    maps = dict(student=torch.randn(1, 3, 2, 2), teacher=torch.randn(1, 6, 4, 4))
    with pytest.raises(
        RuntimeError,
        match='predictor are not built.* Mend: student_channels=…, teacher_channels=…, or ',
    ):
        loss(**maps)
    assert loss.build(**maps) == 'vocabulary of 5 words in 6 channels, teacher map pooled 2×2'
    assert (loss.predictor.weight.shape, loss.vocabulary.words.shape) == ((5, 3), (5, 6))
    weight = loss.predictor.weight
    loss.build(**maps)
    assert loss.predictor.weight is weight
    loss.vocabulary.words.copy_(torch.randn(5, 6))
    assert loss(**maps) > 0
    with pytest.raises(
        ValueError,
        match="teacher's map is 1 times as large as the student's, but was 2 times when .*"
        r'student \(1, 3, 4, 4\), teacher \(1, 6, 4, 4\).*Mend: data_preprocessor',
    ):
        loss(torch.randn(1, 3, 4, 4), maps['teacher'])


def test_words_count_as_fitted_however_they_come() -> None:
    x = {role: value.detach().float() for role, value in case().items()}
    loss, maps = AssignmentKLLoss(CS, CT, num_words=K), (x['student'], x['teacher'])
    with pytest.raises(
        NotFittedError,
        match='vocabulary is not fitted: its words are NaN. Mend: .*VocabularyHook.*'
        r'mmkd fit-vocabulary .*loss\.vocabulary\.words',
    ):
        loss(*maps)
    with pytest.raises(
        ValueError, match='student .* has 4 channels, but the predictor has 3'
    ):  # shapes come first
        loss(x['teacher'], x['teacher'])
    loss.vocabulary.words.copy_(x['words'])
    value = loss(*maps)
    other = AssignmentKLLoss(CS, CT, num_words=K)
    with pytest.raises(NotFittedError):
        other(*maps)
    other.load_state_dict(loss.state_dict())
    assert other(*maps) == value
    other.load_state_dict(AssignmentKLLoss(CS, CT, num_words=K).state_dict())
    with pytest.raises(NotFittedError):
        other(*maps)
    with pytest.raises(NotFittedError):
        loss_of(torch.full((K, CT), math.nan), x['weight'])(*maps)


def test_fitted_words_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {role: value.detach().float() for role, value in case().items()}
    loss = loss_of(x['words'], x['weight'])
    loss(x['student'], x['teacher'])
    looks: list[int] = []
    isnan = Tensor.isnan
    monkeypatch.setattr(Tensor, 'isnan', lambda self: (looks.append(1), isnan(self))[1])
    loss(x['student'], x['teacher'])
    assert looks == []


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (
            (2, 4, 4, 4),
            (2, 4, 4, 4),
            r'student \(2, 4, 4, 4\) has 4 channels, but the predictor has 3. Mend: '
            r'student_channels=4 \(or None\)',
        ),
        (
            (2, 3, 4, 4),
            (2, 3, 4, 4),
            r'teacher \(2, 3, 4, 4\) has 3 channels, but the vocabulary has 4. Mend: teacher_ch',
        ),
        (
            (2, 3, 4, 4),
            (2, 4, 6, 6),
            r'larger by an integer factor, the same on both axes: student \(2, 3, 4, 4\), teacher '
            r"\(2, 4, 6, 6\). Mend: connectors=dict\(student='auto'\) resizes the student",
        ),
        (
            (2, 3, 4, 4),
            (2, 4, 2, 2),
            r"as large as the student's, or larger by .* Mend: connectors",
        ),
        ((2, 3, 4, 4), (2, 4, 8, 4), r'the same on both axes'),
        (
            (2, 3, 4, 4),
            (1, 4, 4, 4),
            r'batches of different size: student \(2, 3, 4, 4\), teacher \(1, 4, 4, 4\)',
        ),
        (
            (2, 3, 4),
            (2, 4, 4),
            r'needs maps \(N, C, H, W\) or vectors \(N, C\), got student \(2, 3, 4\)',
        ),
        (
            (2, 3),
            (2, 4, 1, 1),
            r'needs maps \(N, C, H, W\) or vectors \(N, C\), got student \(2, 3\)',
        ),
    ],
)
def test_shapes_that_do_not_fit(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assignment_kl(
            torch.zeros(student), torch.zeros(teacher), torch.zeros(K, CT), torch.zeros(K, CS)
        )


def test_masks_that_do_not_fit() -> None:
    x = case(pooling=2)
    with pytest.raises(TypeError, match=r'mask must be a bool tensor .* got torch.int64'):
        assignment_kl(**x, mask=torch.ones(2, 3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r'mask must have the shape \(2, 3, 4\) .*got \(2, 6, 8\)'):
        assignment_kl(**x, mask=torch.ones(2, 6, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_words=1), 'num_words must be a whole number of at least 2, got 1'),
        (dict(tau=0.0), 'tau must be a finite number above 0, got 0'),
        (dict(tau='best'), "tau must be a finite number above 0 or 'auto', got 'best'"),
        (
            dict(tau='auto', target_perplexity=1.0),
            r'target_perplexity must lie between 1 .* num_words=4096 .* got 1.0',
        ),
        (dict(tau='auto', num_words=4), r'between 1 .* num_words=4 .* got 4.0'),
        (dict(gamma=-1.0), 'gamma must be a finite number, 0 or above, got -1.0'),
        (dict(chunk=0), 'chunk must be a whole number of at least 1, got 0'),
        (dict(loss_weight=0.0), 'loss_weight must be a finite number above 0'),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AssignmentKLLoss(**options)


def test_words_and_weights_must_be_as_many_and_tau_positive() -> None:
    x = case()
    with pytest.raises(
        ValueError, match=r'words \(6, 4\) and weight \(7, 3\) must hold as many words'
    ):
        assignment_kl(**(x | dict(words=x['words'][1:])))
    with pytest.raises(ValueError, match='tau must be a finite number above 0, got -1'):
        assignment_kl(**x, tau=-1)
