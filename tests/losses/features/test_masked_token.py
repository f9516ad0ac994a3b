"""MaskedTokenLoss by value: uniform masks, single places, weights, Dice, refusals."""

import pytest
import torch
import torch.nn.functional as F
from references.masked_token import masked_token as slow
from sklearn.exceptions import NotFittedError

from mmkd.losses import FeatureMatchingLoss, MaskedTokenLoss, masked_token
from mmkd.losses.features.mask_tokens import masks_of, overlap

GENERATOR = torch.Generator().manual_seed(3)
STUDENT, TEACHER = (
    scale * torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=GENERATOR) for scale in (1, 2)
)
TOKENS = torch.randn(4, 5, dtype=torch.float64, generator=GENERATOR)
WEIGHT = torch.rand(2, 3, 4, dtype=torch.float64, generator=GENERATOR)


def official(power: int = 2, eps: float = 1e-5) -> float:
    """Return the authors' formula: their code has power 2."""
    mask = torch.einsum('kc,nchw->nkhw', TOKENS, TEACHER).sigmoid()
    squares = (STUDENT - TEACHER).square().unsqueeze(1) * mask.pow(power).unsqueeze(2)
    return 0.5 * (squares.sum((3, 4)) / (mask.sum((2, 3)).unsqueeze(-1) + eps)).mean().item()


def test_it_is_the_authors_formula() -> None:
    assert masked_token(STUDENT, TEACHER, TOKENS, 2).item() == pytest.approx(official(), rel=1e-4)
    assert masked_token(STUDENT, TEACHER, TOKENS, 2).item() == pytest.approx(
        official(eps=0), rel=1e-12
    )
    assert masked_token(STUDENT, TEACHER, TOKENS).item() == pytest.approx(
        official(1, eps=0), rel=1e-12
    )


def test_a_uniform_mask_is_half_the_mean_square() -> None:
    """And under power 2 that times the mask."""
    half = F.mse_loss(STUDENT, TEACHER) / 2
    nothing = torch.zeros(7, 5, dtype=torch.float64)
    torch.testing.assert_close(masked_token(STUDENT, TEACHER, nothing), half)
    torch.testing.assert_close(masked_token(STUDENT, TEACHER, nothing, 2), half / 2)


def test_a_sharp_token_looks_at_one_place() -> None:
    teacher = torch.zeros(1, 1, 4, dtype=torch.float64) - 100
    teacher[..., 2] = 100
    student = teacher + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for power in (1, 2):
        value = masked_token(student, teacher, torch.ones(1, 1), power)
        assert value.item() == pytest.approx(9 / 2)
    # a token that looks nowhere: its weights are e⁻²⁰⁰ and less, and their shares still sum to 1
    value = masked_token(student - 300, teacher - 300, torch.ones(1, 1))
    assert value.item() == pytest.approx(9 / 2)


def test_one_token_is_feature_matching_under_its_weights() -> None:
    one = TOKENS[:1]
    weight = masks_of(TEACHER, one)[:1, 0]
    expected = FeatureMatchingLoss()(STUDENT[:1], TEACHER[:1], weight=weight) / 2
    torch.testing.assert_close(masked_token(STUDENT[:1], TEACHER[:1], one), expected)


@pytest.mark.parametrize('power', [1, 2])
def test_weights(power: int) -> None:
    plain = masked_token(STUDENT, TEACHER, TOKENS, power)
    ones = masked_token(STUDENT, TEACHER, TOKENS, power, weight=torch.ones(2, 3, 4))
    assert ones == plain
    mask = WEIGHT > 0.3
    value = masked_token(STUDENT, TEACHER, TOKENS, power, mask, WEIGHT)
    assert value.item() == pytest.approx(slow(STUDENT, TEACHER, TOKENS, power, mask, WEIGHT))
    torch.testing.assert_close(
        masked_token(STUDENT, TEACHER, TOKENS, power, mask),
        masked_token(STUDENT, TEACHER, TOKENS, power, weight=mask.double()),
    )
    # an image without weight is left out, whatever it holds
    none = WEIGHT.clone()
    none[1] = 0
    spoilt = STUDENT.clone()
    spoilt[1] = torch.nan
    torch.testing.assert_close(
        masked_token(spoilt, TEACHER, TOKENS, power, weight=none),
        masked_token(STUDENT[:1], TEACHER[:1], TOKENS, power, weight=WEIGHT[:1]),
    )


