"""MaskedGenerationLoss by value: what is left out, what is generated, and what is compared."""

import pytest
import torch
import torch.nn.functional as F
from references import masked_generation as reference
from torch import Tensor, nn

from mmkd.losses import MaskedGenerationLoss, masked_generation


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(2, 3, 4, 5), 2 * draw(2, 3, 4, 5, seed=1) + 1
POSITIONS = draw(2, 1, 4, 5, seed=2) > 0
CHANNELS = draw(2, 3, 1, 1, seed=4) > 0
MASK = torch.arange(40).view(2, 4, 5) % 3 != 1


def made(seed: int = 3, **options) -> MaskedGenerationLoss:
    """Return the loss with a generator of a seed."""
    loss = MaskedGenerationLoss(teacher_channels=3, **options).double()
    for k, parameter in enumerate(loss.parameters()):
        parameter.data.copy_(draw(*parameter.shape, seed=seed + k) / 3)
    return loss


def fixed(loss: MaskedGenerationLoss, kept: Tensor) -> MaskedGenerationLoss:
    loss.draw = lambda student: kept  # type: ignore[method-assign]
    return loss


# ---------------------------------------------------------------------- the formula


@pytest.mark.parametrize('per', ['position', 'channel'])
@pytest.mark.parametrize('fill', ['zero', 'token'])
@pytest.mark.parametrize('over', ['all', 'masked'])
def test_it_is_the_slow_loop(per: str, fill: str, over: str) -> None:
    """With masks and weights, each alone and together; a weight of 1 changes nothing."""
    if (over, per) == ('masked', 'channel'):
        return
    kept = POSITIONS if per == 'position' else CHANNELS
    assert kept.any()
    assert not kept.all()
    loss = fixed(made(per=per, fill=fill, over=over), kept)
    nets = [*loss.generator.parameters()]
    weight = draw(2, 4, 5, seed=9).relu()
    values = []
    for mask in (None, MASK):
        for given in (None, weight):
            found = loss(STUDENT, TEACHER, mask, given)
            slow = reference.masked_generation(
                STUDENT, TEACHER, nets, kept, loss.token, over, mask, given
            )
            assert found.item() == pytest.approx(slow, rel=1e-9)
            values.append(slow)
        whole = loss(STUDENT, TEACHER, mask)
        assert loss(STUDENT, TEACHER, mask, torch.ones(2, 4, 5)) == whole
    assert len({round(value, 6) for value in values}) == 4


def test_of_no_mask_it_is_fitnet_through_the_generator() -> None:
    loss = made(mask_ratio=0.0)
    expected = F.mse_loss(loss.generator(STUDENT), TEACHER)
    torch.testing.assert_close(loss(STUDENT, TEACHER), expected, rtol=1e-12, atol=0)
    assert loss.generator(STUDENT).shape == TEACHER.shape
    # and of nothing masked, what is masked is nothing
    assert made(mask_ratio=0.0, over='masked')(STUDENT, TEACHER) == 0
    same = masked_generation(TEACHER, TEACHER, nn.Identity(), torch.ones_like(POSITIONS))
    assert same == 0


def test_it_is_the_code_of_mgd_as_a_mean() -> None:
    """Torch's own: the sum over everything by N, divided by C·H·W."""
    loss = fixed(made(), POSITIONS)
    total = F.mse_loss(loss.generator(STUDENT * POSITIONS), TEACHER, reduction='sum') / 2
    torch.testing.assert_close(loss(STUDENT, TEACHER), total / (3 * 4 * 5), rtol=1e-12, atol=0)


@pytest.mark.parametrize('fill', ['zero', 'token'])
def test_what_is_masked_gets_no_gradient(fill: str) -> None:
    """Through a 1×1 net what is kept alone does."""
    net = nn.Conv2d(3, 3, 1).double()
    token = draw(3, seed=5).requires_grad_() if fill == 'token' else None
    student = STUDENT.clone().requires_grad_()
    value = masked_generation(student, TEACHER, net, POSITIONS, token)
    value.backward()
    dropped = (~POSITIONS).expand_as(student)
    assert (student.grad[dropped] == 0).all()
    assert (student.grad[~dropped] != 0).all()
    # an overflow is not hidden by a draw
    for bad in (torch.nan, torch.inf):
        spoilt = STUDENT.masked_fill(dropped, bad)
        assert masked_generation(spoilt, TEACHER, net, POSITIONS, token).isnan()
    if token is not None:
        assert token.grad.abs().min() > 0


