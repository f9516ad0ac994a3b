"""AdversarialLoss with categories and regularisers: the adversarial loss of KSANC."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from references.ksanc import critic_losses
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, CategoryCritic
from mmkd.registry import build_part

C = 3


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def plain_critic() -> nn.Module:
    """A critic of logit maps without statistics: every position by itself."""
    return nn.Sequential(nn.Conv2d(C, 4, 1), nn.Tanh(), nn.Conv2d(4, 1 + C, 1)).double()


def ksanc(**options: float) -> AdversarialLoss:
    return AdversarialLoss(CategoryCritic(C, channels=(6, 5)), 'bce', **options).double()


def rows(scores: Tensor, mask: Tensor | None = None) -> list[list[float]]:
    scores = scores.movedim(1, -1)
    return (scores.reshape(-1, 1 + C) if mask is None else scores[mask]).tolist()


# ---- values ----


@pytest.mark.parametrize('regularised', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_the_equations_place_by_place(masked: bool, regularised: bool) -> None:
    l1, l2, sample = (0.01, 0.02, 0.3) if regularised else (0.0, 0.0, 0.0)
    loss = AdversarialLoss(plain_critic(), 'bce', l1=l1, l2=l2, adversarial_sample=sample)
    student, teacher = maps(2, C, 3, 4)
    labels, mask = torch.randint(0, C, (2, 3, 4)), torch.rand(2, 3, 4) > 0.4
    given = mask if masked else None
    names = labels.masked_fill(~mask, 255) if masked else labels
    places = labels[mask].tolist() if masked else labels.flatten().tolist()
    weights = torch.cat([p.detach().flatten() for p in loss.parameters()]).tolist()
    expected = critic_losses(
        rows(loss.critic(student), given),
        rows(loss.critic(teacher), given),
        places,
        weights,
        l1,
        l2,
        sample,
    )
    assert loss(student, teacher, labels=names, mask=given).item() == pytest.approx(
        expected[0], rel=1e-10
    )
    assert loss.critic_loss(student, teacher, labels=names, mask=given).item() == pytest.approx(
        expected[1], rel=1e-10
    )


def test_hand_values_of_vectors() -> None:
    """The logits are the scores: d = 0 and two categories with odds of 3 to 1."""
    x = torch.tensor([[0.0, math.log(3), 0.0]])
    loss = AdversarialLoss(nn.Flatten(), 'bce', adversarial_sample=2.0)
    for label, probability in ((0, 0.75), (1, 0.25)):
        labels = torch.tensor([label])
        assert loss(x, x, labels=labels).item() == pytest.approx(
            math.log(2) - math.log(probability), rel=1e-6
        )
        expected = 4 * math.log(2) - 2 * math.log(probability)
        assert loss.critic_loss(x, x, labels=labels).item() == pytest.approx(expected, rel=1e-6)


def test_norms_of_the_weights_by_hand() -> None:
    critic = nn.Linear(2, 1, bias=False)
    critic.weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    x = torch.zeros(5, 2)
    base = AdversarialLoss(critic, 'hinge').critic_loss(x, x).item()
    loss = AdversarialLoss(critic, 'hinge', l1=0.1, l2=0.01, loss_weight=2.0)
    assert loss.critic_loss(x, x).item() == pytest.approx(
        2 * (base + 0.1 * 7 + 0.01 * 25), rel=1e-6
    )
    (gradient,) = torch.autograd.grad(loss.critic_loss(x, x), critic.weight)
    torch.testing.assert_close(
        gradient, 2 * torch.tensor([[0.1 + 0.06, -0.1 - 0.08]])
    )  # it shrinks them
    assert loss(x, x).item() == 0  # they are none of the student's


@pytest.mark.parametrize('sample', [0.25, 1.0])
def test_the_adversarial_sample_keeps_the_critic_from_being_sure(sample: float) -> None:
    """The best D(S) is µ / (1 + µ): the critic's gradient vanishes there, and at 0 without the
    term.
    """
    best = math.log(sample)  # σ(ln µ) = µ / (1 + µ)
    score = nn.Parameter(torch.tensor([[best]], dtype=torch.float64))

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = score

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(
                x > 0, x.new_tensor(50.0), self.score
            )  # the teacher (1) is known, the student (0) learnt

    student, teacher = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for mu, sign in ((sample, 0.0), (2 * sample, -1.0), (0.0, 1.0)):
        loss = AdversarialLoss(Constant(), 'bce', adversarial_sample=mu)
        (gradient,) = torch.autograd.grad(loss.critic_loss(student, teacher), score)
        assert math.copysign(
            round(abs(gradient.item()), 12) and 1.0, gradient.item()
        ) == pytest.approx(sign)


def test_defaults_leave_the_plain_loss_as_it_was() -> None:
    student, teacher = maps(4, 2)
    critic = nn.Linear(2, 1).double()
    loss = AdversarialLoss(critic, 'bce')
    assert loss(student, teacher) == F.softplus(-critic(student)).mean()
    assert (
        loss.critic_loss(student, teacher)
        == F.softplus(-critic(teacher)).mean() + F.softplus(critic(student)).mean()
    )


# ---- signs ----


def test_each_step_moves_the_probabilities_the_right_way() -> None:
    """The student's step raises D(S) and P(y|S); the critic's lowers D(S), widens D(T) − D(S) and
    raises P(y).
    """
    student, teacher = maps(64, C)
    labels = torch.randint(0, C, (64,))
    loss = ksanc()
    critic = loss.critic

    def read() -> tuple[float, ...]:
        with torch.no_grad():
            fake, real = critic(torch.cat([student, teacher])).chunk(2)
            at = torch.arange(64), labels
            return (
                fake[:, 0].sigmoid().mean().item(),
                real[:, 0].sigmoid().mean().item(),
                fake[:, 1:].log_softmax(1)[at].mean().item(),
                real[:, 1:].log_softmax(1)[at].mean().item(),
            )

    before = read()
    (gradient,) = torch.autograd.grad(loss(student, teacher, labels=labels), student)
    with torch.no_grad():
        student -= 2 * gradient
    moved = read()
    assert moved[0] > before[0]
    assert moved[2] > before[2]
    gradients = torch.autograd.grad(
        loss.critic_loss(student, teacher, labels=labels), list(critic.parameters())
    )
    with torch.no_grad():
        for p, g in zip(critic.parameters(), gradients, strict=True):
            p -= 0.05 * g
    after = read()
    assert after[0] < moved[0]
    assert (
        after[1] - after[0] > moved[1] - moved[0]
    )  # at first both fall: nearly all outputs say "teacher"
    assert after[2] + after[3] > moved[2] + moved[3]


def test_parts_pull_where_they_should_one_by_one() -> None:
    """Without labels only D moves the student: its gradient is −(1 − D) ∂d."""
    student, teacher = maps(8, 2)
    critic = nn.Linear(2, 1).double()
    (gradient,) = torch.autograd.grad(AdversarialLoss(critic, 'bce')(student, teacher), student)
    expected = -(1 - critic(student).sigmoid()) * critic.weight / 8
    torch.testing.assert_close(gradient, expected.detach())


# ---- leaks, gradients, invariances ----


@pytest.mark.parametrize('shape', [(4, C), (2, C, 2, 3)])
def test_gradients_stay_on_their_side(shape: tuple[int, ...]) -> None:
    loss = ksanc(l1=0.1, l2=0.1, adversarial_sample=0.5)
    student, teacher = maps(*shape)
    teacher.requires_grad_()
    labels = torch.randint(0, C, (shape[0], *shape[2:]))
    loss(student, teacher, labels=labels).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert all(p.grad is None and p.requires_grad for p in loss.parameters())
    student.grad = None
    loss.critic_loss(student, teacher, labels=labels).backward()
    assert student.grad is None
    assert teacher.grad is None
    assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize('shape', [(4, C), (2, C, 2, 2)])
def test_gradcheck(shape: tuple[int, ...]) -> None:
    loss = ksanc(l1=0.1, l2=0.1, adversarial_sample=0.5)
    student, teacher = maps(*shape)
    labels = torch.randint(0, C, (shape[0], *shape[2:]))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels=labels), student)
    weight = loss.critic.layers[4].weight

    def critic_loss(w: Tensor) -> Tensor:
        return torch.func.functional_call(
            _CriticLoss(loss), {'loss.critic.layers.4.weight': w}, (student, teacher, labels)
        )

    assert torch.autograd.gradcheck(critic_loss, weight.detach().clone().requires_grad_())


class _CriticLoss(nn.Module):
    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self.loss.critic_loss(student, teacher, labels=labels)


@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_order_and_size_of_the_batch_do_not_matter(name: str) -> None:
    student, teacher = maps(4, C, 2, 3)
    labels, order = torch.randint(0, C, (4, 2, 3)), torch.tensor([2, 0, 3, 1])
    call = getattr(ksanc(adversarial_sample=0.5), name)
    expected = call(student, teacher, labels=labels)
    torch.testing.assert_close(call(student[order], teacher[order], labels=labels[order]), expected)
    tiled = [x.repeat(1, 1, 2, 2) for x in (student, teacher)]
    torch.testing.assert_close(call(*tiled, labels=labels.repeat(1, 2, 2)), expected)


def test_vectors_and_places_of_maps_are_one_thing() -> None:
    student, teacher = maps(6, C)
    labels, loss = torch.randint(0, C, (6,)), ksanc()
    as_maps = [x.T.reshape(1, C, 2, 3) for x in (student, teacher)]
    for name in ('forward', 'critic_loss'):
        torch.testing.assert_close(
            getattr(loss, name)(student, teacher, labels=labels),
            getattr(loss, name)(*as_maps, labels=labels.view(1, 2, 3)),
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    loss = ksanc(l1=0.1, l2=0.1, adversarial_sample=0.5).float()
    student, teacher = (x.detach().to(dtype) for x in maps(8, C))
    labels = torch.randint(0, C, (8,))
    for name in ('forward', 'critic_loss'):
        expected = getattr(loss, name)(student.float(), teacher.float(), labels=labels)
        with torch.autocast('cpu', torch.bfloat16):
            value = getattr(loss, name)(student, teacher, labels=labels)
        assert value.dtype == torch.float32
        assert value == expected


# ---- masks ----


@pytest.mark.parametrize(
    'critic', [plain_critic, lambda: CategoryCritic(C, channels=(6, 5)).double()]
)
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(bad: float, critic: object) -> None:
    student, teacher = maps(2, C, 3, 4)
    mask = torch.rand(2, 3, 4) > 0.4
    labels = torch.randint(0, C, (2, 3, 4))
    loss = AdversarialLoss(critic(), 'bce', adversarial_sample=0.5)

    def run(fill: float, label: int) -> list[Tensor]:
        s = student.detach().masked_fill(~mask[:, None], fill).requires_grad_()
        t, y = teacher.masked_fill(~mask[:, None], fill), labels.masked_fill(~mask, label)
        value, critic_value = (
            loss(s, t, labels=y, mask=mask),
            loss.critic_loss(s, t, labels=y, mask=mask),
        )
        return [
            value,
            critic_value,
            *torch.autograd.grad(value, s),
            *torch.autograd.grad(critic_value, list(loss.parameters())),
        ]

    clean, dirty = run(5.0, 0), run(bad, 255)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert (dirty[2].movedim(1, -1)[~mask] == 0).all()


def test_an_empty_mask_gives_exactly_zero_with_zero_gradient() -> None:
    student, teacher = maps(2, C, 2, 2)
    mask, labels = torch.zeros(2, 2, 2, dtype=torch.bool), torch.full((2, 2, 2), 255)
    loss = ksanc(adversarial_sample=0.5)
    value = loss(student, teacher, labels=labels, mask=mask)
    critic_value = loss.critic_loss(student, teacher, labels=labels, mask=mask)
    assert value.item() == critic_value.item() == 0
    gradients = torch.autograd.grad(value, student) + torch.autograd.grad(
        critic_value, list(loss.parameters())
    )
    assert all((g == 0).all() for g in gradients)


def test_labels_are_resized_by_nearest_to_the_scores() -> None:
    student, teacher = maps(1, C, 4, 4)
    loss = AdversarialLoss(nn.Sequential(plain_critic(), nn.AvgPool2d(2)), 'bce')
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, 0, 2], labels[:, 3, 3] = (
        1,
        2,
    )  # nearest reads rows and columns 0 and 2: the second is not seen
    scores = loss.critic(student)
    seen = torch.tensor([[[0, 1], [0, 0]]])
    expected = F.softplus(-scores[:, 0]).mean() + F.cross_entropy(scores[:, 1:], seen)
    torch.testing.assert_close(loss(student, teacher, labels=labels), expected)


# ---- building and refusals ----


def test_the_critic_is_built_for_the_classes_of_the_logits() -> None:
    loss = build_part(dict(type='AdversarialLoss', mode='bce', critic=dict(type='CategoryCritic')))
    student, teacher = (x.float() for x in maps(2, 11, 4, 4))
    assert (
        loss.build(student=student, teacher=teacher, labels=torch.zeros(2, 4, 4))
        == 'critic for maps (11, 4, 4)'
    )
    assert loss.critic.num_classes == 11
    assert loss.critic(student).shape == (2, 12, 4, 4)


@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_inputs_that_do_not_fit(name: str) -> None:
    student, teacher = torch.randn(2, 2, 11)
    labels = torch.tensor([3, 10])
    ten, eleven = (AdversarialLoss(CategoryCritic(n), 'bce') for n in (10, 11))
    with pytest.raises(
        ValueError,
        match=r'CategoryCritic is one of 10 channels, got logits \(\d, 11\); mend: in_chan',
    ):
        getattr(ten, name)(student, teacher, labels=labels)
    with pytest.raises(
        ValueError,
        match=r'labels hold the ids \[11\], but the critic has 11 categories \(0 … 10\); '
        r'mend: num_classes=… of the critic, or, .* reads=dict\(mask=',
    ):
        getattr(eleven, name)(student, teacher, labels=labels + 1)
    call = getattr(eleven, name)
    for ignored in (255, -100):
        with pytest.raises(
            ValueError, match=rf"ids \[{ignored}\], .* ignored, reads=dict\(mask='batch.valid'\)"
        ):
            call(student, teacher, labels=torch.full((2,), ignored))
    with pytest.raises(
        ValueError,
        match=r"got \(\d, 12\) for the map .*; mend: reads=dict\(labels='batch.labels'\) "
        'for its 11 categories',
    ):
        call(student, teacher)
    with pytest.raises(
        ValueError, match=r'labels \(\d, 4, 4\) do not fit the category scores \(\d, 11\); mend'
    ):
        call(student, teacher, labels=torch.zeros(2, 4, 4, dtype=torch.long))
    plain = AdversarialLoss(CategoryCritic(11, 0), 'bce')
    with pytest.raises(
        ValueError, match='critic CategoryCritic has no category outputs; mend: drop reads'
    ):
        getattr(plain, name)(student, teacher, labels=labels)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(l1=-1.0), 'l1 must be a finite number, 0 or above, got -1.0'),
        (dict(l2=float('nan')), 'l2 must be a finite number, 0 or above, got nan'),
        (
            dict(adversarial_sample=-0.1),
            'adversarial_sample must be a finite number, 0 or above, got -0.1',
        ),
        (
            dict(adversarial_sample=0.1, mode='hinge'),
            "a probability of mode='bce', got mode='hinge'; mend: mode='bce'",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialLoss(nn.Flatten(), **dict(mode='bce') | options)


@pytest.mark.parametrize('mode', ['bce', 'wgan-gp'])
def test_float64_stays_float64_under_a_critic_of_float32(mode: str) -> None:
    """The value is that of the critic in float64, up to float32's rounding of its weights, which
    are the same.
    """
    torch.manual_seed(0)
    loss = AdversarialLoss(
        critic=dict(type='CategoryCritic', in_channels=5), mode=mode, gradient_penalty=10.0
    )
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64).unbind()
    labels = torch.arange(6) % 5
    value = loss(student, teacher, labels=labels)
    torch.manual_seed(1)
    critic_value = loss.critic_loss(student, teacher, labels=labels)
    assert value.dtype == critic_value.dtype == torch.float64
    critic_value.backward()
    assert all(p.grad.dtype == torch.float32 for p in loss.critic.parameters())
    wide = copy.deepcopy(loss).double()
    torch.testing.assert_close(wide(student, teacher, labels=labels), value, rtol=1e-12, atol=0)
    torch.manual_seed(1)
    torch.testing.assert_close(
        wide.critic_loss(student, teacher, labels=labels), critic_value, rtol=1e-12, atol=0
    )
