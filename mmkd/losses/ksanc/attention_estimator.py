"""KSANC's attention estimator: squeezes the map of one stage to one vector."""

from torch import Tensor, nn

from mmkd.utils.checks import check_choice, check_count


class AttentionEstimator(nn.Module):
    r"""Pools a stage's map by a learned attention that the network's global descriptor is added to.

    Paper: Shu et al., Knowledge Squeezed Adversarial Network Compression (KSANC), arXiv 1904.05100,
    figure of the attention estimator and the equations of M and g̃^a. With L the map after the
    channel transform convolution (1×1, the student's alone), g the global descriptor, and every
    convolution 1×1:

    .. math:: \hat L_p = L_p + W_g g + b_g, \quad M = \mathrm{softmax}_p(w^\top \hat L_p), \quad
              \tilde g = \sum_p M_p \hat L_p

    * The equation multiplies M with the fused map (``multiply='fused'``), the figure with L
      (``multiply='feature'``).
    * The equation ends in an average pooling, although M sums to 1 already: 1/HW makes the
      descriptor of a 32×32 stage 16 times smaller than that of an 8×8 stage, its squared distance
      256 times. The default adds up; 'avg' is the equation.
    * w is linear, so that the same vector added everywhere cannot move a softmax over places: M
      does not depend on g. By the equation g̃ is the attended map plus W_g g; by the figure g has
      no part in it, and no weights here.

    M sums to 1, so the transform and the sum may change places: the map is pooled first, and
    neither a transformed nor a fused map is ever made. Both orders give the same numbers.

    Args:
        channels: Channels of the descriptor, the teacher's in this stage.
        global_channels: Length of the global descriptor.
        in_channels: Channels of the map where a transform convolution takes them to ``channels``;
            None for no such convolution.
        multiply: 'fused' or 'feature'.
        pooling: 'sum' or 'avg'.

    Raises:
        ValueError: an unknown option, channels below 1.

    Examples:
        >>> import torch
        >>> estimator = AttentionEstimator(1, 1)
        >>> for p, value in zip(estimator.parameters(), (1., 2., .5)):  # w, W_g, b_g
        ...     _ = p.data.fill_(value)
        >>> x, g = torch.tensor([[[[1., 3.]]]]).log(), torch.tensor([[3.]])
        >>> estimator(x, g).item()  # 3/4 ln 3 + 2 · 3 + 1/2
        7.3239...
    """

    def __init__(
        self,
        channels: int,
        global_channels: int | None,
        in_channels: int | None = None,
        multiply: str = 'fused',
        pooling: str = 'sum',
    ) -> None:
        super().__init__()
        check_choice('multiply', multiply, ('fused', 'feature'))
        check_choice('pooling', pooling, ('sum', 'avg'))
        check_count('channels', channels, 1)
        self.pooling = pooling
        # A bias would be a constant under the softmax.
        self.score = nn.Linear(channels, 1, bias=False)
        self.transform: nn.Linear | None = None
        self.descriptor: nn.Linear | None = None
        if in_channels is not None:
            check_count('in_channels', in_channels, 1)
            self.transform = nn.Linear(in_channels, channels)
        if multiply == 'fused':
            check_count('global_channels', global_channels, 1)  # type: ignore[arg-type]
            self.descriptor = nn.Linear(global_channels, channels)  # type: ignore[arg-type]

    def forward(self, x: Tensor, global_: Tensor) -> Tensor:
        """Return descriptors (N, channels) of maps (N, C, H, W) and global descriptors (N, …)."""
        x = x.flatten(2)
        weight = self.score.weight
        if self.transform is not None:
            weight = weight @ self.transform.weight
        # Expanded: a weight of two axes would copy the map.
        attention = (weight.expand(len(x), -1, -1) @ x).softmax(2)
        squeezed = (x @ attention.mT).squeeze(2)
        if self.transform is not None:
            squeezed = self.transform(squeezed)
        if self.descriptor is not None:
            squeezed = squeezed + self.descriptor(global_)
        return squeezed if self.pooling == 'sum' else squeezed / x.shape[2]
