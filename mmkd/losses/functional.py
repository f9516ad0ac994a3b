"""Numerics that losses and measures share: dtypes, masks, means over what counts, unit vectors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to one dtype, float32 or wider: float16 and bfloat16 become float32, float64 stays.

    >>> widen(torch.zeros(1, dtype=torch.float16))[0].dtype
    torch.float32
    """
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return tuple(t.to(dtype) for t in tensors)


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast on the tensor's device: half precision would lose digits.

    >>> with no_autocast(torch.zeros(1)):
    ...     torch.is_autocast_enabled('cpu')
    False
    """
    return torch.autocast(tensor.device.type, enabled=False)


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
    return functional_call(
        module, state_in_dtype(module, dtype), tuple(x.to(dtype) for x in inputs)
    )


def state_in_dtype(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return copies of parameters and buffers, those of numbers in another dtype.

    Gradient reaches the parameters.

    >>> state_in_dtype(nn.Linear(1, 1, bias=False), torch.float64)['weight'].dtype
    torch.float64
    """
    return {
        name: x.to(dtype) if x.is_floating_point() else x.clone()
        for name, x in (*module.named_parameters(), *module.named_buffers())
    }


def fill_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Put 0 where a position of (N, C, \*S) does not count.

    Done before any nonlinearity: NaN * 0 is NaN, whereas ``where`` also stops the gradient exactly.

    >>> fill_masked(torch.tensor([[1.], [float('nan')]]), torch.tensor([True, False]))
    tensor([[1.],
            [0.]])
    """
    return x if mask is None else torch.where(mask.unsqueeze(1), x, x.new_zeros(()))


def count_valid(x: Tensor, mask: Tensor | None) -> int | Tensor:
    r"""Return how many positions of (N, C, \*S) count, at least 1 of a mask.

    >>> count_valid(torch.zeros(2, 3, 4, 4), None)
    32
    >>> count_valid(torch.zeros(2, 3), torch.tensor([False, False]))
    tensor(1)
    """
    return x[:, 0].numel() if mask is None else mask.sum().clamp(min=1)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean over valid entries; exactly 0, with zero gradient, where there is none.

    >>> masked_mean(torch.tensor([1., 2., 6.]), torch.tensor([True, False, True]))
    tensor(3.5000)
    """
    if valid is None:
        return x.mean()
    return x.where(valid, x.new_zeros(())).sum() / valid.sum().clamp(min=1)


