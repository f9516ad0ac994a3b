"""Every loss lets a student's NaN, +Inf and −Inf through where it counts, so that a run can be
stopped, and only there.

A clip, sigmoid, softmax or ReLU makes a finite number of an infinite one, and the run would go on
with it.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmkd.losses
from mmkd.losses import CategoryCritic, HolisticCritic, Loss
from mmkd.losses.base import infinite_to_nan
from mmkd.losses.memory.ring import Ring
from mmkd.losses.queries.asking import Learned

SHAPE = (2, 3, 4, 4)
MASK = torch.ones(2, 4, 4, dtype=torch.bool)
MASK[0, 1, 2] = False
MASKED, VALID = (0, 1, 1, 2), (1, 1, 2, 1)  # elements of a map
ROW = MASK.flatten(1)  # of 16 tokens


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(loss: Loss) -> Loss:
    loss.vocabulary.words.copy_(draw(4, 3))
    return loss


def factors(loss: Loss) -> Loss:
    loss.paraphraser.draw(torch.Generator().manual_seed(1))
    return loss


def tokens(loss: Loss) -> Loss:
    loss.tokens.tokens.copy_(draw(4, 3))
    return loss


def full(loss: Loss) -> Loss:
    """Return a loss whose memories are full, and stay as they are."""
    for ring in loss.modules():
        if isinstance(ring, Ring):
            ring.rows[:-1] = draw(len(ring.rows) - 1, ring.rows.shape[1])
            ring.pushed.fill_(ring.size)
    return loss.eval()


def pair(loss: Loss, **reads: Any) -> Callable:
    """Return the call of a loss over student and teacher of one shape."""
    return lambda student, **mask: loss(student, draw(*student.shape).softmax(-1), **reads, **mask)


def stack(loss: Loss) -> Callable:
    return lambda student, **mask: loss(student, draw(3, *student.shape), **mask)


def seeded(call: Callable) -> Callable:
    """Return a call whose draws are the same each time."""

    def drawn(student: Tensor, **mask: Any) -> Tensor:
        torch.manual_seed(0)
        return call(student, **mask)

    return drawn


def crossed(place: int) -> Callable:
    """Return the call of cross-level matching as a function of one of what it reads."""
    torch.manual_seed(0)
    loss = mmkd.losses.CrossLevelLoss(2, factor=1)
    loss.build([draw(*SHAPE)] * 2, [draw(*SHAPE)] * 2, [draw(*SHAPE)])

    def call(student: Tensor) -> Tensor:
        reads = [draw(*SHAPE) + 1, draw(*SHAPE) + 2]
        reads[place] = student
        return loss([reads[0]] * 2, [draw(*SHAPE), draw(*SHAPE) + 3], [reads[1]])

    return call


def softly(place: int) -> Callable:
    """Return the call of softmax regression as a function of features, or of logits."""

    def call(student: Tensor, **mask: Any) -> Tensor:
        reads = [draw(*SHAPE) + 1, draw(*SHAPE) + 2]
        reads[place] = student
        loss = K['SoftmaxRegressionLoss']()
        return loss(reads[0], draw(*SHAPE), reads[1], draw(*SHAPE), **mask)

    return call


class Decoder(nn.Module):
    """What answers a query by itself and the mean of what was seen."""

    embed_dims = 3

    def __init__(self) -> None:
        super().__init__()
        self.query_embedding = nn.Embedding.from_pretrained(draw(5, 4))
        self.bbox_head = lambda hidden: (hidden.cumsum(-1), hidden.sigmoid())
        self.bbox_head.loss_cls = SimpleNamespace(use_sigmoid=True)

    def forward_decoder(self, query_pos: Tensor, memory: Tensor, **_: Tensor) -> dict:
        return dict(hidden=(query_pos + memory.mean((1, 2), keepdim=True))[None])


def asked(student: Tensor, teacher: Tensor | None = None, **options: float) -> Tensor:
    loss = mmkd.losses.SharedQueriesLoss(**options)
    loss.sides, loss.asking = (SimpleNamespace(model=Decoder()),) * 2, Learned()
    places, padding = draw(2, 3, 4, 4), torch.zeros(2, 8, 8, dtype=torch.bool)
    teacher = draw(2, 16, 3) if teacher is None else teacher
    return loss(student, teacher, places, places, padding)


def squeezed(student: Tensor) -> Tensor:
    torch.manual_seed(0)
    loss = mmkd.losses.SqueezedKnowledgeLoss([3], [3], 2, 2)
    return loss([student], [draw(*SHAPE)], draw(2, 2), draw(2, 2))


def squeezed_global(student: Tensor) -> Tensor:
    torch.manual_seed(0)
    loss = mmkd.losses.SqueezedKnowledgeLoss([3], [3], 3, 2)
    return loss([draw(*SHAPE)], [draw(*SHAPE)], student, draw(2, 2))


def critic(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(3, **options).eval()


def adversarial(mode: str, activation: str | None, sigmoid: bool) -> Callable:
    return pair(
        mmkd.losses.AdversarialLoss(
            critic(CategoryCritic, num_classes=0), mode, activation=activation, sigmoid=sigmoid
        )
    )


K = {name: getattr(mmkd.losses, name) for name in dir(mmkd.losses) if name.endswith('Loss')}
TOKENS = dict(shape=(2, 16, 3), masked=(0, 6, 1), valid=(1, 9, 1), mask=ROW)
# loss, options -> the call and, where they are not those of a map, its shape, its elements and mask
CASES: dict[tuple[str, str], tuple[Callable, dict]] = {
    ('PixelWiseKLLoss', 'forward'): (pair(K['PixelWiseKLLoss']()), {}),
    ('PixelWiseKLLoss', 'reverse'): (pair(K['PixelWiseKLLoss'](direction='reverse')), {}),
    **{
        ('PixelWiseKLLoss', str(options)): (pair(K['PixelWiseKLLoss'](**options)), {})
        for options in (
            dict(direction='js'),
            dict(direction=('alpha-beta', 0.5, 0.5)),
            dict(standardize=True),
        )
    },
    ('LogitMSELoss', ''): (pair(K['LogitMSELoss']()), {}),
    ('BinaryKLLoss', ''): (pair(K['BinaryKLLoss']()), {}),
    ('ChannelWiseKLLoss', ''): (pair(K['ChannelWiseKLLoss']()), {}),
    ('DISTLoss', ''): (pair(K['DISTLoss']()), {}),
    **{
        (name, ''): (pair(K[name](), labels=torch.arange(32).view(2, 4, 4) % 3), {})
        for name in (
            *('DecoupledKLLoss', 'NormalizedKLLoss'),
            *('WeightedSoftLabelsLoss', 'BoostedTargetCELoss', 'IntraClassVariationLoss'),
        )
    },
    ('MixedTargetCELoss', ''): (
        lambda student, **mask: K['MixedTargetCELoss']()(
            student, torch.arange(32).view(2, 4, 4) % 3, draw(*SHAPE), **mask
        ),
        {},
    ),
    ('ExitLoss', ''): (
        pair(
            K['ExitLoss'](student_channels=3, num_classes=3),
            labels=torch.arange(32).view(2, 4, 4) % 3,
        ),
        {},
    ),
    **{
        ('ReliabilityMixLoss', over): (
            pair(K['ReliabilityMixLoss'](over=over), labels=torch.arange(32).view(2, 4, 4) % 3),
            {},
        )
        for over in ('places', 'classes')
    },
    ('MixedExitLoss', ''): (
        pair(
            K['MixedExitLoss'](3, student_channels=3, teacher_channels=3),
            labels=torch.arange(32).view(2, 4, 4) % 3,
        ),
        {},
    ),
    ('LearnedTemperatureKLLoss', ''): (pair(K['LearnedTemperatureKLLoss']()), {}),
    ('LocalizationKLLoss', ''): (pair(K['LocalizationKLLoss'](edges=1)), {}),
    **{
        ('BoxOverlapLoss', code): (
            pair(K['BoxOverlapLoss'](code)),
            dict(
                shape=(2, 16 if code == 'bins' else 8, 4, 4),
                mask=MASK,
            ),
        )
        for code in ('exp', 'relu', 'bins', 'deltas')
    },
    ('TopKDecoupledKLLoss', ''): (pair(K['TopKDecoupledKLLoss'](k=1)), {}),
    **{
        ('SoftJaccardLoss', f'{metric} {scope}'): (pair(K['SoftJaccardLoss'](metric, scope)), {})
        for metric, scope in product(('jaccard', 'dice'), ('batch', 'image'))
    },
    ('FeatureL1Loss', ''): (pair(K['FeatureL1Loss']()), {}),
    **{
        ('FeatureMatchingLoss', f'{normalise} {penalty}'): (
            pair(K['FeatureMatchingLoss'](normalise, penalty)),
            {},
        )
        for normalise, penalty in product(
            (None, 'l2', 'sample', 'batch', 'image'), ('l2', 'l1', 'huber', 'cosine')
        )
    },
    ('FeatureMatchingLoss', 'mix'): (
        pair(K['FeatureMatchingLoss'](penalty=dict(cosine=0.5, huber=0.5))),
        {},
    ),
    ('FeatureMatchingLoss', 'pooled'): (pair(K['FeatureMatchingLoss'](pooled=True)), {}),
    **{
        ('RowWiseKLLoss', f'{method} {across}'): (
            pair(K['RowWiseKLLoss'](method=method, across=across)),
            {},
        )
        for method, across in product(('dense', 'chunked'), ('batch', 'image'))
    },
    ('RowWiseKLLoss', 'nodes'): (pair(K['RowWiseKLLoss'](nodes=4)), {}),
    ('RowWiseKLLoss', 'window'): (pair(K['RowWiseKLLoss'](across='image', window=4).eval()), {}),
    **{
        ('BatchSimilarityLoss', f'{kind} {pooled}'): (
            pair(K['BatchSimilarityLoss'](kind, pooled)),
            {},
        )
        for kind, pooled in product(('sp', 'rkd-distance', 'rkd-angle', 'pkt', 'cc'), (False, True))
    },
    **{
        ('ChannelGramLoss', kind): (pair(K['ChannelGramLoss'](kind)), {})
        for kind in ('nst', 'ickd', 'dsd')
    },
    ('FlowOfSolutionLoss', ''): (
        pair(K['FlowOfSolutionLoss'](), student_next=draw(*SHAPE), teacher_next=draw(*SHAPE)),
        {},
    ),
    ('FactorTransferLoss', ''): (pair(factors(K['FactorTransferLoss'](3, 3))), {}),
    ('ActivationBoundaryLoss', ''): (pair(K['ActivationBoundaryLoss']()), {}),
    ('AttentionTransferLoss', ''): (pair(K['AttentionTransferLoss']()), {}),
    ('VariationalInformationLoss', ''): (pair(K['VariationalInformationLoss'](3)), {}),
    **{
        ('MaskedTokenLoss', f'{power}'): (
            pair(tokens(K['MaskedTokenLoss'](3, num_tokens=4, power=power))),
            {},
        )
        for power in (1, 2)
    },
    **{
        ('GlobalContextLoss', blocks): (pair(K['GlobalContextLoss'](blocks, 3)), {})
        for blocks in ('shared', 'two')
    },
    ('FocalFeatureLoss', 'relation'): (
        pair(K['FocalFeatureLoss'](relation=2.0, teacher_channels=3)),
        {},
    ),
    ('FocalFeatureLoss', ''): (pair(K['FocalFeatureLoss']()), {}),
    ('PartialL2Loss', ''): (pair(K['PartialL2Loss']()), {}),
    ('EnsembleKLLoss', ''): (stack(K['EnsembleKLLoss']()), {}),
    ('DirichletNLLLoss', ''): (stack(K['DirichletNLLLoss']()), {}),
    ('ProxyDirichletLoss', 'reverse'): (stack(K['ProxyDirichletLoss']()), {}),
    ('ProxyDirichletLoss', 'forward'): (stack(K['ProxyDirichletLoss']('forward', offset=0.0)), {}),
    ('AssignmentKLLoss', ''): (pair(words(K['AssignmentKLLoss'](3, 3, num_words=4))), {}),
    ('MemoryContrastLoss', ''): (
        pair(
            full(K['MemoryContrastLoss'](3, 3, pixels=9, regions=9)),
            labels=torch.arange(32).view(2, 4, 4) % 3,
        ),
        {},
    ),
    **{
        ('QueueContrastLoss', f'{compare} {embed}'): (
            pair(full(K['QueueContrastLoss'](9, 0.3, compare, embed, 3, 3))),
            {},
        )
        for compare, embed in (('kl', None), ('info-nce', None), ('nce', None), ('nce', 3))
    },
    **{
        ('PatchContrastLoss', f'{ratio}'): (
            pair(K['PatchContrastLoss'](3, 2, 2, mask_ratio=ratio, teacher_channels=3)),
            {},
        )
        for ratio in (None, 0.0)
    },
    **{
        ('MaskedGenerationLoss', f'{ratio} {fill}'): (
            seeded(pair(K['MaskedGenerationLoss'](ratio, fill=fill, teacher_channels=3))),
            {},
        )
        for ratio, fill in ((0.0, 'zero'), (0.5, 'zero'), (0.5, 'token'))
    },
    **{
        ('SoftmaxRegressionLoss', read): (softly(place), {})
        for place, read in enumerate(('student', 'student_logits'))
    },
    ('HierarchicalContextLoss', ''): (
        lambda student, **mask: K['HierarchicalContextLoss']()([student], [draw(*SHAPE)], **mask),
        {},
    ),
    ('ResidualAttentionLoss', ''): (
        lambda student, **mask: K['ResidualAttentionLoss']()(
            [student, student[:, :1]], [draw(*SHAPE), draw(*SHAPE)[:, :1]], **mask
        ),
        {},
    ),
    ('CrossLevelLoss', 'brought'): (crossed(0), dict(mask=None)),
    ('CrossLevelLoss', 'attending'): (crossed(1), dict(mask=None)),
    ('HiddenCosineLoss', 'all'): (pair(K['HiddenCosineLoss']()), TOKENS),
    ('HiddenCosineLoss', 'first'): (
        pair(K['HiddenCosineLoss']('first')),
        TOKENS | dict(mask=None, valid=(1, 0, 1)),
    ),
    ('HiddenCosineLoss', 'mean'): (pair(K['HiddenCosineLoss']('mean')), TOKENS),
    ('HiddenCosineLoss', 'class'): (
        pair(K['HiddenCosineLoss']('class'), labels=torch.where(MASK, 1, 255)),
        dict(mask=MASK, reads_mask=False),
    ),
    ('AttentionKLLoss', 'match'): (
        pair(K['AttentionKLLoss']()),
        dict(shape=(2, 3, 16, 4), masked=(0, 1, 6, 1), valid=(1, 1, 9, 1), mask=ROW),
    ),
    ('AttentionKLLoss', 'mean'): (
        pair(K['AttentionKLLoss']('mean')),
        dict(shape=(2, 3, 16, 4), masked=(0, 1, 6, 1), valid=(1, 1, 9, 1), mask=ROW),
    ),
    ('AttentionKLLoss', 'queries'): (
        pair(K['AttentionKLLoss'](), student_key=draw(2, 3, 5, 4), teacher_key=draw(2, 3, 5, 4)),
        dict(shape=(2, 3, 16, 4), masked=(0, 1, 6, 1), valid=(1, 1, 9, 1), mask=ROW),
    ),
    ('SharedQueriesLoss', ''): (asked, dict(shape=(2, 16, 3), valid=(1, 9, 1), mask=None)),
    ('SqueezedKnowledgeLoss', 'map'): (squeezed, dict(mask=None)),
    ('SqueezedKnowledgeLoss', 'global'): (
        squeezed_global,
        dict(mask=None, shape=(2, 3), valid=(1, 1)),
    ),
    **{
        ('PairWiseAffinityLoss', str(options)): (
            pair(K['PairWiseAffinityLoss'](**options)),
            dict(mask=None),
        )
        for options in (
            dict(method='dense'),
            dict(method='gram'),
            dict(neighbourhood=3),
            dict(patch=2),
            dict(patch=2, pool='max'),
        )
    },
    **{
        ('AdversarialLoss', f'{mode} {activation} {sigmoid}'): (
            adversarial(mode, activation, sigmoid),
            {},
        )
        for mode, activation, sigmoid in product(
            ('wgan-gp', 'hinge', 'lsgan', 'bce'), (None, 'softmax', 'sigmoid'), (False, True)
        )
        if not (mode == 'bce' and sigmoid)
    },
    ('AdversarialLoss', 'maps'): (
        pair(
            K['AdversarialLoss'](
                critic(HolisticCritic, image_channels=0, channels=(8, 16)), 'hinge'
            )
        ),
        dict(mask=None, shape=(2, 3, 16, 16)),
    ),
}


def learn(call: Callable, student: Tensor, **mask: Any) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = call(student, **mask)
    return value, torch.autograd.grad(value, student)[0]


def start(shape: tuple[int, ...]) -> Tensor:
    return (draw(*shape) + 0.1).softmax(-1)  # rows of attention too


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(('loss', 'options'), CASES)
def test_what_is_not_finite_comes_out_where_it_counts_and_only_there(
    loss: str, options: str, bad: float
) -> None:
    call, case = CASES[loss, options]
    student, mask = start(case.get('shape', SHAPE)), case.get('mask', MASK)
    given = dict(mask=mask) if mask is not None and case.get('reads_mask', True) else {}
    wrong = student.clone()
    wrong[case.get('valid', VALID)] = bad
    value, gradient = learn(call, wrong, **given)
    assert not (value.isfinite() and gradient.isfinite().all()), 'swallowed'
    if mask is None:
        return
    expected = learn(call, student, **given)
    student[case.get('masked', MASKED)] = bad
    for got, want in zip(learn(call, student, **given), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('left_out', ['mask', 'weight', 'no area'])
@pytest.mark.parametrize(('code', 'large'), [('exp', 100.0), ('relu', 1e25), ('relu', math.inf)])
def test_a_box_that_overflows_where_none_counts_is_as_if_it_were_not(
    code: str, large: float, left_out: str
) -> None:
    """Finite logits, of which the areas are not."""
    student, teacher = draw(2, 4, 4, 4).abs(), draw(2, 4, 4, 4).abs() + 1
    place = 0, slice(None), 1, 2
    given: dict[str, Any] = dict(mask=MASK) if left_out == 'mask' else {}
    if left_out == 'weight':
        given = dict(weight=MASK.float())
    if left_out == 'no area':
        teacher[place] = -40.0
    call = partial(mmkd.losses.box_overlap, teacher=teacher, code=code, **given)
    expected = learn(call, student)
    student[place] = large
    for got, want in zip(learn(call, student), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('name', ['BoxOverlapLoss', 'LocalizationKLLoss'])
def test_scores_that_are_broken_come_out_where_they_count(name: str, bad: float) -> None:
    loss = K[name]('exp') if name == 'BoxOverlapLoss' else K[name](2)
    student, teacher, scores = draw(2, 4, 4, 4), draw(2, 4, 4, 4) + 1, draw(2, 3, 4, 4)
    left_out: tuple[dict[str, Any], ...] = dict(mask=MASK), dict(weight=MASK.float())
    expected = [loss(student, teacher, scores, **given) for given in left_out]
    scores[(0, 0, 1, 2)] = bad
    assert not loss(student, teacher, scores).isfinite()
    for given, value in zip(left_out, expected, strict=True):
        assert loss(student, teacher, scores, **given) == value


@pytest.mark.parametrize('options', [{}, dict(classes=0.0)])
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_answers_of_a_broken_teacher_come_out(bad: float, options: dict) -> None:
    teacher = draw(2, 16, 3)
    assert asked(draw(2, 16, 3), teacher, **options).isfinite()
    teacher[1, 9, 1] = bad
    assert not asked(draw(2, 16, 3), teacher, **options).isfinite()


def test_every_loss_is_there() -> None:
    registered = {
        name
        for name, kind in inspect.getmembers(mmkd.losses, inspect.isclass)
        if issubclass(kind, Loss)
    }
    assert registered - {'Loss'} == {loss for loss, _ in CASES}


def test_infinite_to_nan_leaves_finite_numbers_and_their_gradient() -> None:
    x = torch.tensor([1.0, -torch.finfo(torch.float32).max, math.inf, math.nan], requires_grad=True)
    y = infinite_to_nan(x)
    assert y[:2].tolist() == x[:2].tolist()
    assert y[2:].isnan().all()
    assert torch.autograd.grad(y[:2].sum(), x)[0].tolist() == [1.0, 1.0, 0.0, 0.0]


WEIGHED = [
    (loss, options)
    for (loss, options), (_, case) in CASES.items()
    if 'weight' in inspect.signature(K[loss].forward).parameters and case.get('mask', MASK) is MASK
]


@pytest.mark.parametrize(('loss', 'options'), WEIGHED)
def test_a_weight_of_nan_comes_out_where_it_counts_and_only_there(loss: str, options: str) -> None:
    """Scores of a teacher that says NaN are such weights: not to count would be a loss of 0."""
    call, case = CASES[loss, options]
    student, weight = start(case.get('shape', SHAPE)), draw(*MASK.shape).sigmoid()
    expected = learn(call, student, mask=MASK, weight=weight)
    weight[~MASK] = math.nan
    for got, want in zip(learn(call, student, mask=MASK, weight=weight), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    for place in ((1, 2, 1), 1, ...):  # a place, an image, all of them
        weight[place] = math.nan
        assert not call(student, mask=MASK, weight=weight).isfinite(), f'swallowed: {place}'
