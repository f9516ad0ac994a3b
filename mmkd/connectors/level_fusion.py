"""Fusion of levels: each map of the student is joined by all deeper ones."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.connectors.batch_norm import BatchNorm
from mmkd.connectors.levels import LevelsConnector
from mmkd.losses.checks import as_maps, check_levels, check_stages
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, not_built

WIDEST = 512


@MODELS.register_module()
class LevelFusion(LevelsConnector):
    r"""Fuse the student's maps from deep to shallow, and bring each to the teacher's channels.

    Papers: Chen et al., Distilling Knowledge via Knowledge Review (ReviewKD), CVPR 2021, arXiv
    2104.09044; Liu et al., TransKD, arXiv 2202.13393. Of the maps F of levels 1 … L, shallow to
    deep, with 1×1 convolutions A, 3×3 convolutions B, both normalised, and a gate g:

    .. math:: R_L = A_L F_L, \quad R_l = g_l^1 \odot A_l F_l + g_l^2 \odot R_{l+1}, \quad
              \hat F_l = B_l R_l

    R of the deeper level is resized to the size of F, then R to that of the teacher's map, both by
    nearest neighbour. ReviewKD's gate ('review') is a sigmoid of two maps, a 1×1 convolution of
    both beside each other. TransKD's ('selective') is a softmax between the two for each channel,
    of the mean over places of their sum, behind a narrow layer; it is normalised over the batch,
    but in a batch of one, where the authors' code has a layer of its own.

    Sizes may be any; the authors' codes type those of square maps. Vectors (N, C), as what a
    classifier of images reads, are maps of one place. Normalisations are those of all ranks.

    A map is deeper the fewer places it has, and where two have as many, by its place in the list:
    mmseg's U-Net gives its deepest map first. With channels given, the list is shallow to deep.

    Args:
        gate: 'review' or 'selective'.
        mid_channels: Of R; None: those of the deepest map, 512 at most.
        in_channels: Of the student's maps; None: as the Distiller finds them.
        out_channels: Of the teacher's; likewise.
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: An unknown gate, channels below 1, lists that do not fit each other, or that
            run the one from shallow to deep and the other from deep to shallow.
        RuntimeError: Called before the channels are known.

    Examples:
        >>> fusion = LevelFusion(in_channels=(4, 8), out_channels=(6, 12))
        >>> maps = fusion([torch.zeros(2, 4, 8, 12), torch.zeros(2, 8, 4, 6)], [(8, 12), (2, 3)])
        >>> [tuple(x.shape) for x in maps]
        [(2, 6, 8, 12), (2, 12, 2, 3)]
    """

    def __init__(
        self,
        gate: str = 'review',
        mid_channels: int | None = None,
        in_channels: Sequence[int] | None = None,
        out_channels: Sequence[int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('gate', gate, tuple(GATES))
        if mid_channels is not None:
            check_count('mid_channels', mid_channels, 1)
        self.gate, self.mid_channels = gate, mid_channels
        self.levels = nn.ModuleList()
        self.order: list[int] = []  # of the levels, shallow to deep
        if in_channels is not None and out_channels is not None:
            check_stages(in_channels, out_channels, 'in_channels', 'out_channels')
            for channels in (*in_channels, *out_channels):
                check_count('channels of LevelFusion', channels, 1)
            self._make(in_channels, out_channels, range(len(in_channels)))

    def build(self, x: Sequence[Tensor], like: Sequence[Tensor]) -> str:
        """Make the layers, if channels were left out; return what was made, in words."""
        check_levels(x, like, dims=(2, 4))
        if len(self.levels):
            return ''
        before, after = [one.shape[1] for one in x], [one.shape[1] for one in like]
        self._make(before, after, _shallow_to_deep(x, like))
        self.to(x[0].device)
        return (
            f'{len(x)} levels of {before} channels -> {after} by {self.gate} fusion of '
            f'{self.levels[0].width}'
        )

    def forward(
        self, x: Sequence[Tensor], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Tensor]:
        """Return maps (N, C, H, W) of the teacher's channels, and of these sizes."""
        if not len(self.levels):
            raise not_built(
                'the levels are', 'in_channels=[…] and out_channels=[…]', 'build(x, like)'
            )
        if len(x) != len(self.levels):
            raise ValueError(
                f'a fusion of {len(self.levels)} levels got {len(x)}; mend: the taps that it was '
                'made for'
            )
        maps = as_maps(x)
        wanted = (
            [one.shape[2:] for one in maps] if sizes is None else [size or (1, 1) for size in sizes]
        )
        made: dict[int, Tensor] = {}
        deeper: Tensor | None = None
        for k in reversed(self.order):
            made[k], deeper = self.levels[k](maps[k], deeper, tuple(wanted[k]))
        return [made[k] for k in range(len(maps))]

    def _make(
        self, in_channels: Sequence[int], out_channels: Sequence[int], order: Sequence[int]
    ) -> None:
        self.order = list(order)
        deepest = self.order[-1]
        width = self.mid_channels or min(WIDEST, in_channels[deepest])
        for k, (before, after) in enumerate(zip(in_channels, out_channels, strict=True)):
            gate = None if k == deepest else GATES[self.gate](width)
            self.levels.append(_Level(before, width, after, gate))


