"""Connectors of a list of maps: one for each level, shallow to deep."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor


class LevelsConnector(BaseModule):
    """What brings a list of the student's maps to the teacher's, all at once.

    It stands at an argument that is :class:`mmkd.losses.Many`. A Distiller calls :meth:`build`
    with what is read before training, and gives ``forward`` the sizes of the teacher's maps.
    """

    def build(self, x: Sequence[Tensor], like: Sequence[Tensor]) -> str:
        """Make the parts that only shapes decide.

        Args:
            x: The student's maps.
            like: The teacher's.

        Returns:
            What was made, in words; '' for nothing.
        """
        raise NotImplementedError(f'{type(self).__name__} does not say what it is made of')

    def forward(
        self, x: Sequence[Tensor], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Tensor]:
        """Return what the loss reads, of the teacher's channels and these sizes.

        Args:
            x: The student's maps.
            sizes: Height and width of each of the teacher's maps; None: as they are.
        """
        raise NotImplementedError(f'{type(self).__name__} does not say what it does')
