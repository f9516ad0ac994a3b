"""Batches of nothing but void: one is no mistake, many in a row are."""

import logging

from mmengine.logging import print_log

from mmkd.structures.batch import Batch

MANY = 50  # in a row


class VoidBatches:
    """Counts training batches without a valid position.

    The first one is warned of, then each that doubles their number; ``MANY`` in a row end the run.
    """

    def __init__(self) -> None:
        self.total = self.row = 0

    def note(self, batch: Batch, valid: bool) -> None:
        """Count a batch.

        Args:
            batch: For the files that it came from.
            valid: Whether it has a valid position.

        Raises:
            ValueError: The last of ``MANY`` in a row.
        """
        if valid:
            self.row = 0
            return
        self.total, self.row = self.total + 1, self.row + 1
        if self.row >= MANY:
            raise ValueError(
                f'{self.row} batches in a row have no valid position. The last one: '
                f'{batch.tell_void()}'
            )
        if not self.total & (self.total - 1):  # a power of two
            batches = 'a batch has' if self.total == 1 else f'{self.total} batches so far have'
            print_log(
                f'mmkd: {batches} no valid position, and the labels teach nothing in such a step. '
                f'This one: {batch.tell_void()}',
                logger='current',
                level=logging.WARNING,
            )
