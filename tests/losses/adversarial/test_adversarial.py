"""AdversarialLoss by value."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss
from mmkd.registry import MODELS

MODES = ['wgan-gp', 'hinge', 'lsgan', 'bce']
SMALL = dict(type='HolisticCritic', in_channels=3, size=(8, 8), channels=(8, 8), image_channels=0)


class Linear(nn.Module):
    """d(x) = <w, x> for a whole map."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.flatten())[:, None]


class FusedAttention(nn.Module):
    """A critic whose attention cannot be differentiated twice; channels serve as heads, rows as
    places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return F.scaled_dot_product_attention(x, x, x).flatten(1).mean(1, keepdim=True)


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=dtype).requires_grad_(), torch.randn(*shape, dtype=dtype)


def pixel_critic(channels: int = 3) -> nn.Module:
    """One score a place: masks have a meaning."""
    return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Tanh(), nn.Conv2d(4, 1, 1)).double()


GENERATOR = {
    'wgan-gp': lambda s: -s,
    'hinge': lambda s: -s,
    'lsgan': lambda s: (1 - s) ** 2,
    'bce': lambda s: math.log1p(math.exp(-s)),
}
REAL = {
    'wgan-gp': lambda t: -t,
    'hinge': lambda t: max(0, 1 - t),
    'lsgan': lambda t: (1 - t) ** 2,
    'bce': lambda t: math.log1p(math.exp(-t)),
}
FAKE = {
    'wgan-gp': lambda s: s,
    'hinge': lambda s: max(0, 1 + s),
    'lsgan': lambda s: s**2,
    'bce': lambda s: math.log1p(math.exp(s)),
}


@pytest.mark.parametrize('mode', MODES)
def test_hand_values(mode: str) -> None:
    """The map is its own score; the penalty of that critic is 0, as its gradient is 1."""
    student, teacher = torch.tensor([[[0.5], [-1.5]], [[0.25], [2.0]]], dtype=torch.float64)
    loss = AdversarialLoss(nn.Flatten(), mode)
    assert loss(student, teacher).item() == pytest.approx(
        (GENERATOR[mode](0.5) + GENERATOR[mode](-1.5)) / 2, rel=1e-9
    )
    expected = (REAL[mode](0.25) + REAL[mode](2.0) + FAKE[mode](0.5) + FAKE[mode](-1.5)) / 2
    assert loss.critic_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_sigmoid_squashes_the_score() -> None:
    student, teacher = torch.tensor([[0.5]]), torch.tensor([[2.0]])
    loss = AdversarialLoss(
        nn.Flatten(), 'lsgan', sigmoid=True
    )  # AFD: [1 − D(S)]² and [1 − D(T)]² + [D(S)]²
    d_s, d_t = (1 / (1 + math.exp(-v)) for v in (0.5, 2.0))
    assert loss(student, teacher).item() == pytest.approx((1 - d_s) ** 2, rel=1e-6)
    assert loss.critic_loss(student, teacher).item() == pytest.approx(
        (1 - d_t) ** 2 + d_s**2, rel=1e-6
    )


@pytest.mark.parametrize('shape', [(4, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize('weight', [7.0, 10.0])
def test_penalty_of_a_linear_critic(weight: float, shape: tuple[int, ...]) -> None:
    """(‖w‖ − 1)² for every ε."""
    w = torch.randn(shape[1:], dtype=torch.float64)
    student, teacher = maps(*shape)
    loss = AdversarialLoss(Linear(w), gradient_penalty=weight)
    scores = ((student - teacher).flatten(1) @ w.flatten()).mean()
    expected = scores + weight * (w.norm() - 1) ** 2
    for _ in range(3):
        value = loss.critic_loss(student, teacher)
        torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, loss.critic.weight)
    exact = (student - teacher).detach().mean(0) + weight * 2 * (w.norm() - 1) * w / w.norm()
    torch.testing.assert_close(gradient, exact)


def test_penalty_mixes_each_image_by_itself() -> None:
    """For d(x) = x²/2 the gradient is x̂ = εT + (1−ε)S, so that the penalty gives ε away."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square() / 2

    student, teacher = torch.full((200, 1), 2.0), torch.full((200, 1), 6.0)
    loss = AdversarialLoss(Square(), gradient_penalty=1.0)
    torch.manual_seed(3)
    value = loss.critic_loss(student, teacher)
    torch.manual_seed(3)
    epsilon = torch.rand(200, 1)
    mixed = epsilon * 6 + (1 - epsilon) * 2
    torch.testing.assert_close(value, 2.0 - 18.0 + (mixed - 1).square().mean())
    assert value.item() == pytest.approx(-16 + (5**3 - 1) / 12, rel=0.1)  # E over ε ~ U(0,1)


