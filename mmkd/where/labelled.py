"""Where an image has labels, or has none."""

from collections.abc import Mapping

from torch import Tensor

from mmkd.registry import MODELS
from mmkd.structures.batch import Batch, read_batch
from mmkd.utils.checks import check_non_negative
from mmkd.where.base import Where


@MODELS.register_module()
class Labelled(Where):
    """One weight for all positions of images with labels, another for those without.

    ``Labelled()`` is the labelled images alone, ``Labelled(labelled=0.0, unlabelled=1.0)`` the
    others. The loss divides by the sum of the weights: only their proportion matters.

    Args:
        labelled: Weight of images with labels.
        unlabelled: Weight of images without.
        reads: See :class:`mmkd.where.base.Where`; this part looks at neither side.

    Raises:
        ValueError: A weight below 0, or both 0.

    Examples:
        >>> import torch
        >>> from mmengine.structures import BaseDataElement
        >>> samples = [BaseDataElement(), BaseDataElement(metainfo=dict(labelled=False))]
        >>> Labelled(unlabelled=0.5)(Batch(torch.zeros(2, 3), samples), torch.zeros(2, 4))
        tensor([1.0000, 0.5000])
    """

    def __init__(
        self,
        labelled: float = 1.0,
        unlabelled: float = 0.0,
        reads: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reads)
        check_non_negative('labelled of Labelled', labelled)
        check_non_negative('unlabelled of Labelled', unlabelled)
        if not labelled and not unlabelled:
            raise ValueError(
                'Labelled: labelled=0 and unlabelled=0 leave nothing that counts. Mend: one of '
                'them above 0'
            )
        self.labelled, self.unlabelled = labelled, unlabelled
        self.skips_unlabelled = not unlabelled

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return the weight of its image at every position, (N, \*S)."""
        own = read_batch(batch, 'labelled', student)
        weight = student.new_full(own.shape, float(self.unlabelled))
        return weight.masked_fill(own, float(self.labelled))
