"""What relations share: inner products in chunks, and which maps may be related."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmkd.losses.checks import shape_of

# Elements in float64 of one chunk of nodes: 2 MB, which a CPU's cache holds; a GPU wants longer
# kernels.
_CHUNK = {'cpu': 2**18, 'cuda': 2**24}


def chunks_of(x: Tensor, length: int, width: int, least: int = 128) -> list[slice]:
    """Return slices of an axis, so that each holds as much as the device works on at once.

    Args:
        x: A tensor of the device.
        length: Of the axis.
        width: Elements of each entry of the axis.
        least: How many entries a slice has at least.

    >>> chunks_of(torch.zeros(1), 5000, 128)
    [slice(0, 2048, None), slice(2048, 4096, None), slice(4096, 6144, None)]
    """
    step = max(least, _CHUNK.get(x.device.type, _CHUNK['cuda']) // max(1, width))
    return [slice(start, start + step) for start in range(0, length, step)]


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the products (I, J), in float64, of all rows of (I, P) and (J, P).

    Distances are differences of such products, in which float32 would cancel. The cast is chunk by
    chunk, and is done again in the backward.

    >>> x = torch.tensor([[1., 2.], [0., 3.]])
    >>> inner_products(x, x).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    total = a.new_zeros(len(a), len(b), dtype=torch.float64)
    chunks = chunks_of(a, a.shape[1], len(a) + len(b))
    for part in chunks:
        pieces = a[:, part], b[:, part]
        if len(chunks) == 1 or not torch.is_grad_enabled():
            total = total + _products(*pieces)
        else:
            total = total + checkpoint(
                _products, *pieces, use_reentrant=False, preserve_rng_state=False
            )
    return total


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a.double() @ b.double().mT


def check_places(student: Tensor, teacher: Tensor, name: str, least: int = 3) -> None:
    r"""Refuse maps that are not of the same images and places; channels may differ.

    Args:
        student: Map (N, Cs, \*S).
        teacher: Map (N, Ct, \*S).
        name: Of the loss, for messages.
        least: How many axes there are at least.

    Raises:
        ValueError: Names the loss and both shapes.

    >>> check_places(torch.zeros(2, 3, 4), torch.zeros(2, 7, 4), 'NST')
    """
    places = [(len(x), *x.shape[2:]) if x.dim() >= least else None for x in (student, teacher)]
    if None in places or places[0] != places[1]:
        what = '(N, C, *S) with places' if least > 2 else '(N, C) or (N, C, *S)'
        raise ValueError(
            f'{name} needs maps {what}, of the same images and places, with any channels; got '
            f'student {shape_of(student)}, teacher {shape_of(teacher)}; mend: '
            "connectors=dict(teacher='auto') resizes a teacher's map"
        )


def check_images(student: Tensor, teacher: Tensor, name: str, least: int = 3) -> None:
    r"""Refuse maps that are not of the same images; channels and places may differ.

    Args:
        student: Map (N, Cs, \*S).
        teacher: Map (N, Ct, \*S').
        name: Of the loss, for messages.
        least: How many axes there are at least; with 3 both have as many.

    Raises:
        ValueError: Names the loss and both shapes.

    >>> check_images(torch.zeros(2, 3, 4), torch.zeros(2, 7, 9), 'NST')
    """
    dims = [x.dim() for x in (student, teacher)]
    if len(student) != len(teacher) or min(dims) < least or (least > 2 and dims[0] != dims[1]):
        what = '(N, C, *S) with places' if least > 2 else '(N, C) or (N, C, *S)'
        raise ValueError(
            f'{name} needs maps {what}, of the same images, with any places; got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: taps of maps whose first '
            'axis is that of images'
        )


def check_channels(student: Tensor, teacher: Tensor, name: str) -> None:
    """Refuse maps whose channels are not as many, where channels are compared one by one.

    Raises:
        ValueError: Names the loss and both shapes.

    >>> check_channels(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 'ICKD')
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f'{name} compares channel with channel, and needs as many of them; got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: '
            "connectors=dict(student='auto') trains a convolution between them"
        )