def weighted_mean(x: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> Tensor:
    r"""Return Σ w·x / Σ w over the valid positions; 0 where nothing counts.

    A weight of 1 everywhere changes nothing. What a position that does not count holds, in ``x``
    as in the weight, reaches neither value nor gradient; a weight of NaN that counts comes out.

    Args:
        x: A value for each position (N, \*S).
        mask: Bool (N, \*S), True where a position counts.
        weight: How much it counts (N, \*S), 0 or above; receives no gradient.

    >>> weighted_mean(torch.tensor([1., 2., 6.]), None, torch.tensor([1., 0., 3.]))  # 19 / 4
    tensor(4.7500)
    """
    if weight is None:
        return masked_mean(x, mask)
    weight = measure(weight, mask, x.dtype)
    total = weight.sum()
    product = (weight * x.where(weight > 0, x.new_zeros(()))).sum()
    return product / total.where(total > 0, total.new_ones(()))


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, the tensor itself where there is but one.

    Gradients are summed as well, so that statistics of the joined batch have those of one process.
    Every rank must come here, in the same order.

    >>> sum_over_ranks(torch.tensor(3.))
    tensor(3.)
    """
    if not several_ranks():
        return x
    from torch.distributed.nn.functional import all_reduce  # not in a torch without distributed

    return all_reduce(x)


def max_over_ranks(x: Tensor) -> Tensor:
    """Return the largest of every entry over all ranks, the tensor itself where there is but one.

    It passes no gradient. Every rank must come here, in the same order.

    >>> max_over_ranks(torch.tensor([3., -1.]))
    tensor([ 3., -1.])
    """
    if not several_ranks():
        return x
    most = x.detach().clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most


def gather_over_ranks(x: Tensor) -> Tensor:
    """Return what all ranks hold, one after the other along the first axis.

    Gradients are summed over ranks, as those of :func:`sum_over_ranks` are. Every rank must come
    here, in the same order and with a tensor of one shape.

    >>> gather_over_ranks(torch.tensor([3., 1.]))
    tensor([3., 1.])
    """
    if not several_ranks():
        return x
    rank, nothing = dist.get_rank(), torch.zeros_like(x.detach())
    parts = [nothing] * rank + [x] + [nothing] * (dist.get_world_size() - rank - 1)
    # torch's own all_gather makes wrong gradients over gloo of such that are not contiguous.
    return sum_over_ranks(torch.cat(parts))


def number_of_ranks() -> int:
    """Return how many ranks hold parts of the batch.

    >>> number_of_ranks()
    1
    """
    return dist.get_world_size() if several_ranks() else 1


def several_ranks() -> bool:
    """Return whether other ranks hold parts of the batch.

    >>> several_ranks()
    False
    """
    if _ON_ONE_RANK or not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size() > 1


_ON_ONE_RANK: list[bool] = []


@contextmanager
def on_one_rank() -> Iterator[None]:
    """Let losses inside take what this rank holds for the whole batch, and ask no other rank.

    So what is tried before a model is on its device asks nothing of NCCL, which knows no CPU.
    """
    _ON_ONE_RANK.append(True)
    try:
        yield
    finally:
        _ON_ONE_RANK.pop()


def reverse_gradient(x: Tensor, factor: float = 1.0) -> Tensor:
    """Return a tensor as it is, whose gradient is turned round and multiplied by a factor.

    What an optimizer makes small in all else it makes large in ``x``.

    >>> x = torch.tensor(3., requires_grad=True)
    >>> value = reverse_gradient(x, 0.5)
    >>> value.item(), torch.autograd.grad(value, x)
    (3.0, (tensor(-0.5000),))
    """
    return x.detach() - factor * (x - x.detach())


def place_axes(x: Tensor) -> list[int]:
    r"""Return the axes of (N, C, \*S) but that of channels.

    >>> place_axes(torch.zeros(2, 3, 4, 5))
    [0, 2, 3]
    """
    return [d for d in range(x.dim()) if d != 1]


def counted(mask: Tensor | None, weight: Tensor | None) -> Tensor | None:
    r"""Return where positions count: where the mask is True and the weight above 0, or NaN.

    A weight that is NaN counts, so that it comes out of the value and stops the run: the scores of
    a teacher that says NaN are such weights, and what does not count would be a loss of 0.

    Args:
        mask: Bool (N, \*S), or None: everywhere.
        weight: How much a position counts (N, \*S), or None: all alike.

    >>> counted(torch.tensor([True, False, True]), torch.tensor([2., 1., 0.]))
    tensor([ True, False, False])
    """
    return mask if weight is None else above_zero(weight, mask)


def above_zero(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return where a weight is above 0, or NaN, and the mask is True.

    >>> above_zero(torch.tensor([2., float('nan'), 0.]))
    tensor([ True,  True, False])
    """
    above = ~(weight <= 0)
    return above if mask is None else mask & above


def measure(weight: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return how much every position counts: its weight, 0 where it does not (:func:`counted`).

    What the weight holds where the mask is False, NaN included, is not in it.

    >>> weight = torch.tensor([2., float('nan'), 0.])
    >>> measure(weight, torch.tensor([True, False, True]), torch.float32)
    tensor([2., 0., 0.])
    >>> measure(weight, None, torch.float32)
    tensor([2., nan, 0.])
    """
    weight = weight.detach().to(dtype)
    return weight.where(above_zero(weight, mask), weight.new_zeros(()))


def measure_of(x: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor | None:
    r"""Return how much every position of a map counts (N, 1, \*S); None: all alike.

    >>> measure_of(torch.zeros(1, 3, 2), torch.tensor([[True, False]]), torch.tensor([[2., 5.]]))
    tensor([[[2., 0.]]])
    """
    if weight is not None:
        return measure(weight, mask, x.dtype).unsqueeze(1)
    return None if mask is None else mask.to(x.dtype).unsqueeze(1)


def softmax_of_measure(x: Tensor, own: Tensor) -> Tensor:
    """Return the softmax over places of (N, K, P) in which a place counts by its measure (N, 1, P).

    Where no place of an image counts all count alike, so that there is no NaN to be left out.

    >>> softmax_of_measure(torch.zeros(1, 1, 3), torch.tensor([[[1., 3., 0.]]]))
    tensor([[[0.2500, 0.7500, 0.0000]]])
    """
    alive = above_zero(own).any(2, keepdim=True)
    return (x + own.where(alive, own.new_ones(())).log()).softmax(2)


def labelled(labels: Tensor, classes: int, ignore_index: int, mask: Tensor | None = None) -> Tensor:
    r"""Return where a label (N, \*S) is one of the classes, and the mask is True.

    ``ignore_index`` is the label of a place of a map that has no class; of a whole image, (N,), it
    is a class like any other.

    >>> labelled(torch.tensor([[0, 255, 3]]), 3, 255)
    tensor([[ True, False, False]])
    >>> labelled(torch.tensor([[0, 200, 255]], dtype=torch.uint8), 300, 255)
    tensor([[ True,  True, False]])
    """
    labels = labels.int() if labels.dtype == torch.uint8 else labels  # 256 would be 0 there
    known = (labels >= 0) & (labels < classes)
    if labels.dim() > 1:
        known = known & (labels != ignore_index)
    return known if mask is None else known & mask


def divergence_terms(p: Tensor, log_q: Tensor) -> Tensor:
    """Return p (ln p − ln q) term by term, 0 where p is 0; their sum over classes is KL(p‖q).

    >>> divergence_terms(torch.tensor([.25, .75]), torch.tensor([.5, .5]).log()).sum()
    tensor(0.1308)
    """
    return torch.xlogy(p, p) - p * log_q


def kl_divergence(p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return KL(p‖q) of distributions (N, C, \*S) over classes, (N, \*S).

    Each sum by itself holds fewer maps than the sum of :func:`divergence_terms`.

    >>> kl_divergence(torch.tensor([[.25, .75]]), torch.tensor([[.5, .5]]).log())
    tensor([0.1308])
    """
    return torch.xlogy(p, p).sum(1) - (p * log_q).sum(1)


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
    x = scaled(x, dim)
    square = x.square().sum(dim, keepdim=True)
    return x * square.where(square > 0, square.new_ones(())).rsqrt()


def cosines(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Return the cosines of vectors along an axis, 0 of a zero vector, whose gradient is finite.

    It holds fewer maps than the product of :func:`unit_vectors`.

    >>> cosines(torch.tensor([[3e30, 4e30], [0., 0.]]), torch.tensor([[0., 1.], [1., 0.]]))
    tensor([0.8000, 0.0000])
    """
    a, b = scaled(a, dim), scaled(b, dim)
    dot = (a * b).sum(dim)
    for x in (a, b):
        square = (x * x).sum(dim)  # x.square() holds one map more in its backward
        dot = dot * square.where(square > 0, square.new_ones(())).rsqrt()
    return dot


def scaled(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide by the largest entry along axes: the square of 3e30 is no number of float32.

    >>> scaled(torch.tensor([[3e30, -4e30], [0., 0.]]), 1)
    tensor([[ 0.7500, -1.0000],
            [ 0.0000,  0.0000]])
    """
    size = x.detach().abs().amax(dim, keepdim=True)
    return x / size.where(size > torch.finfo(x.dtype).tiny, size.new_ones(()))


def first_derivative_only(loss: str, mend: str) -> Callable[[Callable], Callable]:
    """Decorate the ``backward`` of an autograd.Function whose forward formed the gradient.

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
                    f'{loss} forms its gradient in the forward, so create_graph=True would leave '
                    f'it out of second derivatives. Mend: {mend}'
                )
            return backward(ctx, *grads)

        return checked

    return decorate
