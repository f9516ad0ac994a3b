"""AdversarialLoss(positions=…): a critic of single positions sees a drawn sample of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, CategoryCritic
from mmkd.losses.adversarial.critic_terms import draw_positions

C = 3


class Pointwise(nn.Module):
    """Scores and categories of vectors (P, C) or maps, every position by itself."""

    pointwise = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(C, 4), nn.Tanh(), nn.Linear(4, 1 + C)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.movedim(1, -1)).movedim(-1, 1)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, teacher = torch.randn(2, 2, C, 3, 4, dtype=torch.float64)
    mask = torch.rand(2, 3, 4) > 0.3
    labels = torch.randint(0, C, (2, 3, 4)).masked_fill(~mask, 255)
    return student.requires_grad_(), teacher, labels, mask


def losses(positions: int | None, mode: str = 'bce', **options: float) -> AdversarialLoss:
    torch.manual_seed(7)
    return AdversarialLoss(Pointwise(), mode, positions=positions, **options)


@pytest.mark.parametrize('mode', ['bce', 'hinge', 'lsgan'])
@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_as_many_positions_as_there_are_give_the_whole_map(
    mode: str, name: str, batch: tuple
) -> None:
    student, teacher, labels, mask = batch
    valid = int(mask.sum())
    whole, drawn, more = (
        getattr(losses(n, mode), name)(student, teacher, labels=labels, mask=mask)
        for n in (None, valid, 1000)
    )
    torch.testing.assert_close(drawn, whole)
    torch.testing.assert_close(more, whole)
    unmasked = labels.masked_fill(~mask, 0)
    torch.testing.assert_close(
        *(
            getattr(losses(n, mode), name)(student, teacher, labels=unmasked)
            for n in (None, mask.numel())
        )
    )


@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_the_mean_over_many_draws_is_the_whole_map(name: str, batch: tuple) -> None:
    student, teacher, labels, mask = batch
    whole = getattr(losses(None), name)(student, teacher, labels=labels, mask=mask).item()
    loss = losses(5)
    with torch.no_grad():
        values = torch.stack(
            [getattr(loss, name)(student, teacher, labels=labels, mask=mask) for _ in range(3000)]
        )
    error = float(values.std()) / 3000**0.5
    assert error > 0
    assert abs(float(values.mean()) - whole) < 4 * error


def test_one_position_by_hand_and_its_gradient(batch: tuple) -> None:
    """With a single valid place the loss is softplus(−d) + CE there, and every other place gets no
    gradient.
    """
    student, teacher, labels, _ = batch
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, 2, 0], labels[1, 2, 0] = True, 2
    loss = losses(1)
    scores = loss.critic(student)[1, :, 2, 0]
    expected = F.softplus(-scores[0]) + F.cross_entropy(scores[None, 1:], torch.tensor([2]))
    value = loss(student, teacher, labels=labels, mask=mask)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, student)
    assert (gradient.movedim(1, -1)[mask] != 0).all()
    assert (gradient.movedim(1, -1)[~mask] == 0).all()


def test_the_same_valid_places_of_student_teacher_and_labels() -> None:
    x = torch.arange(2 * 6.0).view(2, 1, 2, 3)
    mask = x[:, 0] % 3 > 0
    student, teacher, labels, valid = draw_positions(6, x, x + 100, x[:, 0].long() + 7, mask)
    assert (student % 3 > 0).all()
    assert valid.all()
    assert len(student.unique()) == 6
    torch.testing.assert_close(teacher, student + 100)
    torch.testing.assert_close(labels, student[:, 0].long() + 7)
    *_, valid = draw_positions(10, x, x, None, mask)  # 8 valid ones, two more do not count
    assert int(valid.sum()) == 8
    first, second = (draw_positions(3, x, x)[0] for _ in range(2))
    torch.manual_seed(0)
    one = draw_positions(3, x, x)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(draw_positions(3, x, x)[0], one)
    assert not all(torch.equal(one, other) for other in (first, second))


def test_labels_of_the_images_size_are_resized_first() -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    labels = torch.arange(16).view(1, 4, 4)  # nearest reads rows and columns 0 and 2
    student, _, drawn, _ = draw_positions(4, x, x, labels)
    assert dict(zip(student[:, 0].tolist(), drawn.tolist(), strict=True)) == {
        0.0: 0,
        1.0: 2,
        2.0: 8,
        3.0: 10,
    }


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_masked_is_not_shown(bad: float, batch: tuple) -> None:
    student, teacher, labels, mask = batch
    loss = AdversarialLoss(
        CategoryCritic(C, channels=(6, 5)), 'bce', positions=40, adversarial_sample=0.5
    ).double()
    values = []
    for fill in (5.0, bad):
        s = student.detach().masked_fill(~mask[:, None], fill).requires_grad_()
        torch.manual_seed(1)
        value = loss(s, teacher, labels=labels, mask=mask)
        values.append([value, *torch.autograd.grad(value, s)])
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=0)


def test_nothing_valid_is_exactly_zero_with_zero_gradient(batch: tuple) -> None:
    student, teacher, labels, mask = batch
    loss, none = losses(5), torch.zeros_like(mask)
    value, critic_value = (
        f(student, teacher, labels=labels, mask=none) for f in (loss, loss.critic_loss)
    )
    assert value.item() == critic_value.item() == 0
    gradients = torch.autograd.grad(value, student) + torch.autograd.grad(
        critic_value, list(loss.parameters())
    )
    assert all((g == 0).all() for g in gradients)


def test_a_category_critic_says_of_vectors_what_it_says_of_maps() -> None:
    critic = CategoryCritic(C, channels=(6, 5)).double()
    x = torch.randn(2, C, 3, 4, dtype=torch.float64)
    of_map = critic(x)
    torch.testing.assert_close(
        critic(x.movedim(1, -1).flatten(0, 2)), of_map.movedim(1, -1).flatten(0, 2)
    )


class Image(nn.Flatten):
    pointwise = True


@pytest.mark.parametrize('name', ['forward', 'critic_loss'])
def test_critics_that_cannot_score_vectors(name: str, batch: tuple) -> None:
    student, teacher, *_ = batch
    mend = 'mend: positions=None, or CategoryCritic'
    with pytest.raises(
        ValueError, match=rf'positions=5 shows single vectors, but Flatten is no critic.*{mend}'
    ):
        getattr(AdversarialLoss(nn.Flatten(), positions=5), name)(student, teacher)
    with pytest.raises(ValueError, match=rf'or gets an image \(True\); {mend}'):
        getattr(AdversarialLoss(Image(), positions=5), name)(
            student, teacher, image=torch.zeros(2, 3, 6, 8)
        )


@pytest.mark.parametrize('positions', [0, -1, 2.5, True])
def test_positions_are_counted(positions: object) -> None:
    with pytest.raises(
        ValueError, match=f'positions must be a whole number of at least 1, got {positions}'
    ):
        AdversarialLoss(nn.Flatten(), positions=positions)