def test_gradients_are_those_of_differences() -> None:
    """Of the student, the token and the generator, under mask and weight."""
    loss = fixed(made(fill='token', over='masked'), POSITIONS)
    weight = draw(2, 4, 5, seed=9).abs()
    names = [name for name, _ in loss.named_parameters()]
    assert names == ['token', *(f'generator.{k}.{kind}' for k in (0, 2) for kind in WEIGHTS)]

    def value(student: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(loss, state, (student, TEACHER, MASK, weight))

    given = [STUDENT.clone(), *(p.detach().clone() for p in loss.parameters())]
    assert torch.autograd.gradcheck(value, [x.requires_grad_() for x in given])


WEIGHTS = ('weight', 'bias')


# ---------------------------------------------------------------------- the draws


@pytest.mark.parametrize('per', ['position', 'channel'])
@pytest.mark.parametrize('ratio', [0.15, 0.75])
def test_the_share_that_is_masked_is_the_ratio(per: str, ratio: float) -> None:
    loss = MaskedGenerationLoss(ratio, per, teacher_channels=1)
    torch.manual_seed(0)
    kept = loss.draw(
        torch.zeros(4, 2000, 50, 50) if per == 'channel' else torch.zeros(4, 1, 50, 50)
    )
    assert kept.shape == ((4, 2000, 1, 1) if per == 'channel' else (4, 1, 50, 50))
    assert 1 - kept.double().mean().item() == pytest.approx(ratio, abs=0.02)
    assert not torch.equal(kept[0], kept[1]), 'each image has its own'


def test_draws_are_a_function_of_the_seed() -> None:
    """As ExactResumeHook sets it before each step; a ratio that a schedule sets is the next one."""
    loss = made()
    found = []
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        found.append(loss(STUDENT, TEACHER).item())
    assert found[0] == found[2] != found[1]
    loss.mask_ratio = 0.0
    assert loss(STUDENT, TEACHER) == made(mask_ratio=0.0)(STUDENT, TEACHER)
    loss.mask_ratio = 1.0
    with pytest.raises(ValueError, match='mask_ratio must be a number from 0 to below 1'):
        loss(STUDENT, TEACHER)


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize(('first', 'grid'), [(0, None), (1, None), (3, (4, 4)), (0, (2, 8))])
def test_tokens_are_a_map(first: int, grid: tuple[int, int] | None) -> None:
    """Those that stand before the patches are left out, of mask and weight too."""
    student, teacher = draw(2, 16 + first, 3), draw(2, 16 + first, 3, seed=1)
    mask, weight = draw(2, 16 + first, seed=2) > -1, draw(2, 16 + first, seed=3).abs()
    loss = made(mask_ratio=0.5, grid=grid)
    loss.build(student=student, teacher=teacher, mask=mask)
    height, width = grid or (4, 4)
    maps = [x[:, first:].mT.reshape(2, 3, height, width) for x in (student, teacher)]
    places = [x[:, first:].reshape(2, height, width) for x in (mask, weight)]
    values = []
    for given in ((student, teacher, mask, weight), (*maps, *places)):
        torch.manual_seed(0)
        values.append(loss(*given))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    spoilt = student.clone()
    spoilt[:, :first] = torch.nan
    torch.manual_seed(0)
    assert loss(spoilt, teacher, mask, weight) == values[0]


# ---------------------------------------------------------------------- its parts


def test_channels_that_are_left_out_are_found() -> None:
    loss = MaskedGenerationLoss(fill='token')
    with pytest.raises(RuntimeError, match='the generator is not built.* Mend: teacher_channels'):
        loss(STUDENT, TEACHER)
    assert loss.build(STUDENT, TEACHER) == 'generator of 3 channels and its token'
    assert loss.build(STUDENT, TEACHER) == ''
    assert MaskedGenerationLoss().build(STUDENT, TEACHER) == 'generator of 3 channels'
    said = MaskedGenerationLoss().build(draw(1, 10, 3), draw(1, 10, 3))
    assert said == 'generator of 3 channels, of tokens as a map of 3×3'
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        'token': (3,),
        'generator.0.weight': (3, 3, 3, 3),
        'generator.0.bias': (3,),
        'generator.2.weight': (3, 3, 3, 3),
        'generator.2.bias': (3,),
    }
    assert all(p.requires_grad for p in loss.parameters())
    assert isinstance(loss.generator[1], nn.ReLU)


