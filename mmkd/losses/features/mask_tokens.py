"""Tokens that find masks in a teacher's features, and how they are fitted to it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses.fitted.contract import Fitter
from mmkd.losses.fitted.part import FittedPart
from mmkd.losses.fitted.source import Source
from mmkd.losses.functional import fill_masked, no_autocast, widen
from mmkd.structures.batch import Batch, read_batch
from mmkd.utils.checks import (
    check_count,
    check_dict,
    check_keys,
    check_non_negative,
    check_positive,
)

_START = 0.01  # deviation of tokens before they are fitted
_POLY = 0.9  # the learning rate falls as (1 − step / steps)^0.9


@dataclass(frozen=True)
class TokenOptions:
    """How tokens are fitted, by SGD; the authors take 10,000 steps of 16 crops, and these numbers.

    Args:
        steps: How many.
        lr: Where the learning rate begins, which falls to 0.
        momentum: Of the steps.
        weight_decay: Of the tokens.
        dice: Weight of the term that keeps masks apart.

    Raises:
        ValueError: A number out of range.
    """

    steps: int = 1000
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-3
    dice: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        check_count('steps of fit', self.steps, 1)
        check_positive('lr of fit', self.lr)
        for name in ('momentum', 'weight_decay', 'dice'):
            check_non_negative(f'{name} of fit', getattr(self, name))

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> 'TokenOptions':
        """Return what a config says.

        Raises:
            TypeError: It is no dict, or has an unknown key.
        """
        check_dict('fit', options, 'fit=dict(steps=1000, lr=0.1)')
        check_keys(options, [field.name for field in fields(cls)], 'fit')
        return cls(**options)


class MaskTokens(FittedPart):
    """Tokens m (K, C); their masks are σ(m·F).

    Args:
        num_tokens: K.
        channels: C, the teacher's.
    """

    noun = 'set of tokens'
    tokens: Tensor

    def __init__(self, num_tokens: int, channels: int) -> None:
        super().__init__(tokens=torch.full((num_tokens, channels), torch.nan))

    def draw(self, generator: torch.Generator) -> None:
        """Draw tokens as they are before they are fitted."""
        self.tokens.copy_(_drawn(self.tokens, generator))


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return tokens as they are before they are fitted."""
    return (_START * torch.randn(like.shape, generator=generator)).to(like.device)


def masks_of(x: Tensor, tokens: Tensor) -> Tensor:
    r"""Return σ(m·x) (N, K, \*S) of features (N, C, \*S).

    >>> masks_of(torch.tensor([[[0., 1.]]]), torch.tensor([[0.], [1.]]))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.7311]]])
    """
    return (tokens @ x.reshape(*x.shape[:2], -1)).sigmoid().view(len(x), -1, *x.shape[2:])


def overlap(masks: Tensor) -> Tensor:
    r"""Return the Dice coefficient of two masks of an image, on average over all pairs.

    .. math:: \frac{1}{N K (K - 1)} \sum_n \sum_{k \ne l}
              \frac{2 \sum_i a_{nki} a_{nli}}{\sum_i a_{nki}^2 + \sum_i a_{nli}^2}

    Args:
        masks: a (N, K, \*S) above 0; one mask overlaps with none.

    Examples:
        >>> overlap(torch.tensor([[[1., 0.], [1., 1.]]]))  # 2 / (1 + 2)
        tensor(0.6667)
        >>> overlap(torch.ones(1, 1, 4))
        tensor(0.)
    """
    masks = masks.flatten(2)
    products = masks @ masks.mT
    squares = products.diagonal(dim1=1, dim2=2)
    sums = squares.unsqueeze(1) + squares.unsqueeze(2)
    dice = 2 * products / sums.clamp(min=torch.finfo(sums.dtype).tiny)
    pairs = len(masks) * masks.shape[1] * (masks.shape[1] - 1)
    return (dice.sum() - dice.diagonal(dim1=1, dim2=2).sum()) / max(pairs, 1)


class TokenFitter(Fitter):
    r"""Fit tokens so that the teacher still solves its task where its features are masked.

    The tap's map F becomes :math:`\sum_k \sigma(m_k \cdot F) F` on its way through the frozen
    teacher, in eval mode; the loss is the teacher's own on the labels, plus :func:`overlap` of the
    masks. (The authors' code has the teacher in train mode here, so that statistics of its
    BatchNorm move.)

    Args:
        source: Of the tokens.
        batches: How many there are in a pass.
        generator: Of where tokens begin.
        options: Of the steps.
    """

    watches = False

    def __init__(
        self, source: Source, batches: int, generator: torch.Generator, options: TokenOptions
    ) -> None:
        self.source, self.options = source, options
        self.part: MaskTokens = source.loss.part
        self.tokens = nn.Parameter(_drawn(self.part.tokens, generator))
        self.optimizer = torch.optim.SGD(
            [self.tokens],
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.passes = math.ceil(options.steps / batches)
        self._step = 0
        self._told: list[Tensor] = []

    def see(self, features: Any, batch: Batch) -> None:
        """Take one step."""
        if self._step == self.options.steps:
            return
        with torch.enable_grad():
            seen: list[Tensor] = []
            task = self.source.run.loss_with(self.source.tap, batch, self._masking(batch, seen))
            dice = torch.stack(seen).mean()
            value = task + self.options.dice * dice
        rate = self.options.lr * (1 - self._step / self.options.steps) ** _POLY
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self._step += 1
        self._told.append(torch.stack([task.detach().float(), dice.detach().float()]))

    def _masking(self, batch: Batch, seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
        def masking(x: Tensor) -> Tensor:
            with no_autocast(x):
                wide = widen(x.detach(), self.tokens[:0])[0]
                masks = masks_of(wide, self.tokens.to(wide))
                valid = read_batch(batch, 'valid', x) if self.source.masked else None
                seen.append(overlap(fill_masked(masks, valid)))
                return (masks.sum(1, keepdim=True) * wide).to(x.dtype)

        return masking

    def finish(self) -> dict[str, float]:
        """Write the tokens.

        Returns:
            ``steps``; ``task_loss`` and ``overlap``, the means of their last tenth.

        Raises:
            ValueError: They are not finite.
        """
        if not bool(self.tokens.isfinite().all()):
            raise ValueError(
                f'the tokens became NaN or Inf in {self._step} steps of lr={self.options.lr}. '
                f'Mend: fit=dict(lr={self.options.lr / 10:g}), or check labels and teacher'
            )
        self.part.tokens.copy_(self.tokens.detach())
        task, dice = torch.stack(self._told[-math.ceil(self._step / 10) :]).mean(0).tolist()
        return dict(steps=self._step, task_loss=task, overlap=dice)

    def tell(self, report: dict[str, float]) -> str:
        """Return how well the teacher does under its masks."""
        return (
            f'{len(self.tokens)} tokens fitted in {report["steps"]} steps: loss of the masked '
            f'teacher {report["task_loss"]:.4g}, overlap of masks {report["overlap"]:.4g}'
        )
