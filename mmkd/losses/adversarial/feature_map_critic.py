"""AFD's discriminator: whose feature map is this?"""

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.utils.checks import check_count

BN = dict(type='BN')


@MODELS.register_module()
class FeatureMapCritic(BaseModule):
    """Tell one network's feature maps from another's: convolution, norm, LeakyReLU, one score.

    Paper: Chung et al., Feature-map-level Online Adversarial Knowledge Distillation (AFD), ICML
    2020, arXiv 2002.01775, D_k: one number in (0, 1) a map. The sigmoid is the loss's:
    ``AdversarialLoss(mode='lsgan', sigmoid=True)``. The paper's layers could not be read; these are
    the usual ones of a small discriminator, with a 3×3 convolution.

    ``joint`` asks AdversarialLoss to show both maps in one batch, in the student's step as in the
    critic's own: a BatchNorm over each side alone would take away the very mean and scale that tell
    them apart.

    Args:
        in_channels: Channels of the map.
        size: Height and width of the map; from 8×8 the convolution has stride 2.
        channels: Width between the two layers; None takes ``in_channels``.
        pooled: One score a map, the mean over places; False: a score for each place, which a mask
            needs.
        norm_cfg: mmcv's norm; None leaves it out.
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: A map of other channels, or none; an image.

    Examples:
        >>> import torch
        >>> FeatureMapCritic(64, size=(8, 8))(torch.zeros(4, 64, 8, 8)).shape
        torch.Size([4, 1])
        >>> FeatureMapCritic(64, size=(8, 8), pooled=False)(torch.zeros(4, 64, 8, 8)).shape
        torch.Size([4, 1, 4, 4])
    """

    joint = True

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int] = (8, 8),
        channels: int | None = None,
        pooled: bool = True,
        norm_cfg: dict | None = BN,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        channels = in_channels if channels is None else channels
        check_count('in_channels', in_channels, 1)
        check_count('channels', channels, 1)
        if len(size) != 2:
            raise ValueError(
                f'FeatureMapCritic looks at maps (N, C, H, W), got size={tuple(size)}. Mend: tap '
                'the feature map before the pooling'
            )
        self.in_channels, self.pooled = in_channels, pooled
        self.conv = ConvModule(
            in_channels,
            channels,
            3,
            2 if min(size) >= 8 else 1,
            1,
            norm_cfg=norm_cfg,
            act_cfg=dict(type='LeakyReLU', negative_slope=0.2),
        )
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Return scores (N, 1), or (N, 1, h, w) of places, of maps (N, in_channels, H, W)."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'this FeatureMapCritic is one of maps (N, {self.in_channels}, H, W), got '
                f'{tuple(x.shape)}; mend: in_channels={x.shape[1]}, or none at all: the Distiller '
                'finds them'
            )
        if image is not None:
            raise ValueError(
                'FeatureMapCritic looks at feature maps alone but got an image; mend: drop '
                'reads=dict(image=...)'
            )
        scores = self.score(self.conv(x))
        return scores.mean((2, 3)) if self.pooled else scores
