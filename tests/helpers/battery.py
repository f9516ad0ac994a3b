"""What holds for every loss of a student and a teacher, whatever it compares: one proof a kind.

A new loss gets all of them for one row in ``tests/losses/test_battery.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.losses.base import snake_case

Compare = Callable[[Tensor, Tensor, Tensor | None], Any]
MAP = (0, 2, 3)  # the dimensions that a mask has, of (N, C, H, W)


@dataclass(frozen=True)
class Case:
    """A loss, and what the battery must know of it.

    Attributes:
        name: Of the row.
        function: The pure function of student, teacher and mask.
        reference: The slow loop from the equation, of the same three.
        module: What builds the Module of the same options; it takes ``loss_weight``.
        shape: Of the student.
        teacher: Of the teacher; as the student's unless given.
        masked: The dimensions of the student that a mask has; none where there is no mask.
        channels: The dimension that it has not, of the other shapes.
        rows: What is made of random numbers, such as a softmax.
        back: From rows to numbers that give them.
        same: The student at no distance from a teacher; the teacher itself unless given.
        tiles: How often each dimension of the student is repeated; the teacher's last ones too.
        exact: How far from zero a value or a gradient may be that is zero.
        shapes: Other shapes of the student, by the reference alone; a mask has all but channels.
        large: What numbers in half precision are multiplied by, so that sums are beyond float16.
        half: How far, relatively, a value of half precision may be from the reference.
        left_out: Kinds that do not hold, and why.
    """

    name: str
    function: Compare
    reference: Compare
    module: Callable[..., nn.Module]
    shape: tuple[int, ...] = (2, 5, 3, 4)
    teacher: tuple[int, ...] | None = None
    masked: tuple[int, ...] = MAP
    channels: int = 1
    rows: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    back: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    same: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    tiles: tuple[int, ...] = (2, 1, 3, 2)
    exact: float = 1e-15
    shapes: tuple[tuple[int, ...], ...] = ()
    large: float = 1.0
    half: float = 1e-5
    left_out: dict[str, str] = field(default_factory=dict)

    def draw(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return a student that learns and a teacher that does not."""
        generator = torch.Generator().manual_seed(1)
        student, teacher = (
            self.rows(torch.randn(shape, dtype=torch.float64, generator=generator) * scale)
            for shape, scale in ((self.shape, 1), (self.teacher or self.shape, 2))
        )
        return student.to(dtype).requires_grad_(), teacher.to(dtype)

    def others(self) -> Iterator['Case']:
        """Yield the case of each other shape."""
        for shape in self.shapes:
            stack = () if self.teacher is None else self.teacher[: -len(self.shape)]
            places = tuple(d for d in range(len(shape)) if d != self.channels % len(shape))
            teacher = None if self.teacher is None else (*stack, *shape)
            yield replace(self, shape=shape, teacher=teacher, masked=places)

    def of_shape(self, places: int | None = None, channels: int | None = None) -> 'Case':
        """Return the case with at most so many places along each axis, or so many channels."""
        axis = self.channels % len(self.shape)
        shape = [n if places is None else min(n, places) for n in self.shape]
        shape[axis] = self.shape[axis] if channels is None else channels
        teacher = None
        if self.teacher is not None and len(self.teacher) > len(shape):
            teacher = (*self.teacher[: -len(shape)], *shape)
        elif self.teacher is not None:  # of channels of its own
            teacher = (*shape[:axis], self.teacher[axis], *shape[axis + 1 :])
        return replace(self, shape=tuple(shape), teacher=teacher)

    def masks(self) -> list[Tensor | None]:
        """Return no mask, and one that leaves out a third, if the loss takes masks."""
        return [None, self.mask()] if self.masked else [None]

    def mask(self) -> Tensor:
        """Return a mask of valid places, some of every image."""
        places = [self.shape[d] for d in self.masked]
        mask = torch.arange(torch.Size(places).numel()).view(places) % 3 != 1
        assert mask.any()
        assert not mask.all()
        return mask

    def wide(self, mask: Tensor) -> Tensor:
        """Return the mask as it broadcasts to the student, and to a teacher of more dimensions."""
        sizes = [self.shape[d] if d in self.masked else 1 for d in range(len(self.shape))]
        return mask.view(sizes)