def test_a_generator_that_learns_comes_near() -> None:
    """A student that is a linear function of the teacher is enough for it."""
    teacher = draw(4, 3, 6, 6, seed=7)
    student = torch.einsum('dc,nchw->ndhw', draw(3, 3, seed=8) + 2 * torch.eye(3), teacher)
    torch.manual_seed(0)
    loss = made(mask_ratio=0.25)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-10:]) / 10 < 0.55 * sum(values[:3]) / 3


def test_a_class_token_may_stand_on_one_side_alone() -> None:
    """It is no place: what is left of both is a map of 3×3."""
    loss = made(mask_ratio=0.0)
    student, teacher = draw(2, 9, 3), draw(2, 10, 3, seed=1)
    assert torch.equal(loss(student, teacher), loss(student, teacher[:, 1:]))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    for options, message in (
        (dict(mask_ratio=1.0), 'mask_ratio must be a number from 0 to below 1, got 1.0'),
        (dict(mask_ratio=-0.1), 'mask_ratio must be a number from 0'),
        (dict(per='pixel'), r"per must be one of \('position', 'channel'\)"),
        (dict(fill='noise'), 'fill must be one of'),
        (dict(over='kept'), 'over must be one of'),
        (dict(over='masked', per='channel'), "channels were; mend: per='position'"),
        (dict(grid=14), r'grid must be height and width, or None, got 14. Mend: grid='),
        (dict(grid=(0, 3)), 'grid must be a whole number of at least 1'),
        (dict(teacher_channels=0), 'teacher_channels must be a whole number'),
        (dict(loss_weight=0.0), 'loss_weight must be'),
    ):
        with pytest.raises(ValueError, match=message):
            MaskedGenerationLoss(**options)
    loss = made()
    for given, message in (
        ((STUDENT, TEACHER[:, :2]), 'masked generation needs maps .* of one shape'),
        ((STUDENT[:, :2], TEACHER[:, :2]), r'of 3 channels, got student \(2, 2, 4, 5\); mend'),
        ((STUDENT, TEACHER, MASK[:1]), 'mask must have the shape'),
        ((STUDENT, TEACHER, None, torch.ones(2, 3)), 'weight must have the shape'),
        ((STUDENT[:, :, 0, 0], TEACHER[:, :, 0, 0]), r'needs maps \(N, C, H, W\) or tokens'),
        ((draw(2, 7, 3), draw(2, 7, 3)), r'7 tokens are no map: grid=None; mend: grid=\(height'),
        ((draw(2, 9, 3), draw(2, 16, 3)), 'masked generation needs maps .* of one shape'),
        ((draw(2, 9, 3), draw(2, 9, 3), MASK[:, :, 0]), 'mask must have the shape'),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*given)
    with pytest.raises(ValueError, match=r'9 tokens are no map: grid=\(4, 4\)'):
        made(grid=(4, 4))(draw(2, 9, 3), draw(2, 9, 3))
    with pytest.raises(ValueError, match=r'25 tokens are no map: grid=\(4, 4\).*no more than 8'):
        made(grid=(4, 4))(draw(2, 25, 3), draw(2, 25, 3))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        loss(STUDENT, TEACHER, MASK.float())
    net = nn.Identity()
    with pytest.raises(TypeError, match='kept must be a bool tensor'):
        masked_generation(STUDENT, TEACHER, net, POSITIONS.float())
    with pytest.raises(ValueError, match='kept must be of positions .* mend: kept.unsqueeze'):
        masked_generation(STUDENT, TEACHER, net, POSITIONS[:, 0])
    with pytest.raises(ValueError, match="over='masked' compares the positions"):
        masked_generation(STUDENT, TEACHER, net, CHANNELS, over='masked')
    with pytest.raises(ValueError, match='what is generated needs maps'):
        masked_generation(STUDENT, TEACHER, nn.Conv2d(3, 4, 1).double(), POSITIONS)
