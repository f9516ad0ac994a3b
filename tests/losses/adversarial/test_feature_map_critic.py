"""FeatureMapCritic: its layers by hand, one score or one a place, both maps in one batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import AdversarialLoss, FeatureMapCritic
from mmkd.registry import build_part


def plain(critic: FeatureMapCritic, x: Tensor, stride: int) -> Tensor:
    """3×3 convolution, BatchNorm of the batch, LeakyReLU 0.2, 1×1 convolution."""
    conv, norm = critic.conv.conv, critic.conv.norm
    x = F.conv2d(x, conv.weight, conv.bias, stride, 1)
    if norm is not None:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(
            -1, 1, 1
        )
    x = x.clamp(min=0) + 0.2 * x.clamp(max=0)
    return (critic.score.weight.view(1, -1, 1, 1) * x).sum(
        1, keepdim=True
    ) + critic.score.bias.view(1, 1, 1, 1)


@pytest.mark.parametrize(
    ('size', 'stride', 'norm'), [((8, 8), 2, 'BN'), ((7, 9), 1, 'BN'), ((8, 12), 2, None)]
)
def test_equals_the_layers_by_hand(size: tuple[int, int], stride: int, norm: str | None) -> None:
    norm_cfg = None if norm is None else dict(type=norm)
    critic = FeatureMapCritic(3, size, channels=5, pooled=False, norm_cfg=norm_cfg).double()
    for p in critic.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(critic(x), plain(critic, x, stride))
    critic.pooled = True
    torch.testing.assert_close(critic(x), plain(critic, x, stride).mean((2, 3)))


def test_the_loss_of_afd_by_hand() -> None:
    """(1 − D(own))², and (1 − D(peer))² + D(own)², both maps in one batch."""
    critic = FeatureMapCritic(3, (8, 8), channels=4)
    own, peer = torch.randn(2, 3, 8, 8), 3 * torch.randn(2, 3, 8, 8) + 1
    loss = AdversarialLoss(critic, 'lsgan', sigmoid=True)
    fake, real = critic(torch.cat([own, peer])).sigmoid().chunk(2)
    torch.testing.assert_close(loss(own, peer), (1 - fake).square().mean())
    torch.testing.assert_close(
        loss.critic_loss(own, peer), (1 - real).square().mean() + fake.square().mean()
    )


def test_one_batch_keeps_a_scale_that_separate_ones_hide() -> None:
    critic = FeatureMapCritic(3, (8, 8), channels=8)
    torch.nn.init.normal_(critic.score.weight)
    peer = torch.randn(16, 3, 8, 8)
    own = peer / 10
    assert float((critic(own) - critic(peer)).detach().abs().max()) < 0.05
    fake, real = critic(torch.cat([own, peer])).chunk(2)
    assert float((fake - real).abs().max()) > 0.2


def test_a_mask_needs_scores_of_places() -> None:
    own, peer = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mask = torch.rand(2, 8, 8) > 0.5
    by_place = AdversarialLoss(
        FeatureMapCritic(3, (8, 8), pooled=False, norm_cfg=None), 'lsgan', sigmoid=True
    )
    dirty = own.masked_fill(~mask[:, None], float('nan'))
    assert by_place(dirty, peer, mask=mask) == by_place(own, peer, mask=mask)
    with pytest.raises(ValueError, match='critic FeatureMapCritic has no spatial output'):
        AdversarialLoss(FeatureMapCritic(3, (8, 8)), 'lsgan', sigmoid=True)(own, peer, mask=mask)


def test_errors() -> None:
    with pytest.raises(
        ValueError, match=r'one of maps \(N, 4, H, W\), got \(2, 3, 8, 8\); mend: in_channels=3, or'
    ):
        FeatureMapCritic(4)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match='got an image; mend: drop reads'):
        FeatureMapCritic(4)(torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r'maps \(N, C, H, W\), got size=\(\). Mend: tap the feature map before'
    ):
        build_part(dict(type='FeatureMapCritic', in_channels=4, size=()))
    with pytest.raises(ValueError, match='channels must be a whole number of at least 1, got 0'):
        build_part(dict(type='FeatureMapCritic', in_channels=4, channels=0))