def gradient(value: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(value, student)[0]


def equals_reference(case: Case) -> None:
    for one in (case, *case.others()):
        _equals_reference(one)


def _equals_reference(case: Case) -> None:
    student, teacher = case.draw()
    for mask in case.masks():
        expected = case.reference(student.detach(), teacher, mask)
        assert case.function(student, teacher, mask).item() == pytest.approx(expected, rel=1e-9)
        assert abs(expected) > 1e-3, 'no value that a wrong normaliser would hide in'


def zero_with_zero_gradient(case: Case) -> None:
    """And more than zero beside it."""
    student, teacher = case.draw()
    same = case.back(case.same(teacher)).detach().clone().requires_grad_()
    for mask in case.masks():
        value = case.function(case.rows(same), teacher, mask)
        assert abs(value.item()) < case.exact
        assert gradient(value, same).abs().max() < case.exact
        assert case.function(student, teacher, mask).item() > 1e-3


def gradcheck(case: Case) -> None:
    student, teacher = case.draw()
    for mask in case.masks():
        assert torch.autograd.gradcheck(
            lambda s, mask=mask: case.function(s, teacher, mask), student
        )


def half_is_float32(case: Case) -> None:
    """Half precision is widened first: the value is float32's, and the reference's."""
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = (case.large * x.detach() for x in case.draw(dtype))
        student.requires_grad_()
        wide = student.detach().float().requires_grad_()
        for mask in case.masks():
            value = case.function(student, teacher, mask)
            expected = case.function(wide, teacher.float(), mask)
            assert value.dtype == torch.float32
            assert value == expected
            exact = case.reference(student.detach().double(), teacher.double(), mask)
            assert value.item() == pytest.approx(exact, rel=case.half)
            got = gradient(value, student)
            assert got.dtype == dtype
            torch.testing.assert_close(got, gradient(expected, wide).to(dtype), rtol=0, atol=0)


def autocast_changes_nothing(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        student, teacher = case.draw(dtype)
        outside = case.function(student, teacher, None)
        with torch.autocast('cpu', torch.bfloat16):
            inside = case.function(student, teacher, None)
        assert inside.dtype == outside.dtype == dtype
        assert inside == outside
        assert torch.equal(gradient(inside, student), gradient(outside, student))
    student, teacher = case.draw()
    assert case.function(student, teacher.float(), None).dtype == torch.float64


def layout_changes_nothing(case: Case) -> None:
    """Transposed and strided tensors, and channels last."""
    student, teacher = case.draw()
    expected = case.function(student, teacher, None)
    slope = gradient(expected, student)
    strided = torch.stack([student, student], -1)[..., 0]
    assert not strided.is_contiguous()
    others = [(strided, teacher), (student, teacher.mT.contiguous().mT)]
    if student.dim() == 4:
        others.append((student.contiguous(memory_format=torch.channels_last), teacher))
    for pair in others:
        value = case.function(*pair, None)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient(value, student), slope)


def nan_under_a_mask(case: Case) -> None:
    """What lies at masked places changes no digit, and gets no gradient."""
    student, teacher = case.draw()
    mask = case.mask()
    hidden = ~case.wide(mask)
    clean = case.function(student, teacher, mask)
    expected = gradient(clean, student)
    assert (expected.masked_select(hidden) == 0).all()
    for bad in (float('nan'), float('inf'), -float('inf')):
        spoilt = student.detach().masked_fill(hidden, bad).requires_grad_()
        value = case.function(spoilt, teacher.masked_fill(hidden, bad), mask)
        assert value == clean
        assert torch.equal(gradient(value, spoilt), expected)


def empty_mask_is_zero(case: Case) -> None:
    """A batch of nothing but void: an exact zero with an exact zero gradient."""
    student, teacher = case.draw()
    value = case.function(student, teacher, torch.zeros_like(case.mask()))
    assert value.item() == 0
    assert (gradient(value, student) == 0).all()


def tiling_changes_nothing(case: Case) -> None:
    """A mean over places: maps and batches that repeat have the same."""
    student, teacher = case.draw()
    more = [1] * (teacher.dim() - student.dim()) + list(case.tiles)
    for mask in case.masks():
        tiled = None if mask is None else mask.repeat([case.tiles[d] for d in case.masked])
        torch.testing.assert_close(
            case.function(student.repeat(case.tiles), teacher.repeat(more), tiled),
            case.function(student, teacher, mask),
        )


def module_is_function(case: Case) -> None:
    """Times its weight; and the teacher gets no gradient."""
    student, teacher = case.draw()
    teacher.requires_grad_()
    for mask in case.masks():
        given = {} if mask is None else dict(mask=mask)
        module = case.module(loss_weight=0.5)
        assert module.loss_name == f'loss_{snake_case(type(module).__name__)}'
        value = module(student, teacher, **given)
        expected = 0.5 * case.function(student, teacher, mask)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        value.backward()
        assert teacher.grad is None
        torch.testing.assert_close(student.grad, gradient(expected, student))
        student.grad = None


def _is_finite(case: Case, scale: float | None = None) -> None:
    """Value and gradient are, in float32 and half precision, and under autocast.

    With a scale numbers are that large, of both signs: those of the student agree with the
    teacher's or not as it happens, are its opposite, or are all the same.
    """
    student, teacher = (x.detach() for x in replace(case, rows=lambda x: x).draw())
    pairs = [(student, teacher)]
    if scale is not None:
        student, teacher = student.sign() * scale, teacher.sign() * scale
        pairs = [
            (student, teacher),
            (student, -teacher),
            (torch.full_like(student, scale), teacher),
        ]
    floats = [(dtype, False) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    for (s, t), (dtype, autocast) in product(pairs, [*floats, (torch.float32, True)]):
        s, t = s.to(dtype).requires_grad_(), t.to(dtype)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            value = case.function(case.rows(s), case.rows(t), None)
        assert value.isfinite(), (dtype, autocast)
        assert gradient(value, s).isfinite().all(), (dtype, autocast)


def extreme_numbers_are_finite(case: Case) -> None:
    """Logits or features of ±1e4, alike and unlike."""
    _is_finite(case, scale=1e4)


def one_place_is_finite(case: Case) -> None:
    """One image of one position, as after a global pooling."""
    _is_finite(case.of_shape(places=1))


def one_channel_is_finite(case: Case) -> None:
    """Or refused, with what to do: a softmax over a single class compares nothing."""
    single = case.of_shape(channels=1)
    refusal = ''
    try:
        single.function(*single.draw(torch.float32), None)
    except ValueError as error:
        refusal = str(error).lower()
    if refusal:
        assert 'mend' in refusal
    else:
        _is_finite(single)


def thousand_channels_are_finite(case: Case) -> None:
    """Of ImageNet, and of wide features; of ±1e4 too."""
    wide = case.of_shape(places=2, channels=1000)
    _is_finite(wide)
    _is_finite(wide, scale=1e4)


KINDS = (
    equals_reference,
    zero_with_zero_gradient,
    gradcheck,
    half_is_float32,
    autocast_changes_nothing,
    layout_changes_nothing,
    nan_under_a_mask,
    empty_mask_is_zero,
    tiling_changes_nothing,
    module_is_function,
    extreme_numbers_are_finite,
    one_place_is_finite,
    one_channel_is_finite,
    thousand_channels_are_finite,
)
NAMES = {kind.__name__ for kind in KINDS}
