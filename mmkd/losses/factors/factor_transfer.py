"""Factor transfer (FT): the student's features, translated, are the teacher's, paraphrased."""

import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from mmkd.losses.base import Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.factors.fitter import ParaphraserFitter
from mmkd.losses.factors.paraphraser import (
    Paraphraser,
    check_paraphraser,
    convolutions,
    factor_channels,
)
from mmkd.losses.features.point_wise import point_wise
from mmkd.losses.fitted.contract import FittedLoss
from mmkd.losses.fitted.source import Source
from mmkd.losses.functional import call_in_dtype, fill_masked, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, not_built

POWERS = {1: 'l1', 2: 'l2'}


def factor_transfer(
    student: Tensor,
    teacher: Tensor,
    power: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean power of the difference of two factors, each over the root mean square of its image.

    Paper: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer,
    NeurIPS 2018, arXiv 1802.04977, eq. 3.

    .. math:: L = \frac{1}{|V| C} \sum_{(n, i) \in V} \sum_c
              \left| \frac{s_{nic}}{r(s_n)} - \frac{t_{nic}}{r(t_n)} \right|^p, \qquad
              r(x_n)^2 = \frac{1}{P_n C} \sum_{i, c} x_{nic}^2

    Normaliser: the valid positions V of the whole batch times the channels C of the factor. The
    authors' code divides by the norm of an image, √(P C) times the root mean square of its P
    places, and averages: its value is (P C)^(−p/2) of this one, so that its weights belong to one
    size of maps. mmrazor's is the same, p = 1. RepDistiller's is another loss: it squares factors
    and averages their channels before the norm, as attention transfer does.

    Args:
        student: Factor (N, C, \*S), any number of spatial axes, none included.
        teacher: Factor of the same shape; receives no gradient.
        power: p, 1 or 2.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, another power.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> student, teacher = torch.tensor([[1., 7.]]), torch.tensor([[7., 1.]])
        >>> factor_transfer(student, teacher)  # both of size 5: |1 − 7| / 5
        tensor(1.2000)
    """
    check_choice('power', power, POWERS)
    return point_wise(student, teacher, 'image', POWERS[power], mask, weight, 'factor transfer')


@MODELS.register_module()
class FactorTransferLoss(FittedLoss):
    r"""Factor transfer with its paraphraser and translator; see :func:`factor_transfer`.

    The paraphraser, of the teacher's map, is fitted before training by :class:`mmkd.FitHook`,
    is in the state dict and never trained. The translator, of the student's, is three 3×3
    convolutions with leaky ReLU, as the authors', and trained with the student; RepDistiller's has
    normalisations.

    Masked positions are 0 in both maps before the convolutions.

    Args:
        student_channels: Cs; None: as the Distiller finds it.
        teacher_channels: Ct; None: as the Distiller finds it.
        rate: k: a factor has k Ct channels.
        power: p, 1 or 2.
        epochs: How often the fit of the paraphraser sees a sample.
        lr: Of the fit's Adam.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range, shapes that do not fit.
        RuntimeError: the channels are not known.
        sklearn.exceptions.NotFittedError: called before the paraphraser is fitted.

    Examples:
        >>> loss = FactorTransferLoss(4, 8)
        >>> loss.paraphraser.draw(torch.Generator().manual_seed(0))
        >>> loss(torch.ones(1, 4, 6, 6), torch.ones(1, 8, 6, 6)).shape
        torch.Size([])
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)))
    # Those of the paraphraser.
    fixed = ('rate', 'epochs', 'lr')
    fits = 'paraphrasing layers'
    paraphraser: Paraphraser | None
    translator: nn.Sequential | None

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        rate: float = 0.5,
        power: int = 1,
        epochs: int = 30,
        lr: float = 1e-3,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_paraphraser(rate, epochs, lr)
        check_choice('power', power, POWERS)
        self.rate, self.power, self.epochs, self.lr = rate, power, epochs, lr
        self.paraphraser = self.translator = None
        if student_channels is not None and teacher_channels is not None:
            self._make(student_channels, teacher_channels)

    @property
    def part(self) -> Paraphraser | None:
        """The paraphraser."""
        return self.paraphraser

    def shapes(self) -> str:
        """Return the channels."""
        return f'{None if self.paraphraser is None else self.paraphraser.channels} channels'

    def fitter(
        self, source: Source, images: int, batches: int, generator: torch.Generator
    ) -> ParaphraserFitter:
        """Return what gathers pieces of maps and fits the autoencoder."""
        return ParaphraserFitter(source, images, generator)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make paraphraser and translator, if channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        _check_maps(student, teacher)
        if self.paraphraser is not None:
            return ''
        self._make(student.shape[1], teacher.shape[1], teacher.device)
        width = factor_channels(teacher.shape[1], self.rate)
        return f'paraphraser and translator to factors of {width} channels'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss of maps (N, C, H, W) under mask and weight (N, H, W)."""
        if self.paraphraser is None or self.translator is None:
            raise not_built(
                'paraphraser and translator are', 'student_channels=…, teacher_channels=…'
            )
        _check_maps(student, teacher)
        _check_channels('student', student, next(self.translator.parameters()).shape[1])
        _check_channels('teacher', teacher, self.paraphraser.channels)
        check_mask(mask, student)
        check_weight(weight, student)
        if not self.paraphraser.fitted:
            raise NotFittedError(
                'the paraphraser is not fitted: its weights are NaN. Mend: '
                "custom_hooks=[dict(type='mmkd.FitHook')] fits it before training"
            )
        with no_autocast(student):
            student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
            ours = call_in_dtype(self.translator, student)
            theirs = self.paraphraser(teacher)
            return self.loss_weight * factor_transfer(ours, theirs, self.power, mask, weight)

    def _make(
        self, student_channels: int, teacher_channels: int, device: torch.device | None = None
    ) -> None:
        self.paraphraser = Paraphraser(teacher_channels, self.rate, self.epochs, self.lr).to(device)
        width = self.paraphraser.width
        widths = [student_channels, student_channels, width, width]
        self.translator = convolutions(widths).to(device)


def _check_maps(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 4 or (len(student), student.shape[2:]) != (
        len(teacher),
        teacher.shape[2:],
    ):
        raise ValueError(
            'factor transfer needs maps (N, C, H, W) of one size, with any channels, got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: taps of maps, '
            "connectors=dict(student='auto') for another size"
        )


def _check_channels(role: str, x: Tensor, channels: int) -> None:
    if x.shape[1] != channels:
        raise ValueError(
            f'factor transfer was made for a {role} of {channels} channels, got {shape_of(x)}; '
            f'mend: {role}_channels={x.shape[1]} (or None), or the tap that it was made for'
        )
