"""Affinity rows: what stands for attention in a network that has none."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmkd.losses.checks import shape_of
from mmkd.losses.functional import no_autocast, unit_vectors, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive, check_size


@MODELS.register_module()
class AffinityRows(BaseModule):
    r"""Turn a feature map into rows of probability over its places, as attention has them.

    Paper: in place of the attention of Aguilar et al., arXiv 1910.03723, for convolutional
    networks; the rows are those of CIRKD (Yang et al., CVPR 2022, arXiv 2204.06986) within an
    image.

    .. math:: A_{ij} = \mathrm{softmax}_j(\cos(f_i, f_j) / \tau)

    A connector of :class:`mmkd.AttentionKLLoss`, on one side or on both:
    ``connectors=dict(student=dict(type='AffinityRows', size=(16, 16)), …)``. Channels may differ
    between the networks; nothing is learned.

    Args:
        size: Height and width to which the map is averaged, Q = H·W; None leaves it.
        key_size: The same of the keys, for the spatially reduced attention of a SegFormer; None: as
            ``size``.
        tau: Temperature, above 0.
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: No map, or a bad argument.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[[[1., 0.]], [[0., 1.]]]])  # two places, orthogonal
        >>> AffinityRows(tau=0.5)(x)
        tensor([[[[0.8808, 0.1192],
                  [0.1192, 0.8808]]]])
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        key_size: tuple[int, int] | None = None,
        tau: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_positive('tau', tau)
        check_size('size', size)
        check_size('key_size', key_size)
        self.size, self.key_size, self.tau = size, key_size, tau

    def forward(self, x: Tensor) -> Tensor:
        """Return rows (N, 1, Q, K) of a map (N, C, H, W), float32 or wider."""
        if x.dim() != 4:
            raise ValueError(
                f'AffinityRows needs a map (N, C, H, W), got {shape_of(x)}. Mend: tap a feature map'
            )
        with no_autocast(x):
            (x,) = widen(x)
            queries = self._places(x, self.size)
            keys = queries if self.key_size is None else self._places(x, self.key_size)
            return (queries.transpose(1, 2) @ keys / self.tau).softmax(-1).unsqueeze(1)

    def _places(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return unit vectors (N, C, places)."""
        x = x if size is None else F.adaptive_avg_pool2d(x, size)
        return unit_vectors(x.flatten(2), 1)
