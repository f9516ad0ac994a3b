"""The parts in which a student sees a batch: images with labels, and images without."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

OWN = '{}(labelled)'  # under which a record holds a tap of the images with labels alone
Part = tuple[dict[str, Any], Sequence[int]]  # tap -> tensor, and the places in the batch


def join_taps(where: str, first: Part, second: Part) -> dict[str, Any]:
    """Return what the taps saw of two parts of a batch, in the order of the batch.

    What the first part gave stands beside, under ``OWN``: a student's own losses depend on that.

    >>> first = dict(x=torch.tensor([[0.0], [2.0]])), [0, 2]
    >>> join_taps('it', first, (dict(x=torch.tensor([[1.0]])), [1]))['x'].tolist()
    [[0.0], [1.0], [2.0]]

    Args:
        where: How errors call the member.
        first: Tap -> tensor, or a list of them, of one part, and its places in the batch.
        second: The same of the other.

    Raises:
        ValueError: A tap whose first axis is not that of the images, or whose shapes differ.
    """
    (seen, own), (beside, others) = first, second
    places = [*own, *others]
    sizes = len(own), len(others)
    joined = {
        tap: _join(f'tap {tap!r} of {where}', value, beside[tap], sizes, places)
        for tap, value in seen.items()
    }
    return {**joined, **{OWN.format(tap): value for tap, value in seen.items()}}


def _join(what: str, x: Any, y: Any, sizes: tuple[int, int], places: list[int]) -> Any:
    if isinstance(x, list):
        if len(x) != len(y):
            raise ValueError(
                f'{what} ran {len(x)} times on images with labels and {len(y)} times on those '
                'without, so they cannot be joined. Mend: another tap'
            )
        return [_join(what, one, other, sizes, places) for one, other in zip(x, y, strict=True)]
    heads = tuple(one.shape[0] if one.dim() else None for one in (x, y))
    if heads != sizes or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f'{what} has the shapes {tuple(x.shape)} for {sizes[0]} images with labels and '
            f'{tuple(y.shape)} for {sizes[1]} without, so they cannot be joined along the images. '
            'Mend: a tap (N, …) with one row an image; or task_weight=0, where all images pass at '
            'once'
        )
    joined = torch.cat([x, y])
    if places == sorted(places):
        return joined
    order = torch.tensor(places, device=joined.device).argsort()
    return joined.index_select(0, order)


def without_labels(losses: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the own losses of a batch without labels: 0 each, in which every weight takes part.

    DDP waits for the gradient of each weight, and other ranks may have labels. What is no loss,
    an accuracy say, is left out.

    >>> without_labels(dict(loss_ce=torch.tensor(torch.nan), acc=1.0), nn.Linear(1, 1))
    {'loss_ce': tensor(0., grad_fn=<AddBackward0>)}
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    zero: Tensor | float = sum(0.0 * p.sum() for p in learned)
    if not learned:
        zero = torch.zeros(())
    return {key: zero for key in losses if 'loss' in key}
