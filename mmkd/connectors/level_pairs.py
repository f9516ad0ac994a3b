"""Pairs of levels: each map of the student is brought to each of the teacher's."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.connectors.batch_norm import BatchNorm
from mmkd.connectors.levels import LevelsConnector
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, not_built


@MODELS.register_module()
class LevelPairs(LevelsConnector):
    r"""Bring every map of the student to every map of the teacher, by layers for each pair.

    Paper: Chen et al., Cross-Layer Distillation with Semantic Calibration (SemCKD), AAAI 2021,
    arXiv 2012.03236. Of S maps and T of the teacher, S·T maps: those of the first map to all of the
    teacher's, then those of the second. Each is pooled (adaptive mean) to the smaller of both
    heights and widths, then goes through 1×1, 3×3 and 1×1 convolutions with normalisations and
    ReLU between, twice as wide as the teacher's map, as in the authors' code. Lists may have other
    lengths. Normalisations are those of all ranks.

    Args:
        in_channels: Of the student's maps; None: as the Distiller finds them.
        out_channels: Of the teacher's; likewise.
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: Channels below 1, no maps, another number of maps than it was built for.
        RuntimeError: Called before the channels are known.

    Examples:
        >>> import torch
        >>> pairs = LevelPairs(in_channels=(4, 8), out_channels=(6,))
        >>> maps = [torch.zeros(2, 4, 8, 12), torch.zeros(2, 8, 4, 6)]
        >>> [tuple(x.shape) for x in pairs(maps, [(6, 6)])]
        [(2, 6, 6, 6), (2, 6, 4, 6)]
    """

    def __init__(
        self,
        in_channels: Sequence[int] | None = None,
        out_channels: Sequence[int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.pairs = nn.ModuleList()
        if in_channels is not None and out_channels is not None:
            for channels in (*in_channels, *out_channels):
                check_count('channels of LevelPairs', channels, 1)
            self._make(in_channels, out_channels)

    def build(self, x: Sequence[Tensor], like: Sequence[Tensor]) -> str:
        """Make the layers, if channels were left out; return what was made, in words."""
        for name, maps in (('student', x), ('teacher', like)):
            if not isinstance(maps, list | tuple) or not maps or any(m.dim() != 4 for m in maps):
                raise ValueError(
                    f'{name} must be a list of maps (N, C, H, W); mend: '
                    f"reads=dict({name}=['{name}.stage1', …])"
                )
        if len(self.pairs):
            return ''
        before, after = [one.shape[1] for one in x], [one.shape[1] for one in like]
        self._make(before, after)
        self.to(x[0].device)
        return f'{len(x)} maps of {before} channels -> each of {after}'

    def forward(
        self, x: Sequence[Tensor], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Tensor]:
        """Return S·T maps, those of the first map first.

        Args:
            x: The student's maps.
            sizes: Height and width of the teacher's maps; None: nothing is pooled.
        """
        if not len(self.pairs):
            raise not_built(
                'the pairs are', 'in_channels=[…] and out_channels=[…]', 'build(x, like)'
            )
        if len(x) != len(self.pairs) or (sizes is not None and len(sizes) != self._others):
            raise ValueError(
                f'pairs of {len(self.pairs)} and {self._others} maps got {len(x)} and '
                f'{len(sizes or ())}; mend: the taps that they were made for'
            )
        made = []
        for one, layers in zip(x, self.pairs, strict=True):
            for k, layer in enumerate(layers.children()):
                made.append(layer(one if sizes is None else shrunk(one, sizes[k])))
        return made

    @property
    def _others(self) -> int:
        return len([*self.pairs[0].children()])

    def _make(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        for before in in_channels:
            self.pairs.append(nn.ModuleList(_layers(before, after) for after in out_channels))


def shrunk(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map pooled to the smaller of its own and another height and width.

    >>> import torch
    >>> shrunk(torch.tensor([[[[1., 3.], [5., 7.]]]]), (1, 4)).tolist()
    [[[[3.0, 5.0]]]]
    """
    height, width = (min(own, other) for own, other in zip(x.shape[2:], size, strict=True))
    if (height, width) == tuple(x.shape[2:]):
        return x
    return F.adaptive_avg_pool2d(x, (height, width))


def _layers(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, 2 * after, 1, bias=False),
        BatchNorm(2 * after),
        nn.ReLU(),
        nn.Conv2d(2 * after, 2 * after, 3, padding=1, bias=False),
        BatchNorm(2 * after),
        nn.ReLU(),
        nn.Conv2d(2 * after, after, 1, bias=False),
    )
