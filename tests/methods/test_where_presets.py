"""Presets of weights and regions: the authors' formula times their weight, and limits.

Each formula is written as the authors' code computes it, with its own normaliser.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import batch, segmentor
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from test_presets import BY_FORMULA
from torch import Tensor

from mmkd.distiller.objectives.objective import build_objective
from mmkd.losses import channel_wise_kl, pixel_wise_kl
from mmkd.methods import Pair, expand, find_method
from mmkd.methods.expand import plan_of, reads_labels
from mmkd.methods.facts import facts_of
from mmkd.structures.batch import Batch
from mmkd.tasks import Classification, Segmentation
from mmkd.where import boundary_band

CLASSES = 19
PAIR = Pair(Segmentation(CLASSES))
METHODS = ('bpkd', 'ifvd')
KNOWN = dict(student=['logits', 'feat'], teacher=['logits', 'feat'])


def draw(channels: int = CLASSES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(3, channels, 6, 8, dtype=torch.float64, generator=generator)


def draw_labels(ignored: bool = False) -> Tensor:
    """Return blocks of classes at the size of the maps."""
    blocks = torch.randint(CLASSES, (3, 2, 2), generator=torch.Generator().manual_seed(4))
    labels = blocks.repeat_interleave(3, 1).repeat_interleave(4, 2)
    if ignored:
        labels[:, :2] = 255
    return labels


def value_of(name: str, config: dict, labels: Tensor, student: Tensor, teacher: Tensor) -> float:
    """Return what an objective of a method is worth, its weights and reads as in a Distiller."""
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]
    tap = config['on']
    record = dict(
        batch=Batch(torch.zeros(3, 3, *labels.shape[1:]), samples, task=PAIR.task),
        student={tap: student.clone().requires_grad_()},
        teacher={tap: teacher},
    )
    config = {key: one for key, one in config.items() if key != 'connectors'}
    (value,) = build_objective(name, config, KNOWN)(record).values()
    return value.item()


# ---------------------------------------------------------------------- IFVD


def official_ifvd(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    """Return λ times the MSE of both similarity maps, centres put in place class by class."""
    maps = []
    for x in (student, teacher):
        centre = x.clone()
        for k in range(CLASSES):
            own = (labels == k).unsqueeze(1).to(x.dtype)
            mean = (own * x).sum((2, 3)) / (own.sum((2, 3)) + 1e-6)
            centre = (1 - own) * centre + own * mean[:, :, None, None]
        maps.append(F.cosine_similarity(x, centre, dim=1))
    return 200.0 * F.mse_loss(*maps).item()


@pytest.mark.parametrize('ignored', [False, True])
def test_ifvd_is_the_official_formula_times_its_weight(ignored):
    """Ignored pixels add 0 to the authors' mean, and are left out of ours."""
    student, teacher, labels = draw(6), draw(9, seed=1), draw_labels(ignored)
    objective = find_method('ifvd')(PAIR).objectives['ifvd']
    value = value_of('ifvd', objective, labels, student, teacher)
    share = (labels != 255).double().mean().item()
    expected = official_ifvd(student, teacher, labels) / share
    assert value == pytest.approx(expected, rel=1e-5)
    assert share == pytest.approx(2 / 3 if ignored else 1.0)


def test_the_pixel_wise_term_of_ifvd_is_theirs_at_ten_over_classes():
    student, teacher = draw(), draw(seed=1)
    official = (
        10 * F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction='sum') / student.numel()
    )
    plan = find_method('ifvd')(PAIR, pixel=10 / CLASSES)
    assert set(plan.objectives) == {'ifvd', 'pixel'}
    value = value_of('pixel', plan.objectives['pixel'], draw_labels(), student, teacher)
    assert value == pytest.approx(official.item(), rel=1e-9)


def test_the_critic_of_ifvd_is_there_on_demand():
    plan = find_method('ifvd')(PAIR, holistic=0.001)
    assert set(plan.objectives) == {'ifvd', 'holistic'}
    assert plan.objectives['holistic']['weight'] == 0.001
    assert set(plan.optimizers) == {'critic'}
    both = find_method('ifvd')(PAIR, pixel=0.5, holistic=0.001)
    assert set(both.objectives) == {'ifvd', 'pixel', 'holistic'}


# ---------------------------------------------------------------------- BPKD


def bpkd(radius: int, labels: Tensor, student: Tensor, teacher: Tensor) -> dict[str, float]:
    plan = find_method('bpkd')(PAIR, radius=radius)
    return {
        name: value_of(name, one, labels, student, teacher) for name, one in plan.objectives.items()
    }


def test_bpkd_is_both_formulas_times_their_weights():
    student, teacher, labels = draw(), draw(seed=1), draw_labels()
    band = boundary_band(labels, labels != 255, 1)
    assert 0.2 < band.double().mean() < 0.9
    log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
    each = (log_t.exp() * (log_t - log_s)).sum(1)
    edge = 50 * each[band].mean()
    total = 0.0
    for s, t, own in zip(student / 4, teacher / 4, ~band, strict=True):
        a, b = s[:, own].log_softmax(1), t[:, own].log_softmax(1)
        total += 4**2 / CLASSES * F.kl_div(a, b.exp(), reduction='sum').item()
    found = bpkd(1, labels, student, teacher)
    assert found['edge'] == pytest.approx(edge.item(), rel=1e-9)
    assert found['body'] == pytest.approx(20 * total / 3, rel=1e-9)


