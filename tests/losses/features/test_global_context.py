"""GlobalContextLoss by value: the authors' block, who trains it, what equal maps are, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.global_context import global_context as slow
from torch import Tensor, nn

from mmkd.losses import (
    ContextBlock,
    FocalFeatureLoss,
    GlobalContextLoss,
    focal_feature,
    global_context,
)

GENERATOR = torch.Generator().manual_seed(5)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


STUDENT, TEACHER = draw(2, 6, 3, 4), 2 * draw(2, 6, 3, 4)


def moved(module: nn.Module) -> Any:
    """Return a module whose numbers are drawn anew."""
    module = module.double()
    for parameter in module.parameters():
        parameter.data.copy_(draw(*parameter.shape) / 2)
    return module


def of_the_authors(x: Tensor, block: ContextBlock) -> Tensor:
    """Return what their spatial_pool and channel_add_conv add, (N, C, 1, 1), by convolutions."""
    n, c, h, w = x.shape
    scores = F.conv2d(x, block.attention.weight[:, :, None, None], block.attention.bias)
    attention = scores.view(n, 1, h * w).softmax(2).unsqueeze(-1)
    context = torch.matmul(x.view(n, 1, c, h * w), attention).view(n, c, 1, 1)
    first, norm, _, last = block.transform
    z = F.conv2d(context, first.weight[:, :, None, None], first.bias)
    scale, bias = (one.view(-1, 1, 1) for one in (norm.weight, norm.bias))
    z = F.layer_norm(z, [c // 2, 1, 1], scale, bias).relu()
    return F.conv2d(z, last.weight[:, :, None, None], last.bias)


@pytest.mark.parametrize('blocks', ['shared', 'two'])
def test_it_is_the_authors_sum(blocks: str) -> None:
    """MSELoss(reduction='sum') / N is C P times this mean."""
    loss = moved(GlobalContextLoss(blocks, 6))
    theirs = loss.ours if blocks == 'shared' else loss.theirs
    out_s = STUDENT + of_the_authors(STUDENT, loss.ours)
    out_t = TEACHER + of_the_authors(TEACHER, theirs)
    official = nn.MSELoss(reduction='sum')(out_s, out_t) / len(out_s)
    torch.testing.assert_close(6 * 12 * loss(STUDENT, TEACHER), official)


def test_by_hand() -> None:
    """One channel: a context is its transform of one number, whose norm is its bias alone."""
    block = ContextBlock(1).double()
    block.transform[1].bias.data.fill_(2.0)
    block.transform[3].weight.data.fill_(3.0)
    other = ContextBlock(1).double()
    student, teacher = torch.ones(1, 1, 2).double(), torch.tensor([[[5.0, 8.0]]]).double()
    # 1 + 6 against 5 and 8
    assert global_context(student, teacher, block, other).item() == pytest.approx((4 + 1) / 2)


def test_new_blocks_are_the_mean_square() -> None:
    for blocks in ('shared', 'two'):
        value = GlobalContextLoss(blocks, 6)(STUDENT, TEACHER)
        torch.testing.assert_close(value, F.mse_loss(STUDENT, TEACHER))


@pytest.mark.parametrize('blocks', ['shared', 'two'])
def test_equal_maps_are_at_no_distance(blocks: str) -> None:
    """At the start; of the shared block whatever it has learned, of two no longer."""
    loss = GlobalContextLoss(blocks, 6)
    assert loss(TEACHER, TEACHER) == 0
    value = moved(loss)(TEACHER, TEACHER)
    assert value == 0 if blocks == 'shared' else value > 1e-3


@pytest.mark.parametrize('blocks', ['shared', 'two'])
def test_the_blocks_learn_and_the_teacher_does_not(blocks: str) -> None:
    loss = moved(GlobalContextLoss(blocks, 6))
    for name, parameter in loss.named_parameters():
        if 'transform.1.bias' in name:
            parameter.data.fill_(3.0)  # so that no ReLU is 0
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    # of no use are a softmax's bias, and biases that both sides add
    both = {'transform.1.bias', 'transform.3.bias'} if blocks == 'shared' else set()
    dead = {'attention.bias'} | both
    for name, parameter in loss.named_parameters():
        learns = parameter.grad.abs().max() > 1e-12
        assert bool(learns) is (name.partition('.')[2] not in dead), name


def test_what_two_blocks_can_learn_is_the_difference_of_means() -> None:
    """Whatever they add, the deviations of each channel within an image are left."""
    deviations = [x - x.mean((2, 3), keepdim=True) for x in (STUDENT, TEACHER)]
    least = F.mse_loss(*deviations)
    for _ in range(3):
        assert moved(GlobalContextLoss('two', 6))(STUDENT, TEACHER) >= least


def test_masks_and_weights() -> None:
    """A place that does not count is in no context; a weight says how much it does."""
    mask = torch.rand(2, 3, 4, generator=GENERATOR) > 0.4
    weight = torch.rand(2, 3, 4, dtype=torch.float64, generator=GENERATOR)
    ours, theirs = moved(ContextBlock(6)), moved(ContextBlock(6))
    for given in (dict(mask=mask), dict(weight=weight), dict(mask=mask, weight=weight)):
        value = global_context(STUDENT, TEACHER, ours, theirs, **given)
        assert value.item() == pytest.approx(slow(STUDENT, TEACHER, ours, theirs, **given))
    mask[0] = False
    torch.testing.assert_close(
        global_context(STUDENT, TEACHER, ours, theirs, mask),
        global_context(STUDENT[1:], TEACHER[1:], ours, theirs, mask[1:]),
    )


def test_it_is_added_to_the_focal_part() -> None:
    loss = moved(FocalFeatureLoss(relation=3.0, teacher_channels=6, loss_weight=2.0))
    weight = torch.rand(2, 3, 4, dtype=torch.float64, generator=GENERATOR)
    expected = focal_feature(STUDENT, TEACHER, weight=weight) + 3 * loss.context(STUDENT, TEACHER)
    torch.testing.assert_close(loss(STUDENT, TEACHER, weight=weight), 2 * expected)
    assert not list(FocalFeatureLoss().parameters())
    assert FocalFeatureLoss().build(STUDENT, TEACHER) == ''


def test_it_builds_itself() -> None:
    loss = GlobalContextLoss('two')
    assert loss.build(student=STUDENT, teacher=TEACHER) == 'two context blocks of 6 channels'
    assert loss.build(student=STUDENT, teacher=TEACHER) == ''
    assert FocalFeatureLoss(relation=1.0).build(STUDENT, TEACHER) == 'a context block of 6 channels'


@pytest.mark.bad_input
def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"blocks must be one of \('shared', 'two'\), got 'one'"):
        GlobalContextLoss('one')
    with pytest.raises(ValueError, match="blocks must be one of .*got 'one'"):
        FocalFeatureLoss(blocks='one')
    with pytest.raises(ValueError, match='relation must be a finite number, 0 or above, got -1'):
        FocalFeatureLoss(relation=-1.0)
    with pytest.raises(RuntimeError, match='context blocks are not built.*Mend: teacher_channels'):
        GlobalContextLoss()(STUDENT, TEACHER)
    with pytest.raises(
        ValueError, match='are of 5 channels, got student .*mend: teacher_channels=6'
    ):
        GlobalContextLoss(teacher_channels=5)(STUDENT, TEACHER)
    with pytest.raises(ValueError, match='needs maps .* of places.*mend: a tap of maps'):
        GlobalContextLoss(teacher_channels=6)(STUDENT[:, :, 0, 0], TEACHER[:, :, 0, 0])