def test_tokens_of_any_order_are_the_same() -> None:
    torch.testing.assert_close(
        masked_token(STUDENT, TEACHER, TOKENS.flip(0)), masked_token(STUDENT, TEACHER, TOKENS)
    )


def test_overlap_is_the_mean_dice_of_pairs() -> None:
    masks = masks_of(TEACHER, TOKENS)
    expected = []
    for image in masks.flatten(2):
        for k, one in enumerate(image):
            expected += [
                (2 * (one * other).sum() / ((one**2).sum() + (other**2).sum())).item()
                for other in torch.cat([image[:k], image[k + 1 :]])
            ]
    assert overlap(masks).item() == pytest.approx(sum(expected) / len(expected))
    assert overlap(torch.ones(2, 3, 4)).item() == pytest.approx(1)
    assert overlap(torch.eye(3).view(1, 3, 3)) == 0
    assert overlap(torch.zeros(1, 2, 4)) == 0


def test_it_is_built_of_the_teachers_channels() -> None:
    loss = MaskedTokenLoss(num_tokens=3)
    with pytest.raises(RuntimeError, match=r'tokens are not built.*Mend: teacher_channels='):
        loss(STUDENT, TEACHER)
    assert loss.build(student=STUDENT, teacher=TEACHER) == '3 tokens of 5 channels'
    assert loss.build(student=STUDENT, teacher=TEACHER) == ''
    assert not loss.part.fitted
    with pytest.raises(
        NotFittedError, match=r"not fitted.*Mend: custom_hooks=\[dict.type='mmkd.Fi"
    ):
        loss(STUDENT, TEACHER)
    assert loss.stand_in(torch.Generator()) == 'random tokens here: training fits them first'
    assert loss.stand_in(torch.Generator()) == ''
    assert loss(STUDENT, TEACHER) > 0
    assert not list(loss.parameters())


@pytest.mark.bad_input
def test_what_it_refuses() -> None:
    for options, message in (
        (dict(num_tokens=0), 'num_tokens must be a whole number of at least 1, got 0'),
        (dict(teacher_channels=0), 'teacher_channels must be'),
        (dict(power=3), 'power must be one of'),
        (dict(fit=dict(steps=0)), 'steps of fit must be'),
        (dict(fit=dict(lr=0.0)), 'lr of fit must be'),
        (dict(fit=dict(dice=-1.0)), 'dice of fit must be'),
    ):
        with pytest.raises(ValueError, match=message):
            MaskedTokenLoss(**options)
    for options, message in (
        (dict(fit=dict(step=3)), "fit.*'step'.*steps"),
        (dict(fit=3), 'fit must be a dict'),
    ):
        with pytest.raises(TypeError, match=message):
            MaskedTokenLoss(**options)
    with pytest.raises(ValueError, match=r'tokens \(4, 3\) must be \(K, C\).*mend: the tap'):
        masked_token(STUDENT, TEACHER, TOKENS[:, :3])
    with pytest.raises(ValueError, match='masked tokens needs maps.*mend: connectors'):
        masked_token(STUDENT[:, :3], TEACHER, TOKENS)
    loss = MaskedTokenLoss(5, 4)
    state = loss.state_dict()
    state['tokens.tokens'] = TOKENS.float().index_fill(0, torch.tensor([1]), torch.nan)
    with pytest.raises(
        ValueError, match="the set of tokens 'tokens' of this checkpoint: 5 of its 20"
    ):
        loss.load_state_dict(state)
    loss.tokens.tokens.copy_(state['tokens.tokens'])
    with pytest.raises(ValueError, match='the set of tokens: 5 of its 20 numbers are NaN or Inf'):
        loss(STUDENT, TEACHER)
