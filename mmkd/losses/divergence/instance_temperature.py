"""What says the temperature of each image of CTKD, from what both networks predict of it."""

import torch
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.losses.features.point_wise import pool
from mmkd.losses.functional import call_in_dtype, counted, fill_masked, no_autocast, widen


class InstanceTemperature(nn.Module):
    r"""Two layers on the probabilities of the teacher's likeliest classes, one number an image.

    Paper: Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv
    2211.16231, where each instance, an image, has a temperature from both predictions. With K the
    teacher's likeliest classes at a position in order, as many as the first layer knows:

    .. math:: \theta_n = w_2^\top \, \mathrm{ReLU}\Big(W_1 \frac{1}{|V_n|} \sum_{i \in V_n}
              [p^t_{i K}, p^s_{i K}] + b_1\Big) + b_2

    Normaliser: averaged over the valid positions of each image, which of classes of images is the
    one that there is. w₂ begins at 0, so that all images begin at b₂. No gradient reaches the
    predictions. The authors' released code has the global temperature alone; a port to mdistiller
    has these layers with a batch normalisation between, which of one image fails and of two knows
    the sign alone: it is left out.

    Args:
        classes: Of the members.
        front: How many of the likeliest are read; at most all.
        width: Of the hidden layer.
        start: b₂, where θ begins.

    Examples:
        >>> says = InstanceTemperature(classes=2, start=0.5)
        >>> says(torch.zeros(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)).tolist()
        [0.5, 0.5, 0.5]
    """

    def __init__(
        self, classes: int, front: int = 100, width: int = 256, start: float = 0.0
    ) -> None:
        super().__init__()
        self.front = min(front, classes)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, start)
        self.layers = nn.Sequential(nn.Linear(2 * self.front, width), nn.ReLU(), last)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return θ (N,) of logits (N, C, \*S) under mask and weight (N, \*S)."""
        with no_autocast(student):
            return call_in_dtype(self.layers, self.read(student, teacher, mask, weight)).squeeze(1)

    @torch.no_grad()
    def read(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """Return what the layers are shown: means of probabilities (N, 2 K), the teacher's first.

        >>> says, logits = InstanceTemperature(classes=2), torch.tensor([[1., 3.]]).log()
        >>> says.read(torch.zeros(1, 2), logits, None, None)
        tensor([[0.7500, 0.2500, 0.5000, 0.5000]])
        """
        if student.shape[1] < self.front:
            raise ValueError(
                f'the temperature of an image is read off {self.front} classes, got student '
                f'{shape_of(student)}; mend: classes={student.shape[1]} (or None)'
            )
        counts = counted(mask, weight)
        p_s, p_t = (fill_masked(x, counts).softmax(1) for x in widen(student, teacher))
        likeliest, classes = p_t.topk(self.front, 1)
        ours, theirs, _ = pool(p_s.gather(1, classes), likeliest, mask, weight)
        return torch.cat([theirs, ours], 1)
