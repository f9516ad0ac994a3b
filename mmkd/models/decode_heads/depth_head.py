"""A thin depth head on any mm backbone: a soft-weighted sum of log-spaced bins, or regression."""

import math
from itertools import pairwise
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmkd.losses.base import widen
from mmkd.registry import MODELS
from mmkd.structures.batch import files_of
from mmkd.utils.checks import check_count, check_positive


class LogDepth(nn.Module):
    r"""Turn logits into metres; a module, so that a tap can read them: ``decode_head.depth``.

    With K > 1 bins the depth is the soft-weighted sum of their centres in log space, with one
    channel it is direct:

    .. math:: \ln d = \sum_k p_k \ln c_k, \quad
              \ln c_k = \ln d_{min} + \tfrac{k + 1/2}{K} \ln \tfrac{d_{max}}{d_{min}};
              \qquad \ln d = \ln d_{min} + \sigma(x) \ln \tfrac{d_{max}}{d_{min}}

    Args:
        num_bins: K.
        min_depth: Metres.
        max_depth: Metres.

    Examples:
        >>> alike = torch.tensor([[[[9.]], [[9.]]]])
        >>> LogDepth(2, 1., 16.)(alike)  # centres 2 and 8: sqrt(16)
        tensor([[[[4.]]]])
        >>> LogDepth(1, 1., 16.)(torch.zeros(1, 1, 1, 1))
        tensor([[[[4.]]]])
    """

    def __init__(self, num_bins: int, min_depth: float, max_depth: float) -> None:
        super().__init__()
        self.num_bins, self.begin = num_bins, math.log(min_depth)
        self.width = math.log(max_depth / min_depth)

    def forward(self, logits: Tensor) -> Tensor:
        """Return metres (N, 1, H, W), float32 or wider, of logits (N, K, H, W)."""
        (logits,) = widen(logits)
        if logits.shape[1] == 1:
            return (self.begin + self.width * logits.sigmoid()).exp()
        # no buffer: a teacher in bfloat16 would round it
        places = torch.arange(self.num_bins, device=logits.device, dtype=logits.dtype)
        centres = self.begin + (places.view(-1, 1, 1) + 0.5) / self.num_bins * self.width
        return (logits.softmax(1) * centres).sum(1, keepdim=True).exp()


