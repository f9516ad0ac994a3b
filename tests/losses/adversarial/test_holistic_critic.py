"""HolisticCritic: sizes, parameters, attention, conditions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkd.losses.adversarial.holistic_critic import HolisticCritic, SelfAttention2d
from mmkd.registry import build_part

SMALL = (8, 8, 16, 16)


def conv(fan_in: int, fan_out: int, kernel: int) -> int:
    return fan_in * fan_out * kernel**2 + fan_out


def attention(channels: int) -> int:
    return 2 * conv(channels, channels // 8, 1) + conv(channels, channels, 1) + 1


@pytest.mark.parametrize(
    ('image_channels', 'input_norm', 'expected'),
    [
        (0, 'bn', 3_191_721),  # the authors' later code
        (0, 'none', 3_191_683),
        (3, 'none', 3_194_755),  # 3 · 64 · 16 more
    ],
)
def test_parameters_of_the_authors_setting(
    image_channels: int, input_norm: str, expected: int
) -> None:
    critic = HolisticCritic(19, image_channels, (65, 65), input_norm=input_norm)
    by_hand = (
        conv(19 + image_channels, 64, 4)
        + conv(64, 128, 4)
        + conv(128, 256, 4)
        + conv(256, 512, 4)
        + attention(256)
        + attention(512)
        + conv(512, 1, 4)
        + (38 if input_norm == 'bn' else 0)
    )
    assert by_hand == expected
    assert sum(p.numel() for p in critic.parameters()) == expected


@pytest.mark.parametrize(
    ('size', 'scores', 'blocks'),
    [
        ((64, 64), (1, 1), 4),
        ((65, 65), (1, 1), 4),
        ((128, 128), (5, 5), 4),
        ((64, 128), (1, 5), 4),
        ((90, 120), (2, 4), 4),
        ((63, 64), (4, 5), 3),
        ((32, 32), (1, 1), 3),
        ((16, 16), (1, 1), 2),
        ((15, 15), (4, 4), 2),
        ((8, 8), (1, 1), 2),
        ((4, 4), (1, 1), 2),
        ((7, 5), (4, 2), 2),
    ],
)
def test_size_of_the_scores_and_number_of_blocks(size: tuple, scores: tuple, blocks: int) -> None:
    critic = HolisticCritic(5, 0, size, SMALL)
    assert critic(torch.zeros(2, 5, *size)).shape == (2, 1, *scores)
    assert sum(isinstance(m, nn.LeakyReLU) for m in critic.modules()) == blocks
    assert sum(isinstance(m, SelfAttention2d) for m in critic.modules()) == 2
    kinds = [type(m).__name__ for m in critic.blocks][
        -6:
    ]  # attention after each of the last two blocks
    assert [k for k in kinds if k != 'ParametrizedConv2d'] == ['LeakyReLU', 'SelfAttention2d'] * 2


def test_scores_equal_a_plain_network_with_normalised_weights() -> None:
    """At gamma = 0 the attention is the identity; spectral norm divides each weight by its largest
    singular value.
    """
    critic = HolisticCritic(3, 0, (16, 16), SMALL).double()
    for _ in range(200):
        critic(
            torch.randn(1, 3, 16, 16, dtype=torch.float64)
        )  # each training call moves the estimate
    critic.eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    y = x
    for layer in critic.blocks:
        if isinstance(layer, nn.Conv2d):
            weight = layer.parametrizations.weight.original
            weight = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
            y = F.leaky_relu(F.conv2d(y, weight, layer.bias, 2, 1), 0.1)
    expected = F.conv2d(y, critic.score.weight, critic.score.bias)
    torch.testing.assert_close(critic(x), expected, rtol=1e-6, atol=1e-9)
    assert not hasattr(critic.score, 'parametrizations')


def test_attention_equals_a_loop_over_places() -> None:
    layer = SelfAttention2d(8).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # gamma starts at 0
    nn.init.constant_(layer.gamma, 0.7)
    q, k, v = (m(x)[0].flatten(1) for m in (layer.query, layer.key, layer.value))
    expected = x[0].flatten(1).clone()
    for i in range(6):
        weights = torch.stack([q[:, i] @ k[:, j] for j in range(6)]).softmax(0)
        expected[:, i] += 0.7 * sum(weights[j] * v[:, j] for j in range(6))
    torch.testing.assert_close(layer(x)[0].flatten(1), expected)


def test_attention_has_a_second_derivative() -> None:
    layer = SelfAttention2d(8).double()
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


def test_the_image_is_resized_and_seen() -> None:
    critic = HolisticCritic(5, size=(16, 16), channels=SMALL).eval()
    x, image = torch.randn(2, 5, 16, 16), torch.randn(2, 3, 64, 48)
    resized = F.interpolate(image, (16, 16), mode='bilinear', align_corners=True)
    assert torch.equal(critic(x, image), critic(x, resized))
    plain = HolisticCritic(8, 0, (16, 16), SMALL).eval()
    plain.load_state_dict(critic.state_dict())
    assert torch.equal(critic(x, image), plain(torch.cat([resized, x], 1)))
    assert not torch.equal(critic(x, image), critic(x, -image))


def test_input_norm_levels_scales_in_training() -> None:
    critic = HolisticCritic(5, 0, (16, 16), SMALL, 'bn').double()
    critic.blocks.eval()  # the estimate of the spectral norm stands still; the input norm trains
    x = torch.randn(4, 5, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(critic(x * 100 + 7), critic(x), rtol=1e-3, atol=1e-4)
    plain = HolisticCritic(5, 0, (16, 16), SMALL).double().eval()
    plain.load_state_dict(
        {k: v for k, v in critic.state_dict().items() if not k.startswith('input_norm')}
    )
    assert (plain(x * 100 + 7) - plain(x)).abs().max() > 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'size': (3, 64)},
            r'maps \(H, W\) of at least 4×4 .* got size=\(3, 64\); mend: read logits of a finer '
            r'stride',
        ),
        ({'size': ()}, r'needs maps \(H, W\) .* got size=\(\)'),
        ({'input_norm': 'batch'}, "input_norm must be one of .*got 'batch'"),
        ({'channels': (64, 100)}, r'multiples of 8 .* got \(64, 100\)'),
        ({'channels': (64,)}, r'at least two multiples of 8 .* got \(64,\)'),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_part(dict(type='HolisticCritic', in_channels=5, **options))


def test_inputs_that_do_not_fit() -> None:
    conditional, alone = (
        HolisticCritic(5, image_channels, (64, 64), SMALL) for image_channels in (3, 0)
    )
    x, image = torch.zeros(1, 5, 64, 64), torch.zeros(1, 3, 64, 64)
    with pytest.raises(
        ValueError, match=r"on the image but got none; mend: reads=dict\(image='batch.inputs'\)"
    ):
        conditional(x)
    with pytest.raises(
        ValueError, match=r'unconditional \(image_channels=0\) but got an image; mend: drop reads'
    ):
        alone(x, image)
    with pytest.raises(
        ValueError, match=r'of at least 64×64, got \(1, 5, 32, 64\); mend: build it with size'
    ):
        alone(x[:, :, :32])
    with pytest.raises(ValueError, match=r'got \(1, 5\)'):
        alone(x[..., 0, 0])