def test_without_a_band_bpkd_is_its_body_alone():
    """Radius 0, or one class everywhere: channel-wise distillation, of weight 20."""
    student, teacher = draw(), draw(seed=1)
    plain = 20 * channel_wise_kl(student, teacher, 4.0).item()
    for radius, labels in ((0, draw_labels()), (3, torch.full((3, 6, 8), 2))):
        found = bpkd(radius, labels, student, teacher)
        assert found['edge'] == 0
        assert found['body'] == pytest.approx(plain, rel=1e-12)


def test_one_pixel_wise_loss_on_both_sides_of_equal_weight_is_plain():
    """And with no band at all the outside alone is."""
    student, teacher = draw(), draw(seed=1)
    plain = pixel_wise_kl(student, teacher).item()
    sides = [dict(type='BoundaryBand', radius=1, outside=outside) for outside in (False, True)]
    labels = draw_labels()
    band = boundary_band(labels, labels != 255, 1).double().mean().item()
    shares = (band, 1 - band)
    loss = dict(type='PixelWiseKLLoss')
    values = [
        share * value_of('it', dict(loss=loss, on='logits', where=where), labels, student, teacher)
        for share, where in zip(shares, sides, strict=True)
    ]
    assert sum(values) == pytest.approx(plain, rel=1e-9)
    config = dict(loss=loss, on='logits', where=sides[1])
    flat = torch.zeros(3, 6, 8, dtype=torch.long)
    assert value_of('it', config, flat, student, teacher) == pytest.approx(plain, rel=1e-12)


def test_a_whole_kl_of_equal_edges_is_the_published_sum_over_100_times_the_classes():
    """The sum Σ_c 50 · α / n_c Σ_i φ_i M_ci, without logits multiplied by masks, φ one number."""
    band = torch.zeros(5, 6, 8, dtype=torch.bool)
    for k in range(5):
        band[k, k] = True
    phi = 0.3
    published = sum(50 * 2.0 / own.sum() * (phi * own).sum() for own in band)
    assert published.item() == pytest.approx(100 * 5 * phi)


# ---------------------------------------------------------------------- both


def test_every_preset_is_here() -> None:
    assert set(METHODS) < BY_FORMULA


@pytest.mark.parametrize('name', METHODS)
def test_they_need_labels_and_label_maps(name):
    assert reads_labels(plan_of(name, {}, PAIR))
    assert facts_of(name).labels
    assert facts_of(name).tasks == ('segmentation',)
    with pytest.raises(ValueError, match='is made for segmentation'):
        plan_of(name, {}, Pair(Classification(3)))


def test_where_beside_a_method_changes_its_objective():
    net = dict(type='Net', decode_head=dict(num_classes=3))
    where = dict(type='TeacherConfidence')
    made, _ = expand(
        dict(student=net, teacher=net, method='kd', objectives=dict(pixel=dict(where=where)))
    )
    assert made['objectives']['pixel']['where'] == where
    assert made['objectives']['pixel']['loss'] == dict(type='PixelWiseKLLoss')


@pytest.mark.parametrize(
    ('method', 'message'),
    [
        (dict(type='bpkd', radius=-1), "method 'bpkd': radius of BoundaryBand must be"),
        (dict(type='bpkd', edge=-1), "method 'bpkd': the weight of its objective"),
        (dict(type='ifvd', weight=0), "method 'ifvd': the weight of its objective"),
    ],
)
def test_bad_options_name_the_method(method: dict, message: str) -> None:
    net = dict(type='Net', decode_head=dict(num_classes=3))
    with pytest.raises(ValueError, match=message):
        expand(dict(student=net, teacher=net, method=method))


@pytest.mark.parametrize('method', ['bpkd', 'ifvd', dict(type='ifvd', pixel=0.5)], ids=str)
def test_a_preset_trains_two_segmentors(method: Any) -> None:
    """From a name to a gradient in the student: taps are found, maps of two sizes compared."""
    torch.manual_seed(0)
    smaller = segmentor(8)
    smaller['backbone'].update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    distiller = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=smaller),
            teacher=dict(model=segmentor(16), allow_untrained=True),
            method=method,
        )
    )
    data = batch(2, ignore=0.2)
    for sample in data['data_samples']:  # regions, in place of noise
        sample.gt_sem_seg.data[:, :, 20:] = 3
    losses = distiller(**distiller.data_preprocessor(data, True), mode='loss')
    values = [losses[f'{name}.loss'] for name in distiller.objectives]
    assert all(value.item() > 0 for value in values)
    sum(values).backward()
    assert distiller.student.backbone.layer1[0].conv1.weight.grad.abs().sum() > 0
