"""What every loss shares: its weight and name, its dtype, its mask."""

import re
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmkd.utils.checks import check_positive

OTHER_CLASSES = (
    'Class k of one is not class k of the other, and a convolution trained between them '
    'would only hide that. Mend: members of the same classes, or compare features '
    '(PairWiseAffinityLoss on what the last layer reads)'
)


class Loss(nn.Module):
    """Base of the losses: ``loss_weight`` is inside the value that is returned, ``loss_name`` follows mmsegmentation.

    What a class says of itself is what a Distiller acts on. One rule holds for every loss, and a
    plain ``nn.Module`` without these attributes is taken as a loss of the defaults:

    * ``connectors=dict(student='auto')`` makes equal what ``needs`` names, of (N, C, H, W), (N, C)
      or, where the loss ``takes_tokens``, (N, L, D): a trained 1×1 convolution for 'channels', a
      bilinear resize for 'size'. Other shapes are refused, and so is 'auto' for a loss that needs
      nothing. On the teacher's side it never has weights.
    * ``class_logits`` must be the scores of the member's own classes: (N, C, H, W) of a segmentor,
      (N, C) of a classifier. Members of other classes are refused, and no convolution between
      classes is ever trained. Where two such maps differ in size and no connector was given, the
      teacher's is resized, and the log says so. An argument with a connector of one's own is left
      alone.

    Args:
        loss_weight: Factor inside the returned value, above 0.
        loss_name: Key in mmsegmentation's logs; None means ``loss_`` + the class in snake case.

    Attributes:
        needs: What student and teacher must have in common: 'channels', 'size', both (the default)
            or nothing.
        class_logits: Arguments that are class logits.
        streams: Arguments for which a Distiller hands over running statistics, made by
            ``running()`` and updated member by member, in place of a stack of all members.
        lists: Arguments for which a list of references arrives as a list of tensors of any shapes,
            in place of a stack.
        whole: Arguments read of the batch that arrive at their own size, in place of the student's
            map's.
        fixed: Numbers that are read when the loss is built and not at each call, so that no
            schedule can change them.
        takes_tokens: Whether a read of three axes is one of tokens (N, L, D), not (N, C, L).
        diagnostics: What the last call found besides its value, name -> 0-d tensor; logged as
            ``<objective>.<name>``.
    """

    needs: tuple[str, ...] = ('channels', 'size')
    class_logits: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    takes_tokens = False

    def __init__(self, loss_weight: float = 1.0, loss_name: str | None = None) -> None:
        super().__init__()
        check_positive('loss_weight', loss_weight)
        self.loss_weight = loss_weight
        self.diagnostics: dict[str, Tensor] = {}
        self._loss_name = (
            f'loss_{snake_case(type(self).__name__)}' if loss_name is None else loss_name
        )

    @property
    def loss_name(self) -> str:
        """Key of this loss in mmsegmentation's logs."""
        return self._loss_name


def needs_of(loss: nn.Module) -> tuple[str, ...]:
    """Return what a loss needs its arguments to have in common; that of :class:`Loss` where it does not say.

    Raises:
        ValueError: ``needs`` is no tuple of 'channels' and 'size'.

    >>> needs_of(nn.MSELoss())
    ('channels', 'size')
    """
    needs = getattr(loss, 'needs', Loss.needs)
    if not isinstance(needs, tuple | list) or not set(needs) <= set(Loss.needs):
        raise ValueError(
            f'needs of {type(loss).__name__} must be a tuple of {Loss.needs}, got {needs!r}. Mend: '
            "needs = ('size',), or () for nothing"
        )
    return tuple(needs)


def snake_case(name: str) -> str:
    """Turn a class name into snake case.

    >>> snake_case('PixelWiseKLLoss')
    'pixel_wise_kl_loss'
    """
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to one dtype, float32 or wider: float16 and bfloat16 become float32, float64 stays.

    >>> widen(torch.zeros(1, dtype=torch.float16))[0].dtype
    torch.float32
    """
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return tuple(t.to(dtype) for t in tensors)


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast on the tensor's device: losses would lose digits in half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def shape_of(tensor: Tensor) -> str:
    """Return a shape as errors print it.

    >>> shape_of(torch.zeros(2, 3))
    '(2, 3)'
    """
    return str(tuple(tensor.shape))


def call_in_dtype(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Call a module in the dtype of its first input: float64 stays float64 under float32 weights.

    Where the two differ, running statistics of norms stay as they are.

    >>> call_in_dtype(nn.Linear(2, 1), torch.zeros(1, 2, dtype=torch.float64)).dtype
    torch.float64
    """
    dtype = inputs[0].dtype
    own = next(module.parameters(), None)
    if own is None or own.dtype == dtype:
        return module(*inputs)
    state = {
        name: x.to(dtype) if x.is_floating_point() else x.clone()
        for name, x in (*module.named_parameters(), *module.named_buffers())
    }
    return functional_call(module, state, tuple(x.to(dtype) for x in inputs))


