"""CategoryCritic: layers, values, both statistics in one batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, CategoryCritic
from mmkd.registry import build_part


def plain(critic: CategoryCritic, x: Tensor) -> Tensor:
    """The figure by hand, in train mode: BN, FC, BN, ReLU, FC, BN, ReLU, FC."""
    for layer in critic.layers:
        if isinstance(layer, nn.BatchNorm2d):
            x = (x - x.mean(0)) / (
                x.var(0, unbiased=False) + layer.eps
            ).sqrt() * layer.weight + layer.bias
        elif isinstance(layer, nn.ReLU):
            x = x.clamp(min=0)
        else:
            x = F.linear(x, layer.weight.flatten(1), layer.bias)
    return x


def test_layers_are_those_of_the_figure() -> None:
    critic = CategoryCritic(10)
    kinds = [type(m).__name__ for m in critic.layers]
    assert kinds == [
        'BatchNorm2d',
        'Conv2d',
        'BatchNorm2d',
        'ReLU',
        'Conv2d',
        'BatchNorm2d',
        'ReLU',
        'Conv2d',
    ]
    norms = 2 * (10 + 128 + 256)
    assert sum(p.numel() for p in critic.parameters()) == norms + 11 * 128 + 129 * 256 + 257 * 11
    assert CategoryCritic(10, 0)(torch.zeros(3, 10)).shape == (3, 1)


def test_equals_the_figure_by_hand_for_vectors_and_at_every_place() -> None:
    critic = CategoryCritic(5, channels=(6, 7)).double()
    for p in critic.parameters():
        nn.init.normal_(p)
    x = torch.randn(12, 5, dtype=torch.float64)
    torch.testing.assert_close(critic(x), plain(critic, x))
    places = x.view(2, 2, 3, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        critic(places), plain(critic, x).view(2, 2, 3, 6).permute(0, 3, 1, 2)
    )


def test_joint_statistics_keep_a_scale_that_separate_ones_hide() -> None:
    """A student that is the teacher at a tenth of its scale: after BatchNorm of each side alone
    they are the same.
    """
    critic = CategoryCritic(5, channels=(8, 8)).double()
    teacher = torch.randn(64, 5, dtype=torch.float64)
    student = teacher / 10
    torch.testing.assert_close(critic(student), critic(teacher), atol=5e-2, rtol=5e-2)
    fake, real = critic(torch.cat([student, teacher])).chunk(2)
    assert (fake - real).abs().max() > 0.2
    loss = AdversarialLoss(critic, 'bce')
    labels = torch.randint(0, 5, (64,))
    expected = F.softplus(-fake[:, 0]).mean() + F.cross_entropy(fake[:, 1:], labels)
    torch.testing.assert_close(loss(student, teacher, labels=labels), expected)
    expected = (
        F.softplus(-real[:, 0]).mean()
        + F.softplus(fake[:, 0]).mean()
        + F.cross_entropy(real[:, 1:], labels)
        + F.cross_entropy(fake[:, 1:], labels)
    )
    torch.testing.assert_close(loss.critic_loss(student, teacher, labels=labels), expected)


def test_errors() -> None:
    for classes in (10, 12):  # a critic for 10 classes on 11
        with pytest.raises(
            ValueError,
            match='a critic of logits of 11 classes names as many, or none, got '
            f'num_classes={classes}; mend: leave num_classes out',
        ):
            CategoryCritic(11, num_classes=classes)
    with pytest.raises(
        ValueError,
        match=r'is one of 10 channels, got logits \(2, 11\); mend: in_channels=11, or none',
    ):
        CategoryCritic(10)(torch.zeros(2, 11))
    with pytest.raises(ValueError, match='got an image; mend: drop reads'):
        CategoryCritic(3)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8))
    for options, message in (
        (dict(num_classes=1), 'num_classes=1; mend: leave num_classes out, or 0'),
        (dict(num_classes=-1), 'num_classes must be a whole number of at least 0, got -1'),
        (dict(channels=(8,)), r'widths of the two hidden layers, got \(8,\)'),
    ):
        with pytest.raises(ValueError, match=message):
            build_part(dict(type='CategoryCritic', in_channels=4, **options))