def _shallow_to_deep(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[int]:
    """Return the order of the student's maps, and refuse a teacher's that run the other way.

    >>> coarse, fine = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 4, 6)
    >>> _shallow_to_deep([coarse, fine], [fine, fine]), _shallow_to_deep([fine, fine], [fine] * 2)
    ([1, 0], [0, 1])
    """
    places = [prod(x.shape[2:]) for x in student]
    theirs = [prod(x.shape[2:]) for x in teacher]
    order = sorted(range(len(places)), key=lambda k: -places[k])
    if any(theirs[a] < theirs[b] and places[a] > places[b] for a, b in pairwise(order)):
        raise ValueError(
            f'levels are compared one by one, but those of the student have {places} places, those '
            f'of the teacher {theirs}: one list runs from shallow to deep, the other from deep to '
            "shallow. Mend: one of reads=dict(student=['student.stage1', …], teacher=[…]) the "
            'other way round'
        )
    return order


class _Level(nn.Module):
    """One level: its own map, what is handed on to it, and what it hands on."""

    def __init__(self, before: int, width: int, after: int, gate: nn.Module | None) -> None:
        super().__init__()
        bring = nn.Conv2d(before, width, 1, bias=False)
        give = nn.Conv2d(width, after, 3, padding=1, bias=False)
        for conv in (bring, give):  # as the authors' codes
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.bring = nn.Sequential(bring, BatchNorm(width))
        self.give = nn.Sequential(give, BatchNorm(after))
        self.gate, self.width = gate, width

    def forward(
        self, x: Tensor, deeper: Tensor | None, size: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        x = self.bring(x)
        if self.gate is not None and deeper is not None:
            deeper = _nearest(deeper, x.shape[2:])
            own, other = self.gate(x, deeper)
            x = own * x + other * deeper
        x = _nearest(x, size)
        return self.give(x), x


class ReviewGate(nn.Module):
    """Two maps between 0 and 1, of what both hold at a place.

    Args:
        channels: Of each.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2, 1)

    def forward(self, x: Tensor, deeper: Tensor) -> tuple[Tensor, ...]:
        """Return how much of each map (N, C, H, W) is taken, (N, 1, H, W) each."""
        return self.conv(torch.cat([x, deeper], 1)).sigmoid().split(1, 1)


class SelectiveGate(nn.Module):
    """For each channel how much of either is taken, 1 together, by what both hold on average.

    Args:
        channels: Of each.
        reduction: A layer of so many times fewer channels lies between, 32 at least.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow = max(channels // reduction, 32)
        self.squeeze = nn.Conv2d(channels, narrow, 1, bias=False)
        self.norm = BatchNorm(narrow)
        self.own, self.other = (nn.Conv2d(narrow, channels, 1) for _ in range(2))

    def forward(self, x: Tensor, deeper: Tensor) -> tuple[Tensor, ...]:
        """Return how much of each map (N, C, H, W) is taken, (N, C, 1, 1) each."""
        narrow = self.norm(self.squeeze((x + deeper).mean((2, 3), keepdim=True))).relu()
        return torch.stack([self.own(narrow), self.other(narrow)]).softmax(0).unbind()


GATES = dict(review=ReviewGate, selective=SelectiveGate)


def _nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, tuple(size), mode='nearest')