def check_mask(mask: Tensor | None, student: Tensor) -> None:
    """Refuse a mask that is not a bool tensor of the student's positions.

    Raises:
        TypeError: the mask is no bool tensor.
        ValueError: its shape is not that of the student without channels.
    """
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f'mask must be a bool tensor (True where a position counts), got {mask.dtype}; '
            'mend: labels != ignore_index'
        )
    expected = (student.shape[0], *student.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f'mask must have the shape {expected} of student {shape_of(student)} without its '
            f'channels, '
            f'got {shape_of(mask)}; mend: resize the mask by nearest'
        )


def check_logits(student: Tensor, teacher: Tensor, name: str) -> None:
    """Refuse logits that are not (N, C, *S) of the same classes at the same places.

    Raises:
        ValueError: Names the loss and both shapes.
    """
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() < 2 or teacher.dim() < 2:
        raise ValueError(f'{name} needs logits (N, C, *S), got {shapes}')
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f'student has {student.shape[1]} classes but teacher has {teacher.shape[1]} '
            f'({shapes}). '
            f'{OTHER_CLASSES}'
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f'student and teacher logits differ in shape: {shapes}; mend: logits of one size, '
            "connectors=dict(teacher='auto') resizes a teacher's map"
        )


def first_derivative_only(loss: str, mend: str) -> Callable[[Callable], Callable]:
    """Return a decorator of the ``backward`` of an autograd.Function whose forward formed the gradient.

    torch's ``once_differentiable`` raises only where the incoming gradient requires grad. Under
    ``create_graph=True`` it need not, and the second derivative is wrong without a word.

    Args:
        loss: How the error calls the loss.
        mend: What else to do.

    Raises:
        RuntimeError: ``backward`` runs under ``create_graph=True``.

    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(2 * x)
    ...         return x * x
    ...     @staticmethod
    ...     @first_derivative_only('Square', 'x * x')
    ...     def backward(ctx, grad):
    ...         return ctx.saved_tensors[0] * grad
    >>> x = torch.tensor(3., requires_grad=True)
    >>> torch.autograd.grad(Square.apply(x), x)
    (tensor(6.),)
    """

    def decorate(backward: Callable) -> Callable:
        @wraps(backward)
        def checked(ctx: Any, *grads: Tensor) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f'{loss} forms its gradient in the forward, so create_graph=True '
                    f'would leave it out of second derivatives. Mend: {mend}'
                )
            return backward(ctx, *grads)

        return checked

    return decorate


def infinite_to_nan(x: Tensor) -> Tensor:
    """Turn ±Inf into NaN: a clip, sigmoid, softmax or ReLU would make a finite number of ±Inf.

    A number that has overflowed must end in a value that is not finite, which stops a run.

    >>> infinite_to_nan(torch.tensor([1., float('inf'), -float('inf')])).sigmoid()
    tensor([0.7311,    nan,    nan])
    """
    return x.where(x.isfinite(), x.new_full((), torch.nan))


def unit_vectors(x: Tensor, dim: int = -1) -> Tensor:
    """Divide by the norm along an axis; a zero vector stays one, and its gradient is finite.

    >>> unit_vectors(torch.tensor([[3e30, 4e30], [0., 0.]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    size = (
        x.detach().abs().amax(dim, keepdim=True)
    )  # of which the square may be no number of the dtype
    x = x / size.where(size > torch.finfo(x.dtype).tiny, size.new_ones(()))
    square = x.square().sum(dim, keepdim=True)
    return x * square.where(square > 0, square.new_ones(())).rsqrt()


def fill_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Put 0 where a position does not count.

    Done before any nonlinearity: NaN * 0 is NaN, whereas ``where`` also stops the gradient exactly.
    """
    return x if mask is None else torch.where(mask.unsqueeze(1), x, x.new_zeros(()))
