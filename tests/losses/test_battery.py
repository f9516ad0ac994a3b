"""Every loss through one battery; what is special of one is proved in a file of its own."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from helpers.battery import KINDS, NAMES, Case, Compare
from references import (
    activation_boundary,
    assignment_kl,
    attention_transfer,
    binary_kl,
    box_overlap,
    channel_wise_kl,
    decoupled_kl,
    dirichlet,
    dist,
    factor_transfer,
    feature_l1,
    feature_matching,
    focal_feature,
    global_context,
    hierarchical_context,
    internal,
    intra_class_variation,
    ksanc,
    localization_kl,
    masked_generation,
    masked_token,
    memory_contrast,
    pair_wise_affinity,
    partial_l2,
    pixel_wise_kl,
    relations,
    reliability_mix,
    residual_attention,
    soft_jaccard,
    variational_information,
)
from torch import Tensor

from mmkd import losses
from mmkd.losses import Loss

NO_MASK = dict.fromkeys(
    ('nan_under_a_mask', 'empty_mask_is_zero'), 'it compares whole maps, and takes no mask'
)
ONE_NODE = dict(one_place_is_finite='a single place has no pair, and is refused')
NO_ZERO = 'a likelihood: its minimum depends on how the members scatter'
OTHER_RULES = 'student and teacher are assigned by rules of their own: it has a test of its own'
SPREAD = (0.5, 2.0, 0.3, 0.1)  # of boxes that are deltas of anchors
MEMBERS = (3, 2, 5, 3, 4)
RANKS_OF_FIVE = ((4, 5), (2, 5, 3), (1, 5, 2, 2, 2))  # the same of five channels
RANKS = ((3, 4), (2, 5, 3), (1, 3, 2, 2, 2))  # vectors, sequences, volumes
# losses that are not functions of two tensors
OTHERS = {
    'AdversarialLoss': 'a game with a critic: tests/losses/adversarial/',
    'CrossLevelLoss': 'pairs of levels: tests/losses/features/test_cross_level.py',
    'SharedQueriesLoss': 'it asks decoders: tests/losses/queries/, tests/methods/test_kd_detr.py',
    'SqueezedKnowledgeLoss': 'estimators squeeze the maps: tests/losses/ksanc/',
}


def of(function: Callable, **options: Any) -> Compare:
    """Return a function of student, teacher and mask, of these options."""
    return lambda student, teacher, mask: function(student, teacher, mask=mask, **options)


def boxes_of_a_level(
    student: Tensor, teacher: Tensor, mask: Tensor | None, **options: Any
) -> Tensor:
    """Return the overlap of boxes, three anchors a place."""
    return losses.BoxOverlapLoss(**options)(student, teacher, mask=mask)


def contexts(
    loss_weight: float = 1.0, channels: int = 5, blocks: str = 'shared'
) -> losses.GlobalContextLoss:
    """Return global context with blocks that have moved, of a seed."""
    loss = losses.GlobalContextLoss(blocks, channels, loss_weight).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in loss.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return loss


def with_contexts(student: Tensor, teacher: Tensor, mask: Tensor | None, blocks: str) -> Tensor:
    loss = contexts(channels=student.shape[1], blocks=blocks)
    return loss.to(torch.promote_types(student.dtype, torch.float32))(student, teacher, mask)


def with_contexts_slowly(
    student: Tensor, teacher: Tensor, mask: Tensor | None, blocks: str
) -> float:
    loss = contexts(channels=student.shape[1], blocks=blocks)
    theirs = loss.ours if blocks == 'shared' else loss.theirs
    return global_context.global_context(student, teacher, loss.ours, theirs, mask)


def without_mask(function: Callable, **options: Any) -> Compare:
    return lambda student, teacher, mask: function(student, teacher, **options)


def softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def a_constant_off(teacher: Tensor) -> Tensor:
    """Return logits of the same distributions: each place has a constant of its own."""
    return teacher + teacher[:, :1].square()


def a_channel_off(teacher: Tensor) -> Tensor:
    """Return a map of the same distributions: each channel has a constant of its own."""
    return teacher + teacher.flatten(2)[..., :1].square().view(*teacher.shape[:2], 1, 1)


def image_by_image(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    """Return the sum over images of each one's mean."""
    return sum(
        pixel_wise_kl.pixel_wise_kl(
            student[i : i + 1],
            teacher[i : i + 1],
            1.0,
            'forward',
            None if mask is None else mask[i : i + 1],
        )
        for i in range(len(student))
    )


def mean_logits(teachers: Tensor) -> Tensor:
    """Return logits of the mean distribution at temperature 2."""
    return 2 * (teachers / 2).softmax(2).mean(0).log()


def proxy_logits(teachers: Tensor) -> Tensor:
    """Return logits of the Dirichlet that the members make."""
    mean = teachers.softmax(2).mean(0)
    mkl = (mean * (mean.log() - teachers.log_softmax(2).mean(0))).sum(1, keepdim=True)
    return (mean * (teachers.shape[2] - 1) / (2 * mkl + 1e-8)).log()


GENERATOR = torch.Generator().manual_seed(7)
WORDS, WEIGHT = (torch.randn(6, 5, dtype=torch.float64, generator=GENERATOR) for _ in range(2))


def quest(loss_weight: float) -> Loss:
    loss = losses.AssignmentKLLoss(5, 5, 6, tau=0.7, gamma=3.0, loss_weight=loss_weight).double()
    loss.vocabulary.words.copy_(WORDS)
    loss.predictor.weight.data.copy_(WEIGHT)
    return loss


