"""LastBatch: what a student said of images in the step before, when they come again in this one."""

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from torch import Tensor

from mmkd.distiller.members.kinds.combine import Combine
from mmkd.losses.checks import shape_of
from mmkd.registry import KINDS

HOOK = "custom_hooks=[…, dict(type='mmkd.LastBatchHook')]"
_STATE = re.compile(r'rank(\d+)\.([^.]+)')  # of a checkpoint: whose, and of which tap


@KINDS.register_module(name='last-batch')
class LastBatch(Combine):
    r"""What the student itself said in the step before, by the weights and norms of that step.

    Paper: Shen et al., Self-Distillation from the Last Mini-Batch (DLB), CVPR 2022, arXiv
    2203.16172, where half of each batch comes again in the next one. With f_k the student in step
    k, in train mode, x the images that come again from step k − 1 and x′ those that are new:

    .. math:: \mathrm{last}_k(x) = f_{k-1}(x), \quad \mathrm{last}_k(x') = f_k(x')

    Without gradient. Of new images it says what the student says now, from which there is nothing
    to learn: a divergence is 0 there, and ``mask='batch.repeated'`` leaves them out of the mean.
    :class:`mmkd.LastBatchHook` makes images come again, the same view of them, and tells where one
    step ends; a checkpoint holds what was said, of every rank, so that a resumed run goes on
    exactly.

    Raises:
        ValueError: What was said before has another shape than what is said now.
        RuntimeError: Images come again of which nothing was said.

    Examples:
        >>> last, said = LastBatch(), torch.tensor([[1.], [2.]], requires_grad=True)
        >>> last.recall('logits', said, [])
        tensor([[1.],
                [2.]])
        >>> last.turn()  # the next step: both come again, before a new one
        >>> last.recall('logits', torch.tensor([[5.], [6.], [7.]]), [0, 1])
        tensor([[1.],
                [2.],
                [7.]])
    """

    recalls = True

    def __init__(self) -> None:
        super().__init__()
        self.led = False  # whether a hook says where a step ends
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing was said."""
        self.memory: dict[int, dict[str, Tensor]] = {}  # rank -> tap -> said in the step before
        self.heard: dict[str, Tensor] = {}  # tap -> said in this step of what will come again
        self._of_all: dict[int, dict[str, Tensor]] = {}  # the same of every rank

    @property
    def ranks(self) -> int:
        """Number of ranks of which it knows what they said in the step before."""
        return len(self.memory)

    def knows(self, taps: Iterable[str]) -> bool:
        """Return whether it knows what was said in the step before, on every rank."""
        there = [self.memory.get(rank, {}) for rank in range(get_world_size())]
        same = len(self.memory) == get_world_size()
        return same and all(tap in one for tap in taps for one in there)

    def turn(self) -> None:
        """Begin a step: what was heard in the one before is what will be said again."""
        if self.heard:
            self.memory, self.heard, self._of_all = {get_rank(): self.heard}, {}, {}

    def gather(self) -> None:
        """Learn what every rank heard: a checkpoint is written by one of them, for all."""
        if get_world_size() > 1:
            own = {tap: x.cpu() for tap, x in self.heard.items()}
            self._of_all = dict(enumerate(all_gather_object(own)))

    def recall(self, tap: str, said: Tensor, repeated: list[int]) -> Tensor:
        r"""Return what was said before of images that come again, what is said now of the others.

        Args:
            tap: Name of the tap.
            said: What the student says of the batch, (N, C, \*S).
            repeated: The places of images that come again: the first ones, in the order of then.
        """
        if not isinstance(said, Tensor):
            raise TypeError(
                'a tap that gives several tensors cannot be recalled. Mend: one of them'
            )
        number = len(repeated)
        if repeated != list(range(number)):  # by a list of indices a GPU would have to wait
            raise ValueError(
                f'images that come again must be the first of the batch, got places {repeated}. '
                f'Mend: {HOOK}, which puts them there'
            )
        learns, said = said.requires_grad, said.detach()
        if learns and self.training:  # no probe, no measurement without gradients
            self._hear(tap, said[number:])
        if not repeated:
            return said
        before = self.memory.get(get_rank(), {}).get(tap)
        if before is None:
            raise RuntimeError(
                'images come again from the step before, but nothing is kept of what was said of '
                f'them. Mend: {HOOK}, which begins with new images'
            )
        if before.shape != said[:number].shape:
            raise ValueError(
                f'{number} images come again, of which the student says '
                f'{shape_of(said[:number])} now and said {shape_of(before)} in the step '
                'before: views of another size cannot be compared. Mend: one size for all batches '
                '(data_preprocessor=dict(…, size=(512, 512)), a crop of that size in the pipeline)'
            )
        return torch.cat([before.to(said), said[number:]])

    def _hear(self, tap: str, said: Tensor) -> None:
        """Note what is said of new images; of a step that is looked at twice the first counts."""
        if tap not in self.heard:
            self.heard[tap] = said.clone()  # a part would hold the whole
        elif not self.led:
            self.led = True  # said once
            print_log(
                'mmkd: what a student said in the last batch is read, but nothing makes its images '
                f'come again, so there is nothing to learn from it. Mend: {HOOK}, which mmkd train '
                'adds',
                logger='current',
                level=logging.WARNING,
            )

    # ------------------------------------------------------------------ checkpoints

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        heard = {get_rank(): self.heard} if self.heard else self.memory
        for rank, taps in (self._of_all or heard).items():
            for tap, said in taps.items():
                destination[f'{prefix}rank{rank}.{tap}'] = said

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, found, error_msgs
        )
        self.forget()
        for key in [key for key in state_dict if key.startswith(prefix)]:
            own = _STATE.fullmatch(key[len(prefix) :])
            if own:
                self.memory.setdefault(int(own[1]), {})[own[2]] = state_dict[key].detach().clone()
        unexpected_keys += [key for key in found if not _STATE.fullmatch(key[len(prefix) :])]
