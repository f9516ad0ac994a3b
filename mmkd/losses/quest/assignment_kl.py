"""QUEST: the student predicts which words of a vocabulary the teacher's features are near to."""

from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from mmkd.losses.base import Map, OfBatch
from mmkd.losses.checks import check_mask, shape_of
from mmkd.losses.fitted.contract import FittedLoss
from mmkd.losses.fitted.source import Source
from mmkd.losses.functional import first_derivative_only, no_autocast, widen
from mmkd.losses.quest.fitter import VocabularyFitter
from mmkd.losses.quest.maps import pool_map, pooling_factor, positions
from mmkd.losses.quest.predictor import AssignmentPredictor, unit
from mmkd.losses.quest.vocabulary import (
    Vocabulary,
    check_vocabulary,
    log_assignment,
    perplexity,
    shift_words,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_non_negative, check_positive, not_built

# Positions of one chunk. On one CPU core 8192 positions, 1024 words and 512 channels take 0.52 s in
# chunks of 64, 0.38 s in chunks of 512 to 8192, and 0.65 s at once by autograd; an accelerator
# wants longer kernels.
_CHUNK = {'cpu': 512}
_LONG_CHUNK = 8192


def assignment_kl(
    student: Tensor,
    teacher: Tensor,
    words: Tensor,
    weight: Tensor,
    tau: float | Tensor = 0.2,
    scale: float | Tensor = 3.0,
    mask: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    r"""Divergence of the student's prediction from the teacher's soft assignment to words.

    Paper: Jain et al., QuEST: Quantized Embedding Space for Transferring Knowledge, ECCV 2020,
    arXiv 1912.01540, eq. 2 to 5.

    .. math:: \ell = \frac{1}{|V|} \sum_{i \in V} \mathrm{KL}(p_T^i \Vert p_S^i),
              \quad p_T = \mathrm{softmax}_k(-\lVert v_k - f_T \rVert^2 / \tau),
              \quad p_S = \mathrm{softmax}_k(\gamma \cos(W_k, f_S))

    Normaliser: summed over words, averaged over the valid positions V of the whole batch, with no
    factor tau². The equation prints a sum over the positions of an image; the authors' code
    averages, and its weights are for that. Their temperature multiplies: t = 1/tau.

    Where the teacher's map is larger by an integer factor it is average-pooled before it is
    quantised, as in the authors' code. Positions × words are never held: chunk by chunk the value
    and its gradients are taken together, so that memory is a few arrays of chunk × words, and
    nothing is computed again in the backward.

    Args:
        student: Features (N, Cs, H, W) or (N, Cs).
        teacher: Features (N, Ct, rH, rW) with an integer r, or (N, Ct); receives no gradient.
        words: Words v (K, Ct); receive no gradient.
        weight: W (K, Cs).
        tau: Temperature, in squared-feature units.
        scale: gamma.
        mask: Bool (N, H, W) or (N,), True where a position of the student's map counts.
        chunk: Positions that are looked at together; None takes 512 on a CPU and 8192 elsewhere.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an option out of range.
        TypeError: a mask that is not bool.

    Examples:
        >>> words = torch.tensor([[0.], [1.]])
        >>> student, weight = torch.tensor([[1., 0.]]), torch.eye(2)  # cosines 1 and 0
        >>> middle, first = torch.tensor([[.5]]), torch.tensor([[0.]])
        >>> assignment_kl(student, middle, words, weight, scale=0.)  # both are (1/2, 1/2)
        tensor(0.)
        >>> assignment_kl(student, first, words, weight, 1., 0.)  # ln 2 − H of (e, 1) / (e + 1)
        tensor(0.1109)
    """
    return _divergence(student, teacher, words, weight, tau, scale, mask, chunk)[0]


def _divergence(
    student: Tensor,
    teacher: Tensor,
    words: Tensor,
    weight: Tensor,
    tau: float | Tensor,
    scale: float | Tensor,
    mask: Tensor | None,
    chunk: int | None,
) -> tuple[Tensor, ...]:
    """Return the value and, detached, mean max p_T, perplexity of the words seen, accuracy."""
    if not isinstance(tau, Tensor):
        check_positive('tau', tau)
    pooling = _check_shapes(student, teacher, words.shape[1], weight.shape[1], mask)
    if len(words) != len(weight):
        raise ValueError(
            f'words {shape_of(words)} and weight {shape_of(weight)} must hold as many words'
        )
    # Of nothing: the casts come chunk by chunk.
    dtype = widen(student[:0], teacher[:0], words[:0], weight[:0])[0].dtype
    with no_autocast(student):
        f_s = unit(positions(student, mask).to(dtype))
        w = unit(weight.to(dtype))
        f_t = positions(pool_map(teacher.detach(), pooling), mask)
        gamma = torch.as_tensor(scale, dtype=dtype, device=student.device)
        chunk = chunk or _CHUNK.get(student.device.type, _LONG_CHUNK)
        return _ChunkedKL.apply(
            f_s, w, gamma, f_t, words.detach().to(dtype), tau, chunk, torch.is_grad_enabled()
        )


def _check_shapes(
    student: Tensor,
    teacher: Tensor,
    teacher_channels: int,
    student_channels: int,
    mask: Tensor | None,
) -> int:
    pooling = pooling_factor(student, teacher)
    for role, x, channels, of in (
        ('student', student, student_channels, 'the predictor'),
        ('teacher', teacher, teacher_channels, 'the vocabulary'),
    ):
        if x.shape[1] != channels:
            raise ValueError(
                f'{role} {shape_of(x)} has {x.shape[1]} channels, but {of} has {channels}. Mend: '
                f'{role}_channels={x.shape[1]} (or None), or the tap that it was made for'
            )
    check_mask(mask, student)
    return pooling


class _ChunkedKL(torch.autograd.Function):
    """Mean over positions of KL(p_T‖p_S); the forward forms the gradients and keeps only them."""

    @staticmethod
    def forward(
        ctx: Any,
        f_s: Tensor,
        w: Tensor,
        scale: Tensor,
        f_t: Tensor,
        words: Tensor,
        tau: float | Tensor,
        chunk: int,
        learning: bool,
    ) -> tuple[Tensor, ...]:
        shifted, number = shift_words(words), max(1, len(f_s))
        wanted = [learning and needs for needs in ctx.needs_input_grad]  # which forget no_grad
        grad_f = torch.empty_like(f_s) if wanted[0] else None
        grad_w = torch.zeros_like(w) if wanted[1] else None
        grad_scale = torch.zeros_like(scale)
        value, confidence, accuracy = f_s.new_zeros(3, dtype=torch.float64).unbind()
        counts = f_s.new_zeros(len(w), dtype=torch.float64)
        for start in range(0, len(f_s), chunk):
            part = slice(start, start + chunk)
            log_t = log_assignment(f_t[part].to(f_s.dtype), shifted, tau)
            log_s = (f_s[part] @ w.T).mul_(scale).log_softmax(1)
            p_t = log_t.exp()
            best, word = p_t.max(1)
            confidence += best.sum()
            accuracy += (log_s.argmax(1) == word).sum()
            counts.index_add_(0, word, counts.new_ones(len(word)))
            value += log_t.sub_(log_s).mul_(p_t).sum()
            if any(wanted):
                error = log_s.exp_().sub_(p_t).div_(number)  # the gradient of the scores
                back = error @ w
                grad_scale += (back * f_s[part]).sum()
                if grad_f is not None:
                    torch.mul(back, scale, out=grad_f[part])
                if grad_w is not None:
                    grad_w.addmm_(error.T, f_s[part])
        ctx.save_for_backward(grad_f, None if grad_w is None else grad_w.mul_(scale), grad_scale)
        outputs = (
            (value / number).to(f_s.dtype),
            *(x.float() for x in (confidence / number, perplexity(counts), accuracy / number)),
        )
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @first_derivative_only(
        'AssignmentKLLoss',
        'F.kl_div of log_softmax(loss.predictor(student), 1) and loss.vocabulary.assign(…)',
    )
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if x is None else grad * x for x in ctx.saved_tensors), *[None] * 5


@MODELS.register_module()
class AssignmentKLLoss(FittedLoss):
    r"""QUEST with its vocabulary and predictor; see :func:`assignment_kl`.

    The vocabulary is fitted before training by :class:`mmkd.engine.hooks.VocabularyHook`, or
    beforehand by ``mmkd fit-vocabulary``; it is in the state dict and never trained.
    ``diagnostics`` say whether tau suits the layer: ``confidence`` (mean max p_T; near 1: tau too
    small, near 1/K: too large), ``perplexity`` (words that the teacher used for this batch) and
    ``word_accuracy`` (how often the student's likeliest word is the teacher's).

    Args:
        student_channels: Cs; None: as the Distiller finds it.
        teacher_channels: Ct; None: as the Distiller finds it.
        num_words: K.
        tau: Temperature in squared-feature units, or 'auto' for ``target_perplexity``. 0.2 is the
            paper's for the last layer of CIFAR networks; its third ResNet-34 layer needed 0.002.
        gamma: Where the learned scale begins, 0 or more.
        target_perplexity: How many words share a position's assignment under ``tau='auto'``:
            exp(mean H(p_T)). The default of 4 leaves the nearest word the largest part and still
            tells its neighbours apart.
        chunk: Positions that are looked at together; None takes 512 on a CPU and 8192 elsewhere.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.
        vocabulary: File written by ``mmkd fit-vocabulary``.

    Raises:
        ValueError: an option out of range, a file of other words, shapes that do not fit.
        RuntimeError: the channels are not known.
        sklearn.exceptions.NotFittedError: called before the vocabulary is fitted.

    Examples:
        >>> loss = AssignmentKLLoss(2, 1, num_words=2, tau=1., gamma=0.)
        >>> _ = loss.vocabulary.words.copy_(torch.tensor([[0.], [1.]]))
        >>> loss(torch.ones(1, 2, 4, 4), torch.zeros(1, 1, 8, 8)).item()
        0.110...
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)), mask=OfBatch())
    # Those of the vocabulary and the predictor.
    fixed = ('num_words', 'tau', 'gamma', 'target_perplexity', 'pooling')
    fits = 'words'
    vocabulary: Vocabulary | None
    predictor: AssignmentPredictor | None

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        num_words: int = 4096,
        tau: float | str = 0.2,
        gamma: float = 3.0,
        target_perplexity: float = 4.0,
        chunk: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        vocabulary: str | Path | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_vocabulary(num_words, tau, target_perplexity)
        check_non_negative('gamma', gamma)
        if chunk is not None:
            check_count('chunk', chunk, 1)
        self.num_words, self.tau = num_words, tau
        self.gamma, self.target_perplexity = gamma, target_perplexity
        self.chunk, self.file = chunk, vocabulary
        self.pooling: int | None = None
        self.vocabulary = self.predictor = None
        self._make(student_channels, teacher_channels)

    @torch.no_grad()
    def build(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> str:
        """Create what the channels were missing for, and note how much larger the teacher's map is.

        Returns:
            What was built, in words.
        """
        self.pooling = pooling_factor(student, teacher)
        self._make(student.shape[1], teacher.shape[1], student.device)
        pooled = '' if self.pooling == 1 else f', teacher map pooled {self.pooling}×{self.pooling}'
        return f'vocabulary of {self.num_words} words in {teacher.shape[1]} channels{pooled}'

    @property
    def part(self) -> Vocabulary | None:
        """The vocabulary."""
        return self.vocabulary

    def shapes(self) -> str:
        """Return pooling and channels."""
        channels = None if self.vocabulary is None else self.vocabulary.words.shape[1]
        return f'{self.pooling}, {channels} channels'

    def fitter(
        self, source: Source, images: int, batches: int, generator: torch.Generator
    ) -> VocabularyFitter:
        """Return what gathers vectors and finds words."""
        return VocabularyFitter(source, images, generator)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted loss of maps (N, C, H, W) or vectors (N, C) under a bool mask."""
        if self.vocabulary is None or self.predictor is None:
            raise not_built(
                'vocabulary and predictor are', 'student_channels=…, teacher_channels=…'
            )
        vocabulary, predictor = self.vocabulary, self.predictor
        pooling = _check_shapes(
            student, teacher, vocabulary.words.shape[1], predictor.weight.shape[1], mask
        )
        if self.pooling not in (None, pooling):
            raise ValueError(
                f"the teacher's map is {pooling} times as large as the student's, but was "
                f'{self.pooling} times when the loss was built: student {shape_of(student)}, '
                f'teacher {shape_of(teacher)}, and words of one pooling do not fit another. Mend: '
                'data_preprocessor.size of the images that are trained on, or '
                "connectors=dict(student='auto')"
            )
        if not vocabulary.fitted:
            raise NotFittedError(
                'the vocabulary is not fitted: its words are NaN. Mend: '
                "custom_hooks=[dict(type='mmkd.VocabularyHook')] fits it before training, "
                'mmkd fit-vocabulary writes a file for vocabulary=…, or copy words into '
                'loss.vocabulary.words'
            )
        value, confidence, used, accuracy = _divergence(
            student,
            teacher,
            vocabulary.words,
            predictor.weight,
            vocabulary.tau,
            predictor.scale,
            mask,
            self.chunk,
        )
        self.diagnostics = dict(confidence=confidence, perplexity=used, word_accuracy=accuracy)
        return self.loss_weight * value

    def _make(
        self,
        student_channels: int | None,
        teacher_channels: int | None,
        device: torch.device | None = None,
    ) -> None:
        if self.vocabulary is None and teacher_channels is not None:
            self.vocabulary = Vocabulary(
                self.num_words, teacher_channels, self.tau, self.target_perplexity
            )
            if self.file is not None:
                self.vocabulary.load(self.file)
            self.vocabulary.to(device)
        if self.predictor is None and student_channels is not None:
            predictor = AssignmentPredictor(student_channels, self.num_words, self.gamma)
            self.predictor = predictor.to(device)
