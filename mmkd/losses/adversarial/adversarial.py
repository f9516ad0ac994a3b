"""Adversarial distillation: a critic learns to tell the teacher's map from the student's."""

import inspect

from torch import Tensor, nn

from mmkd.losses.adversarial.critic_terms import (
    category_cross_entropy,
    draw_positions,
    frozen,
    weight_norms,
)
from mmkd.losses.adversarial.modes import MODES
from mmkd.losses.adversarial.penalty import gradient_penalty
from mmkd.losses.adversarial.scores import Side, is_joint, score_map, score_maps
from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import OTHER_CLASSES, check_mask, shape_of
from mmkd.losses.functional import fill_masked, infinite_to_nan, no_autocast, widen
from mmkd.registry import MODELS, build_part
from mmkd.utils.checks import (
    check_choice,
    check_count,
    check_non_negative,
    check_positive,
    not_built,
)


@MODELS.register_module()
class AdversarialLoss(Loss):
    r"""Holistic distillation of Structured KD; also the adversarial part of AFD and of KSANC.

    The teacher's map is real, the student's fake: the critic learns to tell them apart, the student
    learns to pass.

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
    + CE(C_S, y). This, mode 'bce' and ``l1``, ``l2`` and ``adversarial_sample`` are the adversarial
    loss of KSANC (Shu et al., Knowledge Squeezed Adversarial Network Compression, arXiv 1904.05100,
    L_adv with its regularisers; one µ there, three here):

    .. math:: \ldots + \mu_1 |\omega_D| + \mu_2 \Vert\omega_D\Vert_2^2
              + \mu_3 \overline{\mathrm{softplus}(-d(S))}

    on the critic's side, with ω_D its trainable parameters. The last one, −µ₃ log D(S), rewards the
    critic for calling the student real: at the best it then says D(S) = µ₃ / (1 + µ₃) instead of 0.
    Read literally the paper has the student unlearn the labels and minimise log(1 − D), which
    stands still where it is worst; here both sides learn the labels and the student minimises
    −log D.

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
        >>> import torch
        >>> loss = AdversarialLoss(critic=nn.Flatten(), mode='lsgan')  # the map is its own score
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
        check_choice('mode', mode, tuple(MODES))
        check_choice('activation', activation, (None, 'softmax', 'sigmoid'))
        if mode == 'wgan-gp':
            check_positive('gradient_penalty', gradient_penalty)
        _check_bce(mode, sigmoid, l1=l1, l2=l2, adversarial_sample=adversarial_sample)
        if positions is not None:
            check_count('positions', positions, 1)
        if activation:  # it makes probabilities of scores
            self.roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))
        self.mode, self.gradient_penalty = mode, gradient_penalty
        self.activation, self.sigmoid, self.positions = activation, sigmoid, positions
        self.l1, self.l2, self.adversarial_sample = l1, l2, adversarial_sample
        self.register_module('critic', None)
        self._proved = False
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
        """Build a critic whose config left out what only maps tell; what it says stands.

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
        """Return the student's loss.

        Of the teacher only the shape matters, unless the critic is ``joint``.

        Args:
            student: Map (N, C, H, W) or (N, C).
            teacher: Map of the same shape.
            image: Images (N, 3, H', W') for a critic that is conditioned on them.
            labels: Classes (N,) or (N, H, W), for critics with category outputs.
            mask: Bool (N, H, W) or (N,), True where a position counts; masked positions of the maps
                are shown as 0, and scores whose (nearest) position is masked are left out.
        """
        student, teacher, beside = self._take(student, teacher, image, labels, mask)
        with no_autocast(student), frozen(self.critic):
            maps = widen(student, teacher.detach()) if is_joint(self.critic) else widen(student)
            shown = [self._activate(x, beside.mask) for x in maps]
            seen, *_ = score_maps(self.critic, shown, beside, self.sigmoid)
            value = MODES[self.mode].student(seen.score, seen.valid)
            if beside.labels is not None:
                value = value + category_cross_entropy(seen.classes, beside.labels, seen.valid)
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
        student, teacher, beside = self._take(student, teacher, image, labels, mask)
        with no_autocast(student):
            maps = widen(student.detach(), teacher.detach())
            shown = [self._activate(x, beside.mask) for x in maps]
            fake, real = score_maps(self.critic, shown, beside, self.sigmoid)
            value = MODES[self.mode].critic(fake.score, real.score, fake.valid)
            if self.mode == 'wgan-gp':
                value = value + self.gradient_penalty * self._penalty(shown[0], shown[1], beside)
            if self.adversarial_sample:
                rewarded = MODES['bce'].student(fake.score, fake.valid)
                value = value + self.adversarial_sample * rewarded
            if beside.labels is not None:
                value = value + sum(
                    category_cross_entropy(seen.classes, beside.labels, fake.valid)
                    for seen in (fake, real)
                )
            return self.loss_weight * (value + weight_norms(self.critic, self.l1, self.l2))

    def _penalty(self, fake: Tensor, real: Tensor, beside: Side) -> Tensor:
        def scores_of(x: Tensor) -> tuple[Tensor, Tensor | None]:
            seen = score_map(self.critic, fill_masked(x, beside.mask), beside, self.sigmoid)
            return seen.score, seen.valid

        own = [p for p in self.critic.parameters() if p.requires_grad and not self._proved]
        penalty = gradient_penalty(scores_of, fake, real, type(self.critic).__name__, own)
        self._proved |= bool(own) and penalty.requires_grad
        return penalty

    def _activate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # Neither a softmax nor the critic's ReLUs may hide an overflow.
        x = infinite_to_nan(fill_masked(x, mask))
        if self.activation is None:
            return x
        return fill_masked(x.softmax(1) if self.activation == 'softmax' else x.sigmoid(), mask)

    def _take(
        self,
        student: Tensor,
        teacher: Tensor,
        image: Tensor | None,
        labels: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Side]:
        """Return the maps and what goes with them, of drawn places where that is asked."""
        self._check(student, teacher, image, mask)
        if self.positions is not None:
            student, teacher, labels, mask = draw_positions(
                self.positions, student, teacher, labels, mask
            )
        return student, teacher, Side(image, labels, mask)

    def _check(
        self, student: Tensor, teacher: Tensor, image: Tensor | None, mask: Tensor | None
    ) -> None:
        if self.critic is None:
            raise not_built(
                f'the critic {self._config["type"]} is',
                'critic=dict(type=…, in_channels=…)',
                'build(student=…)',
            )
        shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
        if student.dim() not in (2, 4):
            raise ValueError(f'AdversarialLoss needs maps (N, C, H, W) or (N, C), got {shapes}')
        if student.shape != teacher.shape:
            classes = bool(self.activation) and student.shape[1] != teacher.shape[1]
            mend = f'. {OTHER_CLASSES}' if classes else "; mend: connectors=dict(student='auto')"
            raise ValueError(f'student and teacher maps differ: {shapes}{mend}')
        if self.activation == 'softmax' and student.shape[1] == 1:
            raise ValueError(
                f"activation='softmax' over a single channel is always 1: {shapes}; mend: "
                'activation=None'
            )
        check_mask(mask, student)
        pointwise = image is None and getattr(self.critic, 'pointwise', False)
        if self.positions is not None and not pointwise:
            raise ValueError(
                f'positions={self.positions} shows single vectors, but '
                f'{type(self.critic).__name__} is no critic of them, or gets an image '
                f'({image is not None}); mend: positions=None, or CategoryCritic (a critic with '
                'pointwise=True) without reads=dict(image=…)'
            )

    def _parameters_of_critic(self) -> set[str]:
        kind = self._config['type']
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        return set(inspect.signature(kind).parameters) if kind else set()


def _check_bce(mode: str, sigmoid: bool, **weights: float) -> None:
    """Refuse weights below 0, and what means something in mode 'bce' alone, or nothing there."""
    if mode == 'bce' and sigmoid:
        raise ValueError(
            "mode='bce' takes raw scores (its softplus holds the sigmoid), got sigmoid=True; mend: "
            'sigmoid=False'
        )
    for name, value in weights.items():
        check_non_negative(name, value)
    if weights['adversarial_sample'] and mode != 'bce':
        raise ValueError(
            f"adversarial_sample is −µ log D(S), a probability of mode='bce', got mode={mode!r}; "
            "mend: mode='bce', or adversarial_sample=0"
        )
