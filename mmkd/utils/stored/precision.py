"""How a teacher's tensor is kept: in a precision, or as the largest logits and what is left."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd.utils.checks import check_choice, check_count

DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16, 'fp32': torch.float32}
_TOP = ('values', 'indices', 'rest')


@dataclass(frozen=True)
class Precision:
    """How tensors are kept.

    Args:
        dtype: 'bf16', 'fp16' or 'fp32'; whole numbers stay as they are.
        top_k: Of class logits, how many of the largest are kept at each place; None: all of them.

    Raises:
        ValueError: Another dtype; a ``top_k`` below 1.

    >>> Precision().tell(logits=True), Precision('fp16', 3).tell(logits=True)
    ('bf16', 'the 3 largest in fp16')
    """

    dtype: str = 'bf16'
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no precision."""
        check_choice('dtype', self.dtype, DTYPES)
        if self.top_k is not None:
            check_count('top_k', self.top_k, 1)

    def tell(self, logits: bool) -> str:
        """Return how a tensor is kept, in words.

        Args:
            logits: Whether it is class logits.
        """
        top = logits and self.top_k is not None
        return f'the {self.top_k} largest in {self.dtype}' if top else self.dtype

    def pack(self, value: Any, logits: bool) -> Any:
        """Return a tensor, or each of a list, as it is kept: on the CPU, in memory of its own.

        Args:
            value: A tensor of any shape; class logits are (N, C, …).
            logits: Whether it is class logits.

        Raises:
            FloatingPointError: A number is not finite, or no longer so in this precision.
            ValueError: Class logits of no more classes than are kept.
        """
        if isinstance(value, list):
            return [self.pack(one, logits) for one in value]
        if not value.is_floating_point():
            return value.detach().to('cpu', copy=True)
        if logits and self.top_k is not None:
            return {
                name: one if name == 'indices' else self._cast(one)
                for name, one in largest(value.detach(), self.top_k).items()
            }
        return self._cast(value.detach())

    def _cast(self, value: Tensor) -> Tensor:
        kept = value.to('cpu', DTYPES[self.dtype], copy=True)  # never a view of something larger
        if not kept.isfinite().all():
            if value.isfinite().all():
                raise FloatingPointError(
                    f'numbers up to {value.abs().max().item():.4g} are beyond the range of '
                    f'{self.dtype}. Mend: --dtype bf16, which has the range of float32'
                )
            raise FloatingPointError(
                'the teacher gives NaN or Inf. Mend: look at its weights and inputs (mmkd doctor)'
            )
        return kept


def largest(logits: Tensor, k: int) -> dict[str, Tensor]:
    r"""Return the k largest logits of each place, their classes, and what is left of the mass.

    What is left is kept as a logit, the log of the sum of the others' exponentials:

    .. math:: r = \ln \sum_{c \notin \text{top}} e^{z_c}

    Args:
        logits: (N, C, …).
        k: How many, below C.

    Returns:
        ``values`` and ``indices`` (N, k, …), ``rest`` (N, 1, …), on the CPU.

    Raises:
        ValueError: k is not below C.

    >>> kept = largest(torch.tensor([[3., 0., 1., 0.]]), 2)
    >>> kept['indices'].tolist(), kept['rest'].exp().tolist()
    ([[0, 2]], [[2.0]])
    """
    classes = logits.shape[1] if logits.dim() > 1 else 0
    if k >= classes:
        raise ValueError(
            f'the {k} largest of {classes} logits are all of them. Mend: --top-k below {classes}, '
            'or --dtype bf16'
        )
    logits = logits.float()
    values, indices = logits.topk(k, dim=1)
    others = logits.scatter(1, indices, -math.inf).logsumexp(1, keepdim=True)
    small = torch.uint8 if classes <= 256 else torch.int16 if classes <= 2**15 else torch.int32
    kept = dict(values=values, indices=indices.to(small), rest=others)
    return {name: one.to('cpu', copy=True) for name, one in kept.items()}


def spread(kept: dict[str, Tensor], classes: int) -> Tensor:
    r"""Return logits of which the k largest are as they were and all others share the rest evenly.

    .. math:: z_c = r - \ln(C - k) \quad \text{for every other class}

    Softmax at temperature 1 gives the k classes their own probabilities.

    Args:
        kept: Of :func:`largest`.
        classes: C.

    Returns:
        (N, C, …), float32.

    >>> spread(largest(torch.tensor([[3., 0., 1., 0.]]), 2), 4).round(decimals=4).tolist()
    [[3.0, 0.0, 1.0, 0.0]]
    """
    values, rest = kept['values'].float(), kept['rest'].float()
    share = rest - math.log(classes - values.shape[1])
    shape = (values.shape[0], classes, *values.shape[2:])
    return share.expand(shape).scatter(1, kept['indices'].long(), values)


def unpack(kept: Any, dtype: torch.dtype, classes: int = 0) -> Any:
    """Return what was packed, in the dtype in which the teacher gave it.

    Args:
        kept: Of :meth:`Precision.pack`.
        dtype: The teacher's own.
        classes: Of logits of which the largest are kept.
    """
    if isinstance(kept, list):
        return [unpack(one, dtype, classes) for one in kept]
    if isinstance(kept, dict):
        return spread(kept, classes).to(dtype)
    return kept.to(dtype)


def parts_of(kept: Any) -> Iterator[Tensor]:
    """Yield every tensor of what was packed.

    Raises:
        TypeError: It is nothing that :meth:`Precision.pack` makes.
    """
    if isinstance(kept, Tensor):
        yield kept
    elif isinstance(kept, list):
        for one in kept:
            yield from parts_of(one)
    elif isinstance(kept, dict) and set(kept) == set(_TOP):
        yield from (kept[name] for name in _TOP)
    else:
        raise TypeError(f'it holds a {type(kept).__name__} where tensors are kept')


def moved(kept: Any, change: Any) -> Any:
    """Return what was packed with every tensor changed, on another device, say."""
    if isinstance(kept, list):
        return [moved(one, change) for one in kept]
    if isinstance(kept, dict):
        return {name: change(one) for name, one in kept.items()}
    return change(kept)


def size_of(kept: Any) -> int:
    """Return the bytes of what was packed.

    >>> size_of(Precision('bf16').pack(torch.zeros(2, 3), logits=False))
    12
    """
    return sum(one.numel() * one.element_size() for one in parts_of(kept))
