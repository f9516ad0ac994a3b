"""Memories: rings of a teacher's vectors, one for each group, the same ones on all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmkd.losses.functional import several_ranks


class Ring(nn.Module):
    """The last vectors of every group.

    They are buffers, so that they are in every checkpoint and a resumed run has them bit for bit;
    a student that is exported has none. Nothing here waits for the device.

    Args:
        groups: How many rings, such as classes.
        size: Vectors of each.
        channels: Of a vector.
        tagged: Whether each vector has a number, such as a label, which is kept with it.

    Attributes:
        rows: Ring after ring, (groups · size + 1, channels); the last row is 0, what is written
            there is dropped.
        tags: Likewise the numbers, (groups · size + 1,), −1 where there is none.
        pushed: How many vectors each ring was ever given; the next one goes to the place of that
            number modulo the size.

    Examples:
        >>> ring = Ring(groups=2, size=2, channels=1)
        >>> vectors, groups = torch.tensor([[1.], [2.], [3.], [4.]]), torch.tensor([0, 1, 0, 0])
        >>> ring.push(vectors, groups, torch.tensor([True, True, True, True]))
        >>> ring.rows.flatten().tolist(), ring.pushed.tolist()  # the 4 takes the place of the 1
        ([4.0, 3.0, 2.0, 0.0, 0.0], [3, 1])
        >>> ring.known.tolist()
        [True, True, True, False]
    """

    rows: Tensor
    tags: Tensor
    pushed: Tensor

    def __init__(self, groups: int, size: int, channels: int, tagged: bool = False) -> None:
        super().__init__()
        self.groups, self.size, self.tagged = groups, size, tagged
        self.register_buffer('rows', torch.zeros(groups * size + 1, channels))
        if tagged:
            self.register_buffer('tags', torch.full((groups * size + 1,), -1))
        self.register_buffer('pushed', torch.zeros(groups, dtype=torch.long))

    @property
    def known(self) -> Tensor:
        """Which places hold a vector, (groups · size)."""
        places = torch.arange(self.size, device=self.pushed.device)
        return (places < self.pushed.unsqueeze(1)).flatten()

    @torch.no_grad()
    def push(
        self, vectors: Tensor, groups: Tensor, counts: Tensor, tags: Tensor | None = None
    ) -> None:
        """Write vectors in their order, over the oldest; of one group at most the last ``size``.

        A vector that is not finite is passed over: every later step would compare with it.

        Args:
            vectors: (M, channels).
            groups: Of each, (M,).
            counts: Bool (M,): whether it is written.
            tags: Of each, (M,), of a ring that is tagged; None: −1.
        """
        counts = counts & vectors.isfinite().all(1)
        order, own, place, number = in_groups(groups.where(counts, self.groups), self.groups)
        # An index that occurs twice has no order: what a later one would overwrite is dropped.
        written = (own < self.groups) & (place >= number[own] - self.size)
        start = torch.cat([self.pushed, self.pushed[:1]])[own]
        target = own * self.size + (start + place) % self.size
        target = target.where(written, self.groups * self.size)
        self.rows.index_copy_(0, target, vectors[order].to(self.rows))
        self.rows[-1].zero_()
        if self.tagged:
            tags = torch.full_like(groups, -1) if tags is None else tags
            self.tags.index_copy_(0, target, tags[order].to(self.tags))
            self.tags[-1].fill_(-1)
        self.pushed += number[:-1]

    @torch.no_grad()
    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Return vectors of every group at random, each at most once, and which places hold one.

        Where there are no more than ``number`` places these are all of them, in their order, and
        nothing is drawn.

        Args:
            number: Of each group.

        Returns:
            Vectors (groups · n, channels), 0 where none is known, and bool (groups · n,).
        """
        known = self.known
        if number >= self.size:
            return self.rows[:-1], known
        known = known.view(self.groups, self.size)
        lots = torch.rand(known.shape, device=known.device).masked_fill(~known, 2.0)
        chosen = lots.topk(number, 1, largest=False).indices
        first = torch.arange(self.groups, device=chosen.device).unsqueeze(1) * self.size
        return self.rows[(first + chosen).flatten()], known.gather(1, chosen).flatten()

    def extra_repr(self) -> str:
        """Say how large it is."""
        return f'groups={self.groups}, size={self.size}, channels={self.rows.shape[1]}'


def in_groups(groups: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return an order by groups that keeps the order inside each, without waiting for the device.

    Args:
        groups: (M,), from 0 to ``number``; the last one is that of no group.
        number: Of groups.

    Returns:
        Indices in that order (M,), the group and the place within it of each (M,), and how many
        each group has (number + 1,).

    >>> order, own, place, count = in_groups(torch.tensor([1, 0, 2, 1]), 2)
    >>> order.tolist(), own.tolist(), place.tolist(), count.tolist()
    ([1, 0, 3, 2], [0, 1, 1, 2], [0, 0, 1, 0], [1, 2, 1])
    """
    order = groups.argsort(stable=True)
    own = groups[order]
    count = groups.new_zeros(number + 1).index_add_(0, groups, torch.ones_like(groups))
    first = count.cumsum(0) - count
    return order, own, torch.arange(len(own), device=own.device) - first[own], count


@torch.no_grad()
def some_of_each(vectors: Tensor, groups: Tensor, number: int, most: int) -> tuple[Tensor, Tensor]:
    """Return up to ``most`` vectors of every group at random, in a fixed number of places.

    Args:
        vectors: (M, C).
        groups: As :func:`in_groups` takes them.
        number: Of groups.
        most: Of each.

    Returns:
        Vectors (number · most, C), group after group, and which of these places hold one.

    >>> vectors, known = some_of_each(torch.tensor([[5.], [7.]]), torch.tensor([1, 2]), 2, 2)
    >>> vectors[known].tolist(), known.tolist()
    ([[5.0]], [False, False, True, False])
    """
    shuffled = torch.rand(len(groups), device=groups.device).argsort()
    order, own, place, count = in_groups(groups[shuffled], number)
    target = (own * most + place).where((own < number) & (place < most), number * most)
    source = own.new_zeros(number * most + 1).index_copy_(0, target, shuffled[order])
    places = torch.arange(most, device=count.device)
    return vectors[source[:-1]], (places < count[:-1].unsqueeze(1)).flatten()


@torch.no_grad()
def mean_of_each(vectors: Tensor, groups: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the mean vector of every group (number, C), and which groups have any.

    >>> mean_of_each(torch.tensor([[5.], [7.]]), torch.tensor([1, 1]), 2)
    (tensor([[0.],
            [6.]]), tensor([False,  True]))
    """
    count = vectors.new_zeros(number + 1).index_add_(0, groups, vectors.new_ones(len(groups)))
    sums = vectors.new_zeros(number + 1, vectors.shape[1]).index_add_(0, groups, vectors)
    return (sums / count.clamp(min=1).unsqueeze(1))[:-1], count[:-1] > 0


@torch.no_grad()
def of_all_ranks(vectors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of all ranks, one rank after the other, and which of them are known.

    Every rank must come here with as many of them.

    >>> of_all_ranks(torch.tensor([[5.]]), torch.tensor([True]))
    (tensor([[5.]]), tensor([True]))
    """
    if not several_ranks():
        return vectors, known
    own = torch.cat([vectors, known.to(vectors).unsqueeze(1)], 1).contiguous()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    joined = torch.cat(parts)
    return joined[:, :-1], joined[:, -1] > 0
