"""MinCE: at every place the member that knows the label best."""

import torch
from torch import Tensor

from mmkd.distiller.members.kinds.combine import Combine
from mmkd.distiller.members.kinds.mean import log_mean
from mmkd.losses.functional import widen
from mmkd.registry import KINDS


@KINDS.register_module(name='min-ce')
class MinCE(Combine):
    r"""The logits of the member of the lowest cross-entropy, for each image or each pixel.

    .. math:: z_i = z_i^{m(i)}, \quad m(i) = \arg\min_m - \ln \mathrm{softmax}(z_i^m)_{y_i}

    Of members that are alike the first one counts. A place without a label has the mean of all
    members' probabilities, as :class:`mmkd.distiller.members.kinds.mean.Mean`.

    Args:
        drop: How likely each member is left out of a step.

    Examples:
        >>> good, bad = torch.tensor([[3., 1.], [1., 1.]]), torch.tensor([[1., 1.], [0., 5.]])
        >>> MinCE()([good, bad], torch.tensor([0, 1]))
        tensor([[3., 1.],
                [0., 5.]])
    """

    reads_labels = True
    reads_classes = True

    def combine(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Return the logits of the best member of each place."""
        if labels is None:
            raise ValueError('min-ce needs labels of the batch. Mend: a data set with labels')
        mean = log_mean(values)  # it refuses a single class
        logits = widen(values)[0]
        known = ((labels >= 0) & (labels < values.shape[2])).unsqueeze(1)
        own = (
            labels.unsqueeze(1).where(known, labels.new_zeros(())).expand(len(values), *known.shape)
        )
        best = logits.log_softmax(2).gather(2, own).argmax(0)  # the highest likelihood
        index = best.unsqueeze(0).expand(1, *logits.shape[1:])
        return torch.where(known, logits.gather(0, index)[0], mean)