def assigned(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    dtype = torch.promote_types(student.dtype, torch.float32)  # that of the module's parameters
    words, weight = WORDS.to(dtype), WEIGHT.to(dtype)
    return losses.assignment_kl(student, teacher, words, weight, tau=0.7, scale=3.0, mask=mask)


def assigned_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    return assignment_kl.assignment_kl(student, teacher, WORDS, WEIGHT, 0.7, 3.0, mask)


def pixel_wise(**options: Any) -> dict:
    return dict(
        function=of(losses.pixel_wise_kl, **options),
        module=partial(losses.PixelWiseKLLoss, **options),
    )


def matching(**options: Any) -> dict:
    return dict(
        function=of(losses.feature_matching, **options),
        reference=of(feature_matching.feature_matching, **options),
        module=partial(losses.FeatureMatchingLoss, **options),
    )


VARIANCE = torch.tensor([0.3, 1.0, 2.0, 5.0, 0.7], dtype=torch.float64)


def likelihood(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    variance = VARIANCE.repeat(student.shape[1] // 5 + 1)[: student.shape[1]]
    return losses.variational_information(student, teacher, variance, mask)


def variational(loss_weight: float) -> Loss:
    loss = losses.VariationalInformationLoss(5, loss_weight=loss_weight).double()
    loss.raw.data.copy_((VARIANCE - 1e-5).expm1().log())
    return loss


def factors(loss_weight: float = 1.0, channels: int = 5) -> losses.FactorTransferLoss:
    """Return factor transfer between so many channels and 7, with weights of a seed."""
    loss = losses.FactorTransferLoss(channels, 7, loss_weight=loss_weight).double()
    generator = torch.Generator().manual_seed(3)
    loss.paraphraser.draw(generator)
    for parameter in loss.translator.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return loss


def transferred(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    loss = factors(channels=student.shape[1])
    loss = loss.to(torch.promote_types(student.dtype, torch.float32))
    return loss(student, teacher, mask)


def transferred_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    loss = factors()
    nets = ([*loss.translator.parameters()], loss.paraphraser.numbers())
    return factor_transfer.factor_transfer(student, teacher, *nets, mask)


TOKENS = torch.arange(15, dtype=torch.float64).view(3, 5).sin()


def masked_tokens(loss_weight: float, power: int) -> Loss:
    loss = losses.MaskedTokenLoss(5, 3, power, loss_weight=loss_weight).double()
    loss.tokens.tokens.copy_(TOKENS)
    return loss


def one_level(loss_weight: float) -> Loss:
    loss = losses.HierarchicalContextLoss(loss_weight=loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward([student], [teacher], mask)
    return loss


def kept_of(x: Tensor) -> Tensor:
    """Return a pattern (N, 1, H, W) of what is kept, which tiles of (2, 3, 4) repeat."""
    return (labels_of(x) % 2 == 0).unsqueeze(1)


def generation(
    loss_weight: float = 1.0, channels: int = 5, over: str = 'all'
) -> losses.MaskedGenerationLoss:
    """Return masked generation of a fixed pattern, with weights of a seed."""
    loss = losses.MaskedGenerationLoss(
        fill='token', over=over, teacher_channels=channels, loss_weight=loss_weight
    ).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in loss.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    loss.draw = kept_of
    return loss


def generated(student: Tensor, teacher: Tensor, mask: Tensor | None, over: str) -> Tensor:
    loss = generation(channels=student.shape[1], over=over)
    loss = loss.to(torch.promote_types(student.dtype, torch.float32))
    return loss(student, teacher, mask)


def generated_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None, over: str) -> float:
    loss, kept = generation(over=over), kept_of(student)
    nets = [*loss.generator.parameters()]
    return masked_generation.masked_generation(student, teacher, nets, kept, loss.token, over, mask)


def curriculum(loss_weight: float = 1.0, kind: str = 'global') -> Loss:
    """Return the loss whose temperature is 1 + 20 σ(−ln 19) = 2, of all images where it is many."""
    options = dict(loss_weight=loss_weight, kind=kind, classes=2)
    loss = losses.LearnedTemperatureKLLoss(**options).double()
    (loss.raw if loss.instance is None else loss.instance.layers[-1].bias).data.fill_(-math.log(19))
    return loss


def at_learned_temperature(kind: str, s: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
    return curriculum(kind=kind)(s, t, mask)


def affinity(**options: Any) -> dict:
    return dict(
        function=without_mask(losses.pair_wise_affinity, **options),
        module=partial(losses.PairWiseAffinityLoss, **options),
        masked=(),
        teacher=(2, 7, 3, 4),
        same=lambda x: 2 * x,
    )


def next_of(x: Tensor) -> Tensor:
    """Return what stands for a later layer of a map: some of its channels."""
    return x.flip(1)[:, :3]


def flow(function: Callable) -> Compare:
    """Return FSP of a map; the later layer is the teacher's in both."""
    return lambda student, teacher, mask: function(
        student, teacher, *2 * [next_of(teacher).detach()], mask
    )


def flow_module(loss_weight: float) -> Loss:
    loss = losses.FlowOfSolutionLoss(loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, *2 * [next_of(teacher).detach()], mask
    )
    return loss


def layers_of(x: Tensor, teacher: Tensor) -> list[Tensor]:
    """Return two layers, of which the second is the teacher's in both."""
    return [x, teacher[:, :1].detach()]


def residual_module(loss_weight: float) -> Loss:
    loss = losses.ResidualAttentionLoss(loss_weight=loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        layers_of(student, teacher), layers_of(teacher, teacher), mask
    )
    return loss


def labels_of(x: Tensor) -> Tensor:
    """Return labels of all classes, and of none, in a pattern that tiles of (2, 3, 4) repeat."""
    places = (x.shape[0], *x.shape[2:])
    pattern = torch.zeros(places, dtype=torch.long)
    for d, (n, period) in enumerate(zip(places, (2, 3, 4, 4)[: len(places)], strict=True)):
        steps = (d + 2) * (torch.arange(n) % period)
        pattern += steps.view([-1 if k == d else 1 for k in range(len(places))])
    return torch.where(pattern % 7 == 3, 255, pattern % 5)


def with_labels(function: Callable, **options: Any) -> Compare:
    return lambda student, teacher, mask: function(
        student, teacher, labels_of(student), mask=mask, **options
    )


def labelled(kind: type[Loss], **options: Any) -> Callable[..., Loss]:
    """Return what builds a loss whose labels are those of the row."""

    def build(loss_weight: float) -> Loss:
        loss = kind(loss_weight=loss_weight, **options)
        forward = loss.forward
        loss.forward = lambda student, teacher, mask=None: forward(
            student, teacher, labels_of(student), mask
        )
        return loss

    return build


def mixed(loss_weight: float, alpha: float) -> Loss:
    loss = losses.MixedTargetCELoss(alpha, loss_weight=loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, labels_of(student), teacher, mask
    )
    return loss


def exit_of(channels: int, classes: int, loss_weight: float = 1.0) -> Loss:
    """Return an exit of known weights."""
    loss = losses.ExitLoss(
        0.7, 0.3, 3.0, student_channels=channels, num_classes=classes, loss_weight=loss_weight
    ).double()
    weight = torch.arange(classes * channels, dtype=torch.float64).cos().view(classes, channels)
    loss.head.weight.data.copy_(weight[:, :, None, None])
    loss.head.bias.data.copy_(torch.arange(classes).sin())
    return loss


def exit_by_labels(loss_weight: float) -> Loss:
    loss = exit_of(5, 5, loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, labels_of(student), mask
    )
    return loss


def through_exit(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    loss = exit_of(student.shape[1], teacher.shape[1])
    return loss(student, teacher, labels_of(student), mask)


def through_exit_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    head = exit_of(student.shape[1], teacher.shape[1]).head
    weight, bias = head.weight[:, :, 0, 0].detach(), head.bias.detach()
    logits = torch.einsum('kc,nchw->nkhw', weight, student) + bias.view(1, -1, 1, 1)
    labels = labels_of(student)
    ce = decoupled_kl.mixed_target_ce(logits, teacher, labels, 0.0, mask)
    return 0.7 * ce + 0.3 * pixel_wise_kl.pixel_wise_kl(logits, teacher, 3.0, 'forward', mask)


def exits_of(channels: tuple[int, int], loss_weight: float = 1.0) -> Loss:
    """Return exits of known weights to five classes."""
    loss = losses.MixedExitLoss(
        5, 0.7, 0.3, 2.0, 'places', 255, *channels, loss_weight=loss_weight
    ).double()
    for k, head in enumerate(loss.exits.values()):
        size = head.weight.numel()
        head.weight.data.copy_((torch.arange(size) + k).cos().view(head.weight.shape))
        head.bias.data.copy_((torch.arange(5) + k).sin())
    return loss


def exits_by_labels(loss_weight: float) -> Loss:
    loss = exits_of((5, 7), loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, labels_of(student), mask
    )
    return loss


def through_exits(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    loss = exits_of((student.shape[1], teacher.shape[1]))
    return loss(student, teacher, labels_of(student), mask)


def through_exits_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    loss, said = exits_of((student.shape[1], teacher.shape[1])), []
    for head, x in zip(loss.exits.values(), (student, teacher), strict=True):
        each = torch.einsum('kc,nchw->nkhw', head.weight[:, :, 0, 0].detach(), x)
        said.append(each + head.bias.detach().view(1, -1, 1, 1))
    labels = labels_of(student)
    wrong = sum(reliability_mix.mean_label_ce(x, labels, mask) for x in said)
    mix = reliability_mix.reliability_mix(*said, labels, 2.0, 'places', mask)
    return 0.7 * mix + 0.3 * wrong


def keys_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return seven keys of as many channels, and which of them are known."""
    keys = torch.arange(7 * x.shape[1], dtype=torch.float64).add(1).sqrt().mul(9).cos()
    return keys.view(7, -1), torch.arange(7) % 3 != 1


def contrast(function: Callable, labels: bool = False, **options: Any) -> Compare:
    """Return a contrast with these keys, where labels say so of places with a label alone."""

    def call(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Any:
        if labels:
            own = labels_of(student) != 255
            mask = own if mask is None else mask & own
        return function(student, teacher, *keys_of(student), mask=mask, **options)

    return call


def fill(ring: Any) -> None:
    """Put the keys into a ring of seven groups or of one, of seven places in all."""
    keys, known = keys_of(ring.rows)
    ring.double().rows[:7] = keys * known.unsqueeze(1)
    ring.pushed.copy_(known.long() if ring.groups == 7 else torch.tensor([7]))


def remembered(loss_weight: float) -> Loss:
    loss = losses.MemoryContrastLoss(
        7, 5, pixels=1, regions=0, tau=0.3, loss_weight=loss_weight
    ).eval()
    fill(loss.pixel)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, labels_of(student), mask
    )
    return loss


def queued(loss_weight: float, compare: str) -> Loss:
    """Return a queue of vectors; maps would be averaged."""
    loss = losses.QueueContrastLoss(
        5, 0.3, compare, teacher_channels=5, loss_weight=loss_weight
    ).eval()
    keys, known = keys_of(loss.queue.rows)
    loss.queue.double().rows[:5] = keys[known]
    loss.queue.pushed.fill_(5)
    return loss


def boosted_exit_of(channels: int, classes: int, loss_weight: float = 1.0) -> Loss:
    loss = exit_of(channels, classes, loss_weight)
    loss.power, loss.tau = 1.5, 2.0
    return loss


def boosted_exit(loss_weight: float) -> Loss:
    loss = boosted_exit_of(5, 5, loss_weight)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, labels_of(student), mask
    )
    return loss


def through_boosted_exit(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    loss = boosted_exit_of(student.shape[1], teacher.shape[1])
    return loss(student, teacher, labels_of(student), mask)


def through_boosted_exit_slowly(student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    head = exit_of(student.shape[1], teacher.shape[1]).head
    weight, bias = head.weight[:, :, 0, 0].detach(), head.bias.detach()
    logits = torch.einsum('kc,nchw->nkhw', weight, student) + bias.view(1, -1, 1, 1)
    labels = labels_of(student)
    ce = decoupled_kl.mixed_target_ce(logits, teacher, labels, 0.0, mask)
    soft = decoupled_kl.boosted_target_ce(logits, teacher, labels, power=1.5, tau=2.0, mask=mask)
    return 0.7 * ce + 0.3 * soft


def classified(x: Tensor) -> Tensor:
    """Return what a frozen classifier of seven classes makes of features."""
    (x,) = losses.base.widen(x)  # in a precision of its own, as a teacher's is
    weight = torch.arange(7 * x.shape[1], dtype=x.dtype).sin().view(7, x.shape[1])
    with losses.base.no_autocast(x):
        return torch.einsum('kc,nc...->nk...', weight, x)


def regression(
    student: Tensor, teacher: Tensor, mask: Tensor | None, penalty: str = 'l2', pooled: bool = True
) -> Tensor:
    logits = classified(student), classified(teacher)
    return losses.softmax_regression(
        student, teacher, *logits, 1.0, 0.5, penalty, 2.0, pooled, mask=mask
    )


def regression_slowly(
    student: Tensor, teacher: Tensor, mask: Tensor | None, penalty: str = 'l2', pooled: bool = True
) -> float:
    rows = [[], []]
    means = []
    for n in range(len(student)):
        pairs = [x[n].flatten(1).T for x in (student, teacher)]
        kept = [i for i in range(len(pairs[0])) if mask is None or mask[n].flatten()[i]]
        ours, theirs = (torch.stack([x[i] for i in kept]) for x in pairs)
        rows[0].append(ours)
        rows[1].append(theirs)
        means.append((ours.mean(0) - theirs.mean(0)).square().mean())
    s, t = (torch.cat(x) for x in rows)
    feature = torch.stack(means).mean() if pooled else (s - t).square().mean()
    if penalty == 'l2':
        second = sum(
            (classified(a[None]) - classified(b[None])).square().mean()
            for a, b in zip(s, t, strict=True)
        )
        return float(feature + 0.5 * second / len(s))
    p, q = ((classified(x) / 2).log_softmax(1) for x in (t, s))
    return float(feature + 0.5 * 4 * (p.exp() * (p - q)).sum() / len(s))


def regression_module(loss_weight: float, **options: Any) -> Loss:
    loss = losses.SoftmaxRegressionLoss(1.0, 0.5, tau=2.0, loss_weight=loss_weight, **options)
    forward = loss.forward
    loss.forward = lambda student, teacher, mask=None: forward(
        student, teacher, classified(student), classified(teacher), mask
    )
    return loss


CASES = [
    *(
        Case(
            f'softmax_regression {penalty} {pooled}',
            function=partial(regression, penalty=penalty, pooled=pooled),
            reference=partial(regression_slowly, penalty=penalty, pooled=pooled),
            module=partial(regression_module, penalty=penalty, pooled=pooled),
            exact=1e-14,
            left_out=dict(half_is_float32='gradients of two branches meet in half precision'),
        )
        for penalty in ('l2', 'kl')
        for pooled in (True, False)
    ),
    Case(
        'exit boosted',
        function=through_boosted_exit,
        reference=through_boosted_exit_slowly,
        module=boosted_exit,
        left_out=dict(zero_with_zero_gradient='a cross-entropy: its minimum is an entropy'),
    ),
    *(
        Case(
            f'mixed_target_ce {alpha}',
            function=lambda student, teacher, mask, alpha=alpha: losses.mixed_target_ce(
                student, labels_of(student), teacher, alpha, mask=mask
            ),
            reference=with_labels(decoupled_kl.mixed_target_ce, alpha=alpha),
            module=partial(mixed, alpha=alpha),
            shapes=RANKS,
            left_out=dict(zero_with_zero_gradient='a cross-entropy: its minimum is an entropy'),
        )
        for alpha in (0.0, 0.3, 1.0)
    ),
    *(
        Case(
            f'reliability_mix {over}',
            function=with_labels(losses.reliability_mix, tau=2.0, over=over),
            reference=with_labels(reliability_mix.reliability_mix, tau=2.0, over=over),
            module=labelled(losses.ReliabilityMixLoss, tau=2.0, over=over),
            shapes=RANKS,
            half=1e-4,
            left_out=dict(gradcheck='the target gets no gradient: it has a test of its own')
            | ({} if over == 'places' else dict(zero_with_zero_gradient='a cross-entropy')),
        )
        for over in ('places', 'classes')
    ),
    Case(
        'mixed_exit',
        function=through_exits,
        reference=through_exits_slowly,
        module=exits_by_labels,
        teacher=(2, 7, 3, 4),
        half=1e-4,
        left_out=dict(
            zero_with_zero_gradient='labels are learned too',
            gradcheck='the target gets no gradient: it has a test of its own',
        ),
    ),
    Case(
        'exit',
        function=through_exit,
        reference=through_exit_slowly,
        module=exit_by_labels,
        left_out=dict(zero_with_zero_gradient='a cross-entropy: its minimum is an entropy'),
    ),
    Case(
        'pixel_wise_kl forward',
        **pixel_wise(tau=2.0),
        reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction='forward'),
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS,
    ),
    Case(
        'pixel_wise_kl reverse',
        **pixel_wise(tau=2.0, direction='reverse'),
        reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction='reverse'),
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS,
    ),
    Case(
        'pixel_wise_kl batch_sum',
        **pixel_wise(reduction='batch_sum'),
        reference=image_by_image,
        tiles=(1, 1, 3, 2),
    ),
    *(
        Case(
            f'pixel_wise_kl {direction}',
            **pixel_wise(tau=2.0, direction=direction),
            reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction=direction),
            same=a_constant_off,
            exact=1e-14,
            shapes=RANKS,
        )
        for direction in ('js', ('alpha-beta', 0.5, 2.0))
    ),
    Case(
        'pixel_wise_kl standardize',
        **pixel_wise(tau=2.0, standardize=True),
        reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction='forward', standardize=True),
        same=lambda x: x - 1,
        exact=1e-13,
        shapes=RANKS,
    ),
    Case(
        'binary_kl',
        function=of(losses.binary_kl, tau=2.0),
        reference=of(binary_kl.binary_kl, tau=2.0),
        module=partial(losses.BinaryKLLoss, 2.0),
        shapes=(*RANKS, (1, 1, 2, 2)),
        half=1e-4,
    ),
    *(
        Case(
            f'channel_wise_kl groups={groups}',
            function=of(losses.channel_wise_kl, tau=2.0, groups=groups),
            reference=of(channel_wise_kl.channel_wise_kl, tau=2.0, groups=groups),
            module=partial(losses.ChannelWiseKLLoss, 2.0, groups),
            same=same,
            shapes=RANKS[1:],
            exact=1e-14,
            half=1e-4,
        )
        for groups, same in ((None, a_channel_off), (1, lambda x: x + 1), (2, lambda x: x))
    ),
    Case(
        'dist',
        function=of(losses.dist, tau=2.0, inter=1.0, intra=3.0),
        reference=of(dist.dist, tau=2.0, inter=1.0, intra=3.0),
        module=partial(losses.DISTLoss, 2.0, 1.0, 3.0),
        same=a_constant_off,
        exact=1e-13,
        shapes=RANKS,
    ),
    Case(
        'decoupled_kl',
        function=with_labels(losses.decoupled_kl, tau=2.0, alpha=1.0, beta=3.0),
        reference=with_labels(decoupled_kl.decoupled_kl, tau=2.0, alpha=1.0, beta=3.0),
        module=labelled(losses.DecoupledKLLoss, tau=2.0, alpha=1.0, beta=3.0),
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS,
    ),
    Case(
        'top_k_decoupled_kl',
        function=of(losses.top_k_decoupled_kl, k=1, weights=(1.0, 3.0, 2.0), tau=2.0),
        reference=of(decoupled_kl.top_k_decoupled_kl, k=1, weights=(1.0, 3.0, 2.0), tau=2.0),
        module=partial(losses.TopKDecoupledKLLoss, 1, (1.0, 3.0, 2.0), 2.0),
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS[:2],
        half=1e-4,
    ),
    Case(
        'normalized_kl',
        function=with_labels(losses.normalized_kl, gamma=1.5, tau=2.0),
        reference=with_labels(decoupled_kl.normalized_kl, gamma=1.5, tau=2.0),
        module=labelled(losses.NormalizedKLLoss, gamma=1.5, tau=2.0),
        shapes=RANKS,
        left_out=dict(zero_with_zero_gradient='a cross-entropy: its minimum is an entropy'),
    ),
    Case(
        'weighted_soft_labels',
        function=with_labels(losses.weighted_soft_labels, tau=2.0),
        reference=with_labels(decoupled_kl.weighted_soft_labels, tau=2.0),
        module=labelled(losses.WeightedSoftLabelsLoss, tau=2.0),
        shapes=RANKS,
        left_out=dict(
            zero_with_zero_gradient='a cross-entropy: its minimum is an entropy',
            gradcheck='the factor of a position gets no gradient: it has a test of its own',
        ),
    ),
    *(
        Case(
            f'boosted_target_ce {power}',
            function=with_labels(losses.boosted_target_ce, power=power, tau=2.0),
            reference=with_labels(decoupled_kl.boosted_target_ce, power=power, tau=2.0),
            module=labelled(losses.BoostedTargetCELoss, power=power, tau=2.0),
            shapes=RANKS,
            left_out=dict(zero_with_zero_gradient='a cross-entropy: its minimum is an entropy'),
        )
        for power in (0.5, 1.0, 1.5)
    ),
    Case(
        'learned_temperature_kl',
        function=partial(at_learned_temperature, 'global'),
        reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction='forward'),
        module=curriculum,
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS,
    ),
    Case(
        'learned_temperature_kl of instances',
        function=partial(at_learned_temperature, 'instance'),
        reference=of(pixel_wise_kl.pixel_wise_kl, tau=2.0, direction='forward'),
        module=partial(curriculum, kind='instance'),
        same=a_constant_off,
        exact=1e-14,
        shapes=RANKS,
    ),
    *(
        Case(
            f'localization_kl {edges}',
            function=of(losses.localization_kl, edges=edges, tau=2.0),
            reference=of(localization_kl.localization_kl, edges=edges, tau=2.0),
            module=partial(losses.LocalizationKLLoss, edges, 2.0),
            shape=(2, 12, 3, 4),
            shapes=((3, 12), (2, 12, 3), (1, 12, 2, 2, 2)),
            exact=1e-14,
            half=1e-4,
        )
        for edges in (4, 2)
    ),
    *(
        Case(
            f'box_overlap {code} {penalty}',
            function=partial(boxes_of_a_level, code=code, penalty=penalty, spread=SPREAD),
            reference=of(box_overlap.box_overlap, code=code, penalty=penalty, spread=SPREAD),
            module=partial(losses.BoxOverlapLoss, code, penalty, SPREAD),
            shape=(2, 12, 3, 4),
            shapes=((2, 12, 3), (1, 12, 2, 2, 2)),
            exact=1e-14,
            half=1e-4,
            left_out=dict(
                one_channel_is_finite='a box is four numbers',
                **(
                    dict.fromkeys(
                        ('extreme_numbers_are_finite', 'thousand_channels_are_finite'),
                        'a distance of exp(1e4) has overflowed, and must come out',
                    )
                    if code == 'exp'
                    else {}
                ),
            ),
        )
        for code, penalty in product(('exp', 'relu', 'bins', 'deltas'), ('giou', 'log-iou'))
    ),
    *(
        Case(
            f'soft_jaccard {metric} {scope}',
            function=of(losses.soft_jaccard, metric=metric, scope=scope),
            reference=of(soft_jaccard.soft_jaccard, metric=metric, scope=scope),
            module=partial(losses.SoftJaccardLoss, metric, scope),
            shapes=RANKS,
        )
        for metric, scope in product(('jaccard', 'dice'), ('batch', 'image'))
    ),
    Case(
        'logit_mse',
        function=of(losses.logit_mse),
        reference=of(ksanc.logit_mse),
        module=losses.LogitMSELoss,
        shapes=RANKS,
        large=300,
    ),
    Case(
        'feature_l1',
        function=of(losses.feature_l1),
        reference=of(feature_l1.feature_l1),
        module=losses.FeatureL1Loss,
        tiles=(2, 2, 3, 2),
        shapes=RANKS,
        large=3e3,
    ),
    *(
        Case(
            f'feature_matching {normalise} {penalty}',
            **matching(normalise=normalise, penalty=penalty),
            shapes=RANKS[1:] if normalise == 'sample' else RANKS,
            large=300 if normalise is None else 1.0,
            exact=1e-15 if penalty != 'cosine' else 1e-14,
        )
        for normalise, penalty in product(
            (None, 'l2', 'sample', 'batch', 'image'), ('l2', 'l1', 'huber', 'cosine')
        )
    ),
    *(
        Case(
            f'feature_matching mix {normalise}',
            **matching(normalise=normalise, penalty=dict(cosine=0.5, huber=0.3)),
            shapes=RANKS,
            exact=1e-14,
        )
        for normalise in (None, 'image')
    ),
    *(
        Case(
            f'feature_matching pooled {normalise} {penalty}',
            **matching(normalise=normalise, penalty=penalty, pooled=True),
            shapes=RANKS,
            exact=1e-14,
        )
        for normalise, penalty in ((None, 'l2'), ('l2', 'l1'), ('image', 'cosine'))
    ),
    Case(
        'activation_boundary',
        function=of(losses.activation_boundary, margin=0.7),
        reference=of(activation_boundary.activation_boundary, margin=0.7),
        module=partial(losses.ActivationBoundaryLoss, 0.7),
        same=lambda x: x + torch.where(x > 0, 0.8, -0.8),
        shapes=RANKS,
        large=300,
    ),
    *(
        Case(
            f'attention_transfer {power}',
            function=of(losses.attention_transfer, power=power),
            reference=of(attention_transfer.attention_transfer, power=power),
            module=partial(losses.AttentionTransferLoss, power),
            teacher=(2, 7, 3, 4),
            same=lambda x: 2 * x,
            shapes=RANKS[1:],
            large=300,
        )
        for power in (1.0, 2.0)
    ),
    Case(
        'residual_attention',
        function=lambda student, teacher, mask: losses.residual_attention(
            layers_of(student, teacher), layers_of(teacher, teacher), mask=mask
        ),
        reference=lambda student, teacher, mask: residual_attention.residual_attention(
            layers_of(student, teacher), layers_of(teacher, teacher), mask=mask
        ),
        module=residual_module,
        teacher=(2, 7, 3, 4),
        same=lambda x: 2 * x,
        exact=1e-14,
        shapes=RANKS[1:],
        half=1e-4,
        large=300,
    ),
    Case(
        'partial_l2 batch',
        function=of(losses.partial_l2),
        reference=of(partial_l2.partial_l2),
        module=losses.PartialL2Loss,
        shapes=RANKS,
        large=300,
    ),
    Case(
        'partial_l2 number',
        function=of(losses.partial_l2, margin=-0.5),
        reference=of(partial_l2.partial_l2, margin=-0.5),
        module=partial(losses.PartialL2Loss, -0.5),
        shapes=RANKS,
        same=lambda x: x.clamp(min=-0.5),
        large=300,
    ),
    *(
        Case(
            f'focal_feature {name}',
            function=of(losses.focal_feature, **options),
            reference=of(focal_feature.focal_feature, **options),
            module=partial(losses.FocalFeatureLoss, **options),
            shapes=RANKS[1:],
            large=300,
        )
        for name, options in dict(
            both=dict(temperature=0.7, spatial=0.3, channel=2.0),
            alone=dict(spatial=0.0, channel=0.0),
        ).items()
    ),
    *(
        Case(
            f'global_context {blocks}',
            function=partial(with_contexts, blocks=blocks),
            reference=partial(with_contexts_slowly, blocks=blocks),
            module=partial(contexts, blocks=blocks),
            shapes=RANKS_OF_FIVE[1:],
            large=300,
            half=1e-4,
            left_out={}
            if blocks == 'shared'
            else dict(zero_with_zero_gradient='two blocks that have moved add other numbers'),
        )
        for blocks in ('shared', 'two')
    ),
    *(
        Case(
            f'masked_token {power}',
            function=of(losses.masked_token, tokens=TOKENS, power=power),
            reference=of(masked_token.masked_token, tokens=TOKENS, power=power),
            module=partial(masked_tokens, power=power),
            shapes=RANKS_OF_FIVE,
            large=300,
            left_out=dict(
                thousand_channels_are_finite='its tokens have as many channels as they were made of'
            ),
        )
        for power in (1, 2)
    ),
    *(
        Case(
            f'masked_generation {over}',
            function=partial(generated, over=over),
            reference=partial(generated_slowly, over=over),
            module=partial(generation, over=over),
            large=300,
            left_out=dict(
                zero_with_zero_gradient='what is generated from a map is not that map',
                tiling_changes_nothing='the generator sees the border of a map',
                thousand_channels_are_finite='eighteen million weights',
            ),
        )
        for over in ('all', 'masked')
    ),
    Case(
        'hierarchical_context',
        function=lambda student, teacher, mask: losses.hierarchical_context(
            [student], [teacher], mask=mask
        ),
        reference=lambda student, teacher, mask: hierarchical_context.hierarchical_context(
            [student], [teacher], mask=mask
        ),
        module=one_level,
        shapes=((3, 4), (2, 3, 6, 9)),
        large=300,
        half=1e-4,
        left_out=dict(tiling_changes_nothing='a cell is a part of the whole map'),
    ),
    Case(
        'variational_information',
        function=likelihood,
        reference=of(variational_information.variational_information, variance=VARIANCE),
        module=variational,
        shapes=RANKS_OF_FIVE,
        large=300,
        left_out=dict(zero_with_zero_gradient='a likelihood: its minimum depends on variances'),
    ),
    Case(
        'factor_transfer',
        function=transferred,
        reference=transferred_slowly,
        module=factors,
        teacher=(2, 7, 3, 4),
        large=300,
        half=1e-4,
        left_out=dict(
            zero_with_zero_gradient='of nets of their own: the factors are those of a row above',
            tiling_changes_nothing='the nets see the border of a map',
            thousand_channels_are_finite='nine million weights; its formula is in a row above',
        ),
    ),
    Case(
        'intra_class_variation',
        function=with_labels(losses.intra_class_variation),
        reference=with_labels(intra_class_variation.intra_class_variation),
        module=labelled(losses.IntraClassVariationLoss),
        teacher=(2, 7, 3, 4),
        same=lambda x: 2 * x,
        shapes=((2, 5, 12), (1, 3, 3, 2, 4)),
        half=1e-4,
    ),
    Case(
        'memory_contrast',
        function=contrast(losses.memory_contrast, labels=True, tau=0.3),
        reference=contrast(memory_contrast.memory_contrast, labels=True, tau=0.3),
        module=remembered,
        same=lambda x: 2 * x,
        shapes=((2, 5, 12), (1, 3, 3, 2, 4)),
        large=300,
        half=1e-4,
    ),
    *(
        Case(
            f'queue_contrast {compare}',
            function=contrast(losses.memory_contrast, tau=0.3, compare=compare),
            reference=contrast(memory_contrast.memory_contrast, tau=0.3, compare=compare),
            module=partial(queued, compare=compare),
            shape=(6, 5),
            masked=(0,),
            same=lambda x: 2 * x,
            tiles=(3, 1),
            shapes=((2, 5, 3, 4), (1, 3, 3, 2, 4)),
            half=1e-4,
            left_out={}
            if compare == 'kl'
            else dict(zero_with_zero_gradient='others may be as near: it is no divergence'),
        )
        for compare in ('kl', 'info-nce', 'nce')
    ),
    *(
        Case(
            f'patch_contrast pool {pool}',
            function=of(losses.patch_contrast, groups=5, patch=patch, pool=pool, tau=2.0),
            reference=of(memory_contrast.patch_contrast, groups=5, patch=patch, pool=pool, tau=2.0),
            module=partial(losses.PatchContrastLoss, 5, patch, pool, 2.0, mask_ratio=None),
            shape=(2, 10, 4, 4),
            shapes=((1, 5, 5, 7), (2, 20, 1, 3)),
            half=1e-4,
            left_out=dict(
                zero_with_zero_gradient='a cross-entropy: other groups are as near as they are'
            ),
        )
        for patch, pool in ((4, 1), (2, 2))
    ),
    Case(
        'hidden_cosine',
        function=of(losses.hidden_cosine),
        reference=of(internal.hidden_cosine),
        module=losses.HiddenCosineLoss,
        shape=(3, 4, 5),
        masked=(0, 1),
        same=lambda x: 2 * x,
        tiles=(2, 3, 1),
        channels=-1,
        shapes=((4, 5),),
        large=300,
    ),
    *(
        Case(
            f'attention_kl {heads}',
            function=of(losses.attention_kl, heads=heads),
            reference=of(internal.attention_kl, average=heads == 'mean'),
            module=partial(losses.AttentionKLLoss, heads),
            shape=(3, 2, 4, 5),
            masked=(0, 2),
            rows=softmax,
            back=torch.log,
            tiles=(2, 3, 2, 1),
            half=1e-4,
        )
        for heads in ('match', 'mean')
    ),
    Case(
        'ensemble_kl',
        function=of(losses.ensemble_kl, temperature=2.0),
        reference=of(dirichlet.ensemble_kl, temperature=2.0),
        module=partial(losses.EnsembleKLLoss, 2.0),
        teacher=MEMBERS,
        same=mean_logits,
        exact=1e-14,
        shapes=RANKS,
    ),
    Case(
        'dirichlet_nll',
        function=of(losses.dirichlet_nll, temperature=2.0, smoothing=1e-3),
        reference=of(dirichlet.dirichlet_nll, temperature=2.0, smoothing=1e-3),
        module=partial(losses.DirichletNLLLoss, 2.0, 1e-3),
        teacher=MEMBERS,
        shapes=RANKS,
        left_out=dict(zero_with_zero_gradient=NO_ZERO),
    ),
    *(
        Case(
            f'proxy_dirichlet {direction}',
            function=of(losses.proxy_dirichlet, direction=direction),
            reference=of(dirichlet.proxy_dirichlet, direction=direction, offset=1.0),
            module=partial(losses.ProxyDirichletLoss, direction),
            teacher=MEMBERS,
            same=proxy_logits,
            exact=1e-12,
            shapes=RANKS,
        )
        for direction in ('reverse', 'forward')
    ),
    Case(
        'assignment_kl',
        function=assigned,
        reference=assigned_slowly,
        module=quest,
        left_out=dict(
            zero_with_zero_gradient=OTHER_RULES,
            thousand_channels_are_finite='its words have as many channels as it was made for',
        ),
    ),
    *(
        Case(
            f'pair_wise_affinity {method} {channels} channels',
            **affinity(method=method) | dict(teacher=(2, channels, 3, 4)),
            reference=without_mask(pair_wise_affinity.pair_wise_affinity),
            left_out=NO_MASK | ONE_NODE,
        )
        for method, channels in product(('dense', 'gram'), (5, 7))
    ),
    Case(
        'pair_wise_affinity patches',
        **affinity(patch=2) | dict(shape=(2, 5, 4, 6), teacher=(2, 7, 4, 6)),
        reference=without_mask(pair_wise_affinity.pair_wise_affinity, patch=(2, 2)),
        left_out=NO_MASK
        | ONE_NODE
        | dict(thousand_channels_are_finite='a map of one patch is a single place'),
    ),
    Case(
        'pair_wise_affinity neighbourhood',
        **affinity(neighbourhood=3),
        reference=without_mask(pair_wise_affinity.pair_wise_affinity, neighbourhood=3),
        left_out=NO_MASK | ONE_NODE | dict(tiling_changes_nothing='a border has fewer neighbours'),
    ),
    *(
        Case(
            f'row_wise_kl {method} {across}',
            function=of(losses.row_wise_kl, method=method, across=across, tau=0.5),
            reference=of(relations.row_wise_kl, across=across, tau=0.5),
            module=partial(losses.RowWiseKLLoss, method=method, across=across, tau=0.5),
            teacher=(2, 7, 3, 4),
            same=lambda x: 2 * x,
            exact=1e-14,
            half=1e-4,
            shapes=RANKS[1:],
        )
        for method, across in product(('dense', 'chunked'), ('batch', 'image'))
    ),
    *(
        Case(
            f'batch_similarity {kind} {pooled}',
            function=of(losses.batch_similarity, kind=kind, pooled=pooled),
            reference=of(relations.batch_similarity, kind=kind, pooled=pooled),
            module=partial(losses.BatchSimilarityLoss, kind, pooled),
            shape=(4, 2, 3, 2),
            teacher=(4, 3, 3, 2),
            same=lambda x: 2 * x,
            exact=1e-13,
            half=1e-4,
            shapes=((4, 3), (4, 3, 4), (4, 3, 1, 2, 1)),
        )
        for kind, pooled in product(relations.BETWEEN_IMAGES, (False, True))
    ),
    *(
        Case(
            f'channel_gram {kind} {channels}',
            function=of(losses.channel_gram, kind=kind, tau=0.5),
            reference=of(relations.channel_gram, kind=kind, tau=0.5),
            module=partial(losses.ChannelGramLoss, kind, 0.5),
            shape=(2, 5, 4, 6),
            teacher=None if channels == 5 else (2, channels, 4, 6),
            same=lambda x, kind=kind: x if kind == 'dsd' else 2 * x,
            exact=1e-14,
            half=1e-4,
            shapes=((2, 5, 4), (1, 5, 4, 2, 2)),
        )
        for kind, channels in (('nst', 5), ('nst', 9), ('ickd', 5), ('dsd', 5))
    ),
    Case(
        'flow_of_solution',
        function=flow(losses.flow_of_solution),
        reference=flow(relations.flow_of_solution),
        module=flow_module,
        shapes=((2, 5, 3), (1, 4, 2, 2, 2)),
        half=1e-4,
        left_out=dict.fromkeys(
            ('extreme_numbers_are_finite', 'thousand_channels_are_finite'),
            'its gradient grows with the cube of the features: that of 1e4 is beyond float16',
        ),
    ),
    Case(
        'squeezed_knowledge',
        function=lambda student, teacher, mask: losses.squeezed_knowledge([student], [teacher]),
        reference=lambda s, t, mask: ksanc.distance([s.tolist()], [t.tolist()]),
        module=lambda **options: None,
        shape=(4, 5),
        masked=(),
        tiles=(3, 1),
        left_out=NO_MASK | dict(module_is_function=OTHERS['SqueezedKnowledgeLoss']),
    ),
]


@pytest.mark.parametrize(
    ('case', 'kind'),
    [
        pytest.param(case, kind, id=f'{case.name}-{kind.__name__}')
        for case in CASES
        for kind in KINDS
        if kind.__name__ not in case.left_out
    ],
)
def test_every_loss(case: Case, kind: Callable[[Case], None]) -> None:
    kind(case)


def test_every_loss_has_a_row() -> None:
    """And every kind that a row leaves out is one that there is."""
    registered = {
        name
        for name, kind in inspect.getmembers(losses, inspect.isclass)
        if issubclass(kind, Loss) and kind is not Loss
    }
    rows = {type(case.module(loss_weight=1.0)).__name__ for case in CASES} - {'NoneType'}
    assert registered == rows | OTHERS.keys()
    for case in CASES:
        assert case.left_out.keys() <= NAMES