@MODELS.register_module()
class DepthHead(BaseDecodeHead):
    """Depth from a feature map of an mm backbone, for mmseg's ``DepthEstimator``.

    As in the depth experiments of Structured KD (Liu et al., TPAMI 2020, arXiv 1903.04197, on VNL,
    Yin et al., ICCV 2019): classification over log-spaced bins whose soft-weighted sum is the
    depth, or direct regression. ``num_convs`` 3×3 convolutions (tap ``decode_head.convs``), the
    bins' logits (``decode_head.conv_seg``), metres (``decode_head.depth``).

    The losses see depth at the size of the ground truth. Depth outside [min_depth, max_depth] is
    unknown: it is shown as 0, which ``SiLogLoss`` leaves out. Images without any known depth are
    left out of the loss.

    Args:
        min_depth: Metres, above 0.
        max_depth: Metres.
        num_bins: Log-spaced bins; 1 is direct regression.
        num_convs: 3×3 convolutions before the classifier.
        loss_decode: Losses called as ``loss(metres, true metres)``.
        **kwargs: What mmseg's decode heads take: ``in_channels``, ``in_index``, ``channels``,
            ``norm_cfg``, …

    Raises:
        ValueError: Ground truth in another unit: less than 5 % of it in [min_depth, max_depth] in
            a batch before any had more; maps of several sizes or channels.

    Examples:
        >>> head = DepthHead(0.5, 10., num_bins=16, in_channels=4, channels=8)
        >>> head([torch.zeros(2, 4, 6, 8)]).shape
        torch.Size([2, 1, 6, 8])
    """

    def __init__(
        self,
        min_depth: float,
        max_depth: float,
        num_bins: int = 64,
        num_convs: int = 1,
        loss_decode: Any = dict(type='SiLogLoss'),  # noqa: B006  as mmseg's heads have it
        **kwargs: Any,
    ) -> None:
        check_positive('min_depth', min_depth)
        check_positive('max_depth', max_depth)
        if not max_depth > min_depth:
            raise ValueError(
                f'max_depth must be above min_depth={min_depth}, got {max_depth!r}; both are metres'
            )
        check_count('num_bins', num_bins, 1)
        check_count('num_convs', num_convs, 0)
        super().__init__(num_classes=num_bins, threshold=0.0, loss_decode=loss_decode, **kwargs)
        self.min_depth, self.max_depth = min_depth, max_depth
        given = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        widths = [self.in_channels] + [self.channels] * num_convs
        self.convs = nn.Sequential(
            *(ConvModule(*pair, 3, padding=1, **given) for pair in pairwise(widths))
        )
        if not num_convs and self.in_channels != self.channels:
            raise ValueError(
                f'num_convs=0 needs channels == in_channels, got {self.channels} and '
                f'{self.in_channels}'
            )
        self.depth = LogDepth(num_bins, min_depth, max_depth)
        self.unit_seen = False

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return metres (N, 1, h, w) at the resolution of the feature map."""
        return self.depth(self.cls_seg(self.convs(self._transform_inputs(inputs))))

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Return the losses of predicted metres (N, 1, h, w)."""
        truth = self._truth(batch_data_samples)
        metres = resize(
            seg_logits, size=truth.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        known = truth.flatten(1).any(1)
        losses: dict[str, Tensor] = {}
        several = isinstance(self.loss_decode, nn.ModuleList)
        for loss in self.loss_decode if several else [self.loss_decode]:
            name = str(loss.loss_name)
            # of no image at all the losses' own gradient would be NaN
            value = loss(metres[known], truth[known]) if known.any() else 0.0 * metres.sum()
            losses[name] = value + losses.get(name, 0.0)
        return losses

    def _truth(self, samples: list) -> Tensor:
        """Return true metres (N, 1, H, W), 0 where they are unknown."""
        without = [sample for sample in samples if 'gt_depth_map' not in sample]
        if without:
            raise ValueError(
                f'the data samples hold no gt_depth_map{_files(without)}. Mend: '
                'LoadDepthAnnotation in the training pipeline'
            )
        shapes = {tuple(sample.gt_depth_map.data.shape): sample for sample in samples}
        odd = [sample for sample in samples if sample.gt_depth_map.data.shape[:-2] != (1,)]
        if odd or len(shapes) > 1:
            raise ValueError(
                'depth maps must be (1, H, W) of one size, got '
                f'{sorted(shapes)}{_files(odd or list(shapes.values()))}. Mend: depth files of one '
                'channel; Resize, RandomCrop, or size of the data preprocessor'
            )
        truth = torch.stack([sample.gt_depth_map.data for sample in samples]).float()
        inside = (truth >= self.min_depth) & (truth <= self.max_depth)
        given = torch.isfinite(truth) & (truth > 0)
        # Sky and padding may be far outside and most of a batch; in another unit nearly nothing is
        # inside. Once a batch was, the unit is right, and another one may lie far away.
        fits = self.unit_seen or bool(20 * (given & inside).sum() >= given.sum())
        self.unit_seen = fits and (self.unit_seen or bool(given.any()))
        if not fits:
            far = 20 * (given & inside).flatten(1).sum(1) < given.flatten(1).sum(1)
            theirs = [sample for sample, own in zip(samples, far.tolist(), strict=True) if own]
            raise ValueError(
                f'depth of this batch is outside {self.min_depth} … {self.max_depth} m: median '
                f'{float(truth[given].median()):.4g}{_files(theirs)}. Mend: {self._unit()}'
            )
        return truth.where(inside, truth.new_zeros(()))

    def _unit(self) -> str:
        return (
            'LoadDepthAnnotation(depth_rescale_factor=…) must give metres (0.001 for files in '
            f'millimetres), and their range must be that of the head (min_depth={self.min_depth}, '
            f'max_depth={self.max_depth})'
        )


def _files(samples: list) -> str:
    return files_of(samples, 'depth_map_path')