def test_penalty_has_a_finite_derivative_at_zero_norm() -> None:
    loss = AdversarialLoss(Linear(torch.zeros(6)))
    student, teacher = maps(2, 6, dtype=torch.float32)
    value = loss.critic_loss(student, teacher)
    assert value.item() == pytest.approx(10.0, rel=1e-5)  # λ (0 − 1)²
    value.backward()
    torch.testing.assert_close(loss.critic.weight.grad, (student - teacher).detach().mean(0))


def test_a_critic_sees_the_probabilities_of_a_sigmoid_head() -> None:
    student, teacher = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.0]])
    loss = AdversarialLoss(Linear(torch.tensor([1.0, 10.0])), 'hinge', activation='sigmoid')
    q_s, q_t = (
        sum(w / (1 + math.exp(-v)) for w, v in zip((1.0, 10.0), x[0].tolist(), strict=True))
        for x in (student, teacher)
    )
    assert loss(student, teacher).item() == pytest.approx(-q_s, rel=1e-6)
    assert loss.critic_loss(student, teacher).item() == pytest.approx(
        max(1 - q_t, 0) + 1 + q_s, rel=1e-6
    )


@pytest.mark.parametrize('activation', [None, 'softmax', 'sigmoid'])
@pytest.mark.parametrize('mode', MODES)
def test_gradcheck(mode: str, activation: str | None) -> None:
    loss = AdversarialLoss(SMALL, mode, activation=activation).double().eval()
    nn.init.constant_(loss.critic.blocks[2].gamma, 0.5)
    student, teacher = maps(2, 3, 8, 8)
    weight = loss.critic.score.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student, fast_mode=True)

    def critic_loss(w: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same ε
        critic = loss.critic
        loss.critic = _WithWeight(critic, w)
        try:
            return loss.critic_loss(student, teacher)
        finally:
            loss.critic = critic

    assert torch.autograd.gradcheck(critic_loss, weight)


class _WithWeight(nn.Module):
    def __init__(self, critic: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.inner, self.weight = [critic], weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.inner[0].blocks(x), self.weight, self.inner[0].score.bias)


@pytest.mark.parametrize('mode', MODES)
def test_gradients_stay_on_their_side(mode: str) -> None:
    loss = AdversarialLoss(SMALL, mode)
    frozen = loss.critic.score.bias.requires_grad_(False)
    student, teacher = maps(2, 3, 8, 8, dtype=torch.float32)
    teacher.requires_grad_()
    before = [p.requires_grad for p in loss.parameters()]
    loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert all(p.grad is None for p in loss.parameters())
    assert [p.requires_grad for p in loss.parameters()] == before
    assert not frozen.requires_grad
    student.grad = None
    loss.critic_loss(student, teacher).backward()
    assert student.grad is None
    assert teacher.grad is None
    assert all(p.grad is not None for p in loss.parameters() if p.requires_grad)


def test_the_critic_is_unfrozen_after_an_error() -> None:
    loss = AdversarialLoss(SMALL)
    with pytest.raises(ValueError, match='at least 8×8'):
        loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    assert all(p.requires_grad for p in loss.parameters())


def test_softmax_is_what_the_critic_sees() -> None:
    student, teacher = maps(2, 3, 4, 4)
    critic = pixel_critic()
    for mode in MODES:
        torch.manual_seed(1)
        value = AdversarialLoss(critic, mode, activation='softmax').critic_loss(student, teacher)
        torch.manual_seed(1)
        expected = AdversarialLoss(critic, mode).critic_loss(student.softmax(1), teacher.softmax(1))
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize('mode', MODES)
def test_loss_weight_scales_both_values(mode: str) -> None:
    student, teacher = maps(2, 3, 4, 4)
    critic = pixel_critic()
    for name in ('forward', 'critic_loss'):
        torch.manual_seed(1)
        one = getattr(AdversarialLoss(critic, mode), name)(student, teacher)
        torch.manual_seed(1)
        tenth = getattr(AdversarialLoss(critic, mode, loss_weight=0.1), name)(student, teacher)
        torch.testing.assert_close(tenth, one / 10)


@pytest.mark.parametrize('mode', MODES)
def test_autocast_changes_nothing_and_half_precision_is_widened(mode: str) -> None:
    loss = AdversarialLoss(SMALL, mode).eval()
    student, teacher = (x.detach().bfloat16() for x in maps(2, 3, 8, 8))
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            values.append((loss(student, teacher), loss.critic_loss(student, teacher)))
    torch.manual_seed(1)
    values.append(
        (loss(student.float(), teacher.float()), loss.critic_loss(student.float(), teacher.float()))
    )
    assert values[0] == values[1] == values[2]
    assert values[0][0].dtype == torch.float32


def test_the_critic_loss_is_also_a_value_without_gradients() -> None:
    loss = AdversarialLoss(SMALL).eval()
    student, teacher = maps(2, 3, 8, 8, dtype=torch.float32)
    torch.manual_seed(1)
    expected = loss.critic_loss(student, teacher)
    torch.manual_seed(1)
    with torch.no_grad():
        value = loss.critic_loss(student, teacher)
    assert value == expected
    assert not value.requires_grad


# ---- masks ----


@pytest.mark.parametrize('mode', ['hinge', 'lsgan', 'bce'])
def test_mask_averages_valid_scores(mode: str) -> None:
    student, teacher = maps(2, 3, 4, 4)
    mask = torch.rand(2, 4, 4) > 0.5
    critic = pixel_critic()
    loss = AdversarialLoss(critic, mode)
    d_s, d_t = (critic(x)[:, 0][mask].tolist() for x in (student, teacher))
    assert loss(student, teacher, mask=mask).item() == pytest.approx(
        sum(map(GENERATOR[mode], d_s)) / len(d_s)
    )
    expected = (sum(map(REAL[mode], d_t)) + sum(map(FAKE[mode], d_s))) / len(d_s)
    assert loss.critic_loss(student, teacher, mask=mask).item() == pytest.approx(expected)


def test_mask_in_the_penalty() -> None:
    """A critic that weighs each place by w has a gradient of ‖w‖·√(valid places); an empty image
    does not count.
    """
    critic = nn.Conv2d(3, 1, 1, bias=False).double()
    w = critic.weight.detach().flatten()
    student, teacher = maps(3, 3, 2, 2)
    mask = torch.tensor([[[1, 1], [1, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    difference = (torch.einsum('nchw,c->nhw', student - teacher, w))[mask].mean()
    penalty = sum((w.norm() * math.sqrt(k) - 1) ** 2 for k in (3, 1)) / 2
    value = AdversarialLoss(critic).critic_loss(student, teacher, mask=mask)
    torch.testing.assert_close(value, difference + 10 * penalty)


def test_mask_of_samples() -> None:
    student, teacher = maps(3, 4)
    mask = torch.tensor([True, False, True])
    loss = AdversarialLoss(Linear(torch.randn(4, dtype=torch.float64)))
    for name in ('forward', 'critic_loss'):
        torch.testing.assert_close(
            getattr(loss, name)(student, teacher, mask=mask),
            getattr(loss, name)(student[mask], teacher[mask]),
        )


def test_mask_is_resized_by_nearest_to_the_scores() -> None:
    student, teacher = maps(1, 3, 4, 4)
    critic = nn.AvgPool2d(2)  # 2×2 scores
    loss = AdversarialLoss(nn.Sequential(nn.Conv2d(3, 1, 1).double(), critic), 'hinge')
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 2:, :2] = True
    expected = -loss.critic(student * mask)[0, 0, 1, 0]
    torch.testing.assert_close(loss(student, teacher, mask=mask), expected)


@pytest.mark.parametrize('activation', [None, 'softmax'])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(
    bad: float, mode: str, activation: str | None
) -> None:
    student, teacher = maps(2, 3, 4, 4)
    mask = torch.rand(2, 4, 4) > 0.4
    loss = AdversarialLoss(pixel_critic(), mode, activation=activation)

    def run(fill: float) -> list[Tensor]:
        torch.manual_seed(1)
        s = student.detach().masked_fill(~mask[:, None], fill).requires_grad_()
        t = teacher.masked_fill(~mask[:, None], fill)
        value, critic_value = loss(s, t, mask=mask), loss.critic_loss(s, t, mask=mask)
        return [
            value,
            critic_value,
            *torch.autograd.grad(value, s),
            *torch.autograd.grad(
                critic_value, list(loss.parameters()), allow_unused=True, materialize_grads=True
            ),
        ]

    clean, dirty = run(5.0), run(bad)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert (dirty[2].movedim(1, -1)[~mask] == 0).all()


@pytest.mark.parametrize('mode', MODES)
def test_an_empty_mask_gives_exactly_zero_with_zero_gradient(mode: str) -> None:
    student, teacher = maps(2, 3, 4, 4)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    loss = AdversarialLoss(pixel_critic(), mode)
    value, critic_value = (
        loss(student, teacher, mask=mask),
        loss.critic_loss(student, teacher, mask=mask),
    )
    assert value.item() == critic_value.item() == 0
    gradients = torch.autograd.grad(value, student) + torch.autograd.grad(
        critic_value, list(loss.parameters()), allow_unused=True, materialize_grads=True
    )
    assert all((g == 0).all() for g in gradients)


# ---- building ----


def test_the_default_critic_is_built_when_the_maps_are_known() -> None:
    loss = AdversarialLoss()
    assert loss.critic is None
    assert not list(loss.parameters())
    x = torch.randn(2, 5, 16, 32)
    with pytest.raises(
        RuntimeError, match=r'HolisticCritic is not built.*Mend: critic=dict\(type=…, in_channels'
    ):
        loss(x, x)
    loss.build(torch.zeros(1, 5, 16, 32), image=torch.zeros(1, 3, 64, 128))
    assert loss.critic(x, torch.randn(2, 3, 64, 128)).shape == (2, 1, 1, 5)
    assert any(k.startswith('critic.') for k in loss.state_dict())
    assert loss(x, x, image=torch.randn(2, 3, 64, 128)).isfinite()
    with pytest.raises(ValueError, match=r"got none; mend: reads=dict\(image='batch.inputs'\)"):
        loss(x, x)


def test_what_the_config_says_stands() -> None:
    loss = AdversarialLoss(dict(type='HolisticCritic', channels=(8, 16), input_norm='bn'))
    loss.build(torch.zeros(1, 5, 64, 64))
    assert loss.critic.image_channels == 0
    assert loss.critic.score.in_channels == 16
    assert isinstance(loss.critic.input_norm, nn.BatchNorm2d)


def test_a_critic_that_needs_no_channels_is_built_at_once() -> None:
    @MODELS.register_module(force=True)
    class CriticOfMeans(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).mean(1, keepdim=True)

    student = torch.full((2, 3), 4.0)
    assert AdversarialLoss(dict(type='CriticOfMeans'))(student, student).item() == -4
    assert AdversarialLoss(dict(type=CriticOfMeans))(student, student).item() == -4


# ---- refusals ----


def test_a_critic_without_second_derivative_is_refused_in_wgan_gp() -> None:
    student, teacher = maps(2, 3, 8, 16, dtype=torch.float32)
    with pytest.raises(
        RuntimeError,
        match=r"mode='wgan-gp' differentiates the critic twice, and FusedAttention cannot "
        r"be .*mend: mode='hinge', or write its attention with matmul",
    ):
        AdversarialLoss(FusedAttention()).critic_loss(student, teacher)
    loss = AdversarialLoss(FusedAttention(), 'hinge')
    loss.critic_loss(student, teacher).backward()
    assert loss.critic.layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'mode': 'wgan'}, "mode must be one of .*did you mean 'wgan-gp'"),
        ({'activation': 'relu'}, "activation must be one of .*got 'relu'"),
        ({'gradient_penalty': 0}, 'gradient_penalty must be a finite number above 0, got 0'),
        (
            {'mode': 'bce', 'sigmoid': True},
            "mode='bce' takes raw scores .* got sigmoid=True; mend: sigmoid=False",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialLoss(nn.Flatten(), **options)


@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_inputs_that_do_not_fit(name: str) -> None:
    x = torch.zeros(2, 3, 8, 8)
    call = getattr(AdversarialLoss(SMALL), name)
    with pytest.raises(
        ValueError,
        match=r'differ: student \(2, 3, 8, 8\), teacher \(2, 3, 4, 4\); mend: connectors',
    ):
        call(x, x[..., :4, :4])
    with pytest.raises(
        ValueError, match=r'needs maps \(N, C, H, W\) or \(N, C\), got student \(2, 3, 8\)'
    ):
        call(x[..., 0], x[..., 0])
    with pytest.raises(
        ValueError,
        match='labels were given, but critic HolisticCritic has no category outputs; mend',
    ):
        call(x, x, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(
        ValueError,
        match=r'mask was given, but critic HolisticCritic has no spatial output: one score '
        r'\(2, 1, 1, 1\) for the whole map \(2, 3, 8, 8\); mend: drop the mask',
    ):
        call(x, x, mask=torch.ones(2, 8, 8, dtype=torch.bool))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        call(x, x, mask=torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="activation='softmax' over a single channel is always 1"):
        getattr(AdversarialLoss(SMALL, activation='softmax'), name)(x[:, :1], x[:, :1])
    with pytest.raises(
        ValueError,
        match=r'Conv2d must return scores \(N, 1, h, w\) or \(N, 1\), got \(2, 2, 8, 8\)',
    ):
        getattr(AdversarialLoss(nn.Conv2d(3, 2, 1)), name)(x, x)
