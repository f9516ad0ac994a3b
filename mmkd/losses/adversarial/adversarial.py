"""Adversarial distillation: a critic learns to tell the teacher's map from the student's, which learns to pass."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.adversarial.critic_terms import (
    category_cross_entropy,
    draw_positions,
    frozen,
    masked_mean,
    weight_norms,
)
from mmkd.losses.base import (
    OTHER_CLASSES,
    Loss,
    call_in_dtype,
    check_mask,
    fill_masked,
    infinite_to_nan,
    no_autocast,
    shape_of,
    widen,
)
from mmkd.registry import MODELS, build_part
from mmkd.utils.checks import check_choice, check_count, check_non_negative, check_positive

_Scores = tuple[
    Tensor, Any, Tensor | None
]  # the scores, the category units or None, which scores count (None: all)


@MODELS.register_module()
class AdversarialLoss(Loss):
    r"""Holistic distillation of Structured KD; also the adversarial part of AFD and of KSANC. The teacher is real.

    Paper: Liu et al., Structured Knowledge Distillation for Dense Prediction, CVPR 2019 / TPAMI
    2020, arXiv 1903.04197, eq. 4, with the gradient penalty of WGAN-GP. With d the critic's raw
    score, S and T the maps:

    ======= ==================== ==================================================================
    mode    student: ``forward`` critic: ``critic_loss``
    ======= ==================== ==================================================================
    wgan-gp −mean d(S)           mean d(S) − mean d(T) + λ · mean (‖∇d(x̂)‖ − 1)²
    hinge   −mean d(S)           mean relu(1 − d(T)) + mean relu(1 + d(S))
    lsgan   mean (1 − d(S))²     mean (1 − d(T))² + mean d(S)²
    bce     mean softplus(−d(S)) mean softplus(−d(T)) + mean softplus(d(S))
    ======= ==================== ==================================================================

    with x̂ = εT + (1−ε)S.

    Normaliser: means over all (valid) scores of the batch; the penalty over the images, with ε ~
    U(0,1) for each, the gradient of the sum of an image's scores with respect to its map as the
    critic sees it, and ‖g‖ = sqrt(Σg² + 1e-12), whose derivative is finite at 0. Everything runs in
    float32 or wider.

    The authors' code: the later one shows raw logits to an unconditional critic
    (``activation=None``, no image), the CVPR 2019 one probabilities beside the image
    (``activation='softmax'`` and ``image``, as the recipes here). There the penalty also covers the
    gradient of the concatenated image, and has no 1e-12, so that it can be NaN. Its λ_d scales the
    critic's loss as well: so does ``loss_weight``.

    With ``labels``, a critic that returns (N, 1 + C, …) scores is also a classifier (C_S, C_T: its
    last C units), and both sides add cross-entropies: the student CE(C_S, y), the critic CE(C_T, y)
    + CE(C_S, y). This, mode 'bce' and ``l1``, ``l2`` and ``adversarial_sample`` are the adversarial loss of KSANC (Shu et al., Knowledge Squeezed
    Adversarial Network Compression, arXiv 1904.05100, L_adv with its regularisers; one µ there,
    three here):

    .. math:: \ldots + \mu_1 |\omega_D| + \mu_2 \Vert\omega_D\Vert_2^2 + \mu_3 \overline{\mathrm{softplus}(-d(S))}

    on the critic's side, with ω_D its trainable parameters. The last one, −µ₃ log D(S), rewards the
    critic for calling the student real: at the best it then says D(S) = µ₃ / (1 + µ₃) instead of 0.
    Read literally the paper has the student unlearn the labels and minimise log(1 − D), which
    stands still where it is worst; here both sides learn the labels and the student minimises −log
    D.

    ``forward`` leaves no gradient in the critic, ``critic_loss`` none in student or teacher. In
    train mode each call of a critic with spectral norm moves that norm's estimate: call ``forward``
    and ``critic_loss`` in a fixed order.

    Args:
        critic: Module called as ``critic(map, image=None)`` that returns (N, 1, h, w) or (N, 1),
            with categories (N, 1 + C, …), or its config; None means HolisticCritic. With an
            attribute ``joint=True`` it sees student and teacher in one batch, whoever asks (for
            BatchNorm). A config whose class needs ``in_channels`` and that lacks it is built by
            :meth:`build`, which the Distiller calls.
        mode: 'wgan-gp', 'hinge', 'lsgan' or 'bce'.
        gradient_penalty: λ of wgan-gp.
        activation: What the critic sees: None for the tensor as it is, 'softmax' or 'sigmoid' for
            probabilities; what the loss is given are then class logits, with all that holds for
            such (see :class:`Loss`).
        sigmoid: Squash the score to (0, 1) first (AFD, lsgan).
        loss_weight: Factor inside both returned values.
        loss_name: Key in the logs.
        l1: µ₁, of the sum of the absolute values of the critic's parameters.
        l2: µ₂, of the sum of their squares.
        adversarial_sample: µ₃; only in mode 'bce'.
        positions: Places of the batch that the critic is shown in each call, drawn among the valid
            ones without replacement and the same in both maps; None shows whole maps. The
            expectation of the means stays as it is. The critic scores vectors (P, C) and has an
            attribute ``pointwise=True``; wgan-gp takes each for an image.

    Attributes:
        critic: The critic, None until it is built.

    Examples:
        >>> loss = AdversarialLoss(critic=torch.nn.Flatten(), mode='lsgan')  # the map is its own score
        >>> loss(torch.tensor([[.5], [0.]]), torch.ones(2, 1))  # (.25 + 1) / 2
        tensor(0.6250)
        >>> loss.critic_loss(torch.tensor([[.5], [0.]]), torch.ones(2, 1))  # 0 + (.25 + 0) / 2
        tensor(0.1250)
    """

    def __init__(
        self,
        critic: dict | nn.Module | None = None,
        mode: str = 'wgan-gp',
        gradient_penalty: float = 10.0,
        activation: str | None = None,
        sigmoid: bool = False,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        adversarial_sample: float = 0.0,
        positions: int | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('mode', mode, ('wgan-gp', 'hinge', 'lsgan', 'bce'))
        check_choice('activation', activation, (None, 'softmax', 'sigmoid'))
        if mode == 'wgan-gp':
            check_positive('gradient_penalty', gradient_penalty)
        if mode == 'bce' and sigmoid:
            raise ValueError(
                "mode='bce' takes raw scores (its softplus holds the sigmoid), got sigmoid=True; "
                'mend: '
                'sigmoid=False'
            )
        for name, value in (('l1', l1), ('l2', l2), ('adversarial_sample', adversarial_sample)):
            check_non_negative(name, value)
        if adversarial_sample and mode != 'bce':
            raise ValueError(
                f"adversarial_sample is −µ log D(S), a probability of mode='bce', got "
                f'mode={mode!r}; '
                "mend: mode='bce', or adversarial_sample=0"
            )
        self.mode, self.gradient_penalty, self.activation, self.sigmoid = (
            mode,
            gradient_penalty,
            activation,
            sigmoid,
        )
        self.class_logits = ('student', 'teacher') if activation else ()
        if positions is not None:
            check_count('positions', positions, 1)
        self.l1, self.l2, self.adversarial_sample, self.positions = (
            l1,
            l2,
            adversarial_sample,
            positions,
        )
        self.register_module('critic', None)
        self._checked_twice = False
        if isinstance(critic, nn.Module):
            self.critic = critic
            return
        if critic is not None and not isinstance(critic, dict):
            raise TypeError(
                f'AdversarialLoss: critic must be a dictionary or a module, got {critic!r}. Mend: '
                "critic=dict(type='HolisticCritic')"
            )
        self._config = {'type': 'HolisticCritic', **(critic or {})}
        if 'in_channels' in self._config or 'in_channels' not in self._parameters_of_critic():
            self.critic = build_part(self._config, 'critic')

    def build(self, student: Tensor, image: Tensor | None = None, **others: Tensor) -> str:
        """Build a critic whose config left out what only the maps tell; what the config says stands.

        Args:
            student: Map (N, C, H, W) or (N, C).
            image: Images (N, 3, H', W') where the critic will get them.
            others: What else the objective reads; it says nothing about a critic.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.critic is not None:
            return ''
        found = {
            'in_channels': student.shape[1],
            'size': tuple(student.shape[2:]),
            'image_channels': 0 if image is None else image.shape[1],
        }
        accepted = self._parameters_of_critic()
        self.critic = build_part(
            {**{k: v for k, v in found.items() if k in accepted}, **self._config}, 'critic'
        )
        return f'critic for maps {tuple(student.shape[1:])}'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        image: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        r"""Return the student's loss; of the teacher only the shape matters, unless the critic is ``joint``.

        Args:
            student: Map (N, C, H, W) or (N, C).
            teacher: Map of the same shape.
            image: Images (N, 3, H', W') for a critic that is conditioned on them.
            labels: Classes (N,) or (N, H, W), for critics with category outputs.
            mask: Bool (N, H, W) or (N,), True where a position counts; masked positions of the maps
                are shown as 0, and scores whose (nearest) position is masked are left out.
        """
        student, teacher, labels, mask = self._take(student, teacher, image, labels, mask)
        with no_autocast(student), frozen(self.critic):
            maps = widen(student, teacher.detach()) if self._joint else widen(student)
            (score, classes, valid), *_ = self._see(
                [self._activate(x, mask) for x in maps], image, labels, mask
            )
            if self.mode in ('wgan-gp', 'hinge'):
                value = -masked_mean(score, valid)
            else:
                value = masked_mean(
                    (1 - score).square() if self.mode == 'lsgan' else F.softplus(-score), valid
                )
            if labels is not None:
                value = value + category_cross_entropy(classes, labels, valid)
            return self.loss_weight * value

    def critic_loss(
        self,
        student: Tensor,
        teacher: Tensor,
        image: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the critic's loss; the arguments are those of :meth:`forward`.

        Raises:
            RuntimeError: wgan-gp with a critic that cannot be differentiated twice.
        """
        student, teacher, labels, mask = self._take(student, teacher, image, labels, mask)
        with no_autocast(student):
            fake, real = (
                self._activate(x, mask) for x in widen(student.detach(), teacher.detach())
            )
            (d_fake, c_fake, valid), (d_real, c_real, _) = self._see(
                [fake, real], image, labels, mask
            )
            if self.mode == 'wgan-gp':
                value = masked_mean(d_fake, valid) - masked_mean(d_real, valid)
                value = value + self.gradient_penalty * self._penalty(
                    fake, real, image, labels, mask
                )
            elif self.mode == 'hinge':
                value = masked_mean(F.relu(1 - d_real), valid) + masked_mean(
                    F.relu(1 + d_fake), valid
                )
            elif self.mode == 'lsgan':
                value = masked_mean((1 - d_real).square(), valid) + masked_mean(
                    d_fake.square(), valid
                )
            else:
                value = masked_mean(F.softplus(-d_real), valid) + masked_mean(
                    F.softplus(d_fake), valid
                )
                if self.adversarial_sample:
                    value = value + self.adversarial_sample * masked_mean(
                        F.softplus(-d_fake), valid
                    )
            if labels is not None:
                value = value + sum(
                    category_cross_entropy(c, labels, valid) for c in (c_fake, c_real)
                )
            return self.loss_weight * (value + weight_norms(self.critic, self.l1, self.l2))

    def _penalty(
        self,
        fake: Tensor,
        real: Tensor,
        image: Tensor | None,
        labels: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        create_graph = torch.is_grad_enabled()
        epsilon = torch.rand(
            len(fake), *[1] * (fake.dim() - 1), device=fake.device, dtype=fake.dtype
        )
        with torch.enable_grad():  # the penalty is also a value under no_grad
            mixed = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
            score, _, valid = self._score(fill_masked(mixed, mask), image, labels, mask)
            if valid is not None:
                score = score.where(valid, score.new_zeros(()))
            try:
                (gradient,) = torch.autograd.grad(score.sum(), mixed, create_graph=create_graph)
                norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
                penalty = masked_mean(
                    (norm - 1).square(), None if valid is None else valid.flatten(1).any(1)
                )
                self._try_second_derivative(penalty)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise RuntimeError(
                    f"mode='wgan-gp' differentiates the critic twice, and "
                    f'{type(self.critic).__name__} cannot be '
                    f"({error}); mend: mode='hinge', or write its attention with matmul and "
                    f'softmax in place of '
                    'scaled_dot_product_attention'
                ) from error
        return penalty

    def _try_second_derivative(self, penalty: Tensor) -> None:
        """Differentiate once for nothing: otherwise the error comes from the training loop and names no critic."""
        parameters = [p for p in self.critic.parameters() if p.requires_grad]
        if self._checked_twice or not penalty.requires_grad or not parameters:
            return
        torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
        self._checked_twice = True

    def _activate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = infinite_to_nan(
            fill_masked(x, mask)
        )  # neither a softmax nor the critic's ReLUs may hide an overflow
        if self.activation is None:
            return x
        return fill_masked(x.softmax(1) if self.activation == 'softmax' else x.sigmoid(), mask)

    @property
    def _joint(self) -> bool:
        return getattr(self.critic, 'joint', False)

    def _see(
        self, maps: list[Tensor], image: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> list[_Scores]:
        """Return what the critic says of each map, all in one batch where it is ``joint``."""
        if not self._joint:
            return [self._score(x, image, labels, mask) for x in maps]
        batch = [None if x is None else torch.cat([x] * len(maps)) for x in (image, labels, mask)]
        seen = self._score(torch.cat(maps), *batch)
        return list(
            zip(
                *([None] * len(maps) if x is None else x.chunk(len(maps)) for x in seen),
                strict=True,
            )
        )

    def _score(
        self, x: Tensor, image: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> _Scores:
        """Return the scores, the category units (with labels), and which scores count (None: all)."""
        name = type(self.critic).__name__
        scores = call_in_dtype(self.critic, x, *([] if image is None else [image]))
        categories = scores.shape[1] - 1 if scores.dim() in (2, 4) else -1
        if len(scores) != len(x) or categories < 0 or (categories and labels is None):
            mend = f"; mend: reads=dict(labels='batch.labels') for its {categories} categories" * (
                categories > 0
            )
            raise ValueError(
                f'critic {name} must return scores (N, 1, h, w) or (N, 1), got {shape_of(scores)} '
                f'for '
                f'the map {shape_of(x)}{mend}'
            )
        if labels is not None and not categories:
            raise ValueError(
                f'labels were given, but critic {name} has no category outputs; mend: drop '
                'reads=dict(labels=…)'
            )
        score, classes = scores[:, :1], scores[:, 1:] if categories else None
        if self.sigmoid:
            score = score.sigmoid()
        if mask is None:
            return score, classes, None
        if x.dim() == 2:
            return score, classes, mask.view(-1, *[1] * (score.dim() - 1))
        if score[0].numel() == 1 and x[0, 0].numel() > 1:
            raise ValueError(
                f'mask was given, but critic {name} has no spatial output: one score '
                f'{shape_of(score)} '
                f'for the whole map {shape_of(x)}; mend: drop the mask, or a critic that scores '
                f'places'
            )
        mask = mask.unsqueeze(1)
        if score.shape[2:] != mask.shape[2:]:
            mask = F.interpolate(mask.to(x.dtype), score.shape[2:]) > 0
        return score, classes, mask

    def _take(
        self,
        student: Tensor,
        teacher: Tensor,
        image: Tensor | None,
        labels: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Refuse what does not fit; return student, teacher, labels and mask, of drawn places where so asked."""
        if self.critic is None:
            raise RuntimeError(
                f'the critic {self._config["type"]} is not built: its in_channels is unknown; '
                f'mend: '
                'critic=dict(type=…, in_channels=…), or build(student=…) (the Distiller calls it)'
            )
        shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
        if student.dim() not in (2, 4):
            raise ValueError(f'AdversarialLoss needs maps (N, C, H, W) or (N, C), got {shapes}')
        if student.shape != teacher.shape:
            classes = bool(self.class_logits) and student.shape[1] != teacher.shape[1]
            mend = f'. {OTHER_CLASSES}' if classes else "; mend: connectors=dict(student='auto')"
            raise ValueError(f'student and teacher maps differ: {shapes}{mend}')
        if self.activation == 'softmax' and student.shape[1] == 1:
            raise ValueError(
                f"activation='softmax' over a single channel is always 1: {shapes}; mend: "
                f'activation=None'
            )
        check_mask(mask, student)
        if self.positions is None:
            return student, teacher, labels, mask
        if image is not None or not getattr(self.critic, 'pointwise', False):
            raise ValueError(
                f'positions={self.positions} shows single vectors, but '
                f'{type(self.critic).__name__} is '
                f'no critic of them, or gets an image ({image is not None}); mend: '
                f'positions=None, or '
                'CategoryCritic (a critic with pointwise=True) without reads=dict(image=…)'
            )
        return draw_positions(self.positions, student, teacher, labels, mask)

    def _parameters_of_critic(self) -> set[str]:
        kind = self._config['type']
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        return set(inspect.signature(kind).parameters) if kind else set()
