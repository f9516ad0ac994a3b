"""Gate: members weighed by what is learned of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkd.distiller.members.kinds.combine import Combine, alike
from mmkd.losses.checks import check_classes
from mmkd.losses.functional import widen
from mmkd.registry import KINDS


@KINDS.register_module(name='gate')
class Gate(Combine):
    r"""Logits of members, weighed for each image by a learned softmax.

    .. math:: z_i = \sum_m g_m z_i^m, \quad g = \mathrm{softmax}(W u + b)

    u holds each member's class probabilities, averaged over the places of the image; no gradient
    passes it. W and b begin at 0, so that all members count alike. They learn from an objective
    that reads the gate as ``student``, a cross-entropy with the labels, say, whose gradient reaches
    the members through z as well. They are in the student's optimizer and in the checkpoint.

    Of members that ``drop`` leaves out, the softmax knows nothing.

    Args:
        drop: How likely each member is left out of a step.

    Examples:
        >>> gate = Gate()
        >>> members = [torch.tensor([[2., 0.]]), torch.tensor([[0., 4.]])]
        >>> gate.build(members)
        '4 → 2 weights'
        >>> gate(members)  # both count alike
        tensor([[1., 2.]], grad_fn=<SumBackward1>)
    """

    learns = True
    reads_classes = True
    weigh: nn.Linear

    def build(self, values: Sequence[Tensor]) -> str:
        """Make the layer that weighs."""
        stack = alike(values)
        check_classes(stack[0])
        inputs = len(stack) * stack.shape[2]
        self.weigh = nn.Linear(inputs, len(stack), device=stack.device)
        for parameter in self.weigh.parameters():
            nn.init.zeros_(parameter)
        return f'{inputs} → {len(stack)} weights'

    def forward(self, values: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Return the weighed sum of the members' logits."""
        stack = widen(alike(values))[0]
        shares = self.shares(stack, self.kept(len(stack)))
        return (stack * shares.t().reshape(*stack.shape[:2], *[1] * (stack.dim() - 2))).sum(0)

    def shares(self, stack: Tensor, kept: Sequence[int]) -> Tensor:
        r"""Return how much each member counts in each image (N, M), 0 of those left out.

        Args:
            stack: Their logits (M, N, C, \*S).
            kept: Who is not left out.
        """
        seen = stack.detach().softmax(2).reshape(*stack.shape[:3], -1).mean(-1)
        scores = self.weigh(seen.transpose(0, 1).flatten(1).to(self.weigh.weight.dtype))
        if len(kept) == len(stack):
            return scores.softmax(1)
        # column by column: a list of who is out would be copied to the device in every step
        out = torch.full_like(scores[:, 0], -torch.inf)
        columns = [scores[:, k] if k in kept else out for k in range(len(stack))]
        return torch.stack(columns, 1).softmax(1)
