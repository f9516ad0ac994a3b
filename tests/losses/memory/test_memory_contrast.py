"""MemoryContrastLoss: class-pure memories of a teacher's batch, exact values, what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.memory_contrast import Rings, regions
from references.memory_contrast import memory_contrast as slow
from torch import Tensor

from mmkd.losses import MemoryContrastLoss

CLASSES, CHANNELS = 4, 6


def draw(seed: int, channels: int = CHANNELS) -> tuple[Tensor, Tensor, Tensor]:
    """Return student, teacher and labels, some of them 255 and one beyond the classes."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(
        2, 2, channels, 3, 4, dtype=torch.float64, generator=generator
    ).unbind()
    labels = torch.randint(CLASSES + 1, (2, 3, 4), generator=generator)
    labels[0, 0, 1:3] = 255
    return student, teacher, labels


def build(**options: Any) -> MemoryContrastLoss:
    settings = dict(pixels=5, regions=3, pixel_keys=99, region_keys=99, tau=0.3) | options
    return MemoryContrastLoss(CLASSES, CHANNELS, **settings).double()


def of_class(ring: Any, k: int) -> Tensor:
    rows = ring.rows[:-1].view(CLASSES, ring.size, -1)[k]
    return rows[ring.known.view(CLASSES, -1)[k]]


def test_memories_are_class_pure() -> None:
    """Every pixel that is held of a class is one that had its label; a teacher tells its class."""
    torch.manual_seed(0)
    loss = build(pixels=40, push=3)
    seen: dict[int, list[Tensor]] = {k: [] for k in range(CLASSES)}
    for seed in range(6):
        student, teacher, labels = draw(seed)
        loss(student, teacher, labels)
        rows = F.normalize(teacher, dim=1).movedim(1, -1)
        for k in seen:
            seen[k] += [*rows[labels == k]]
    for k in range(CLASSES):
        held = of_class(loss.pixel, k)
        assert len(held) > 10
        mine = torch.cdist(held, torch.stack(seen[k])).amin(1)
        others = torch.stack([row for other in seen if other != k for row in seen[other]])
        assert mine.max() < 1e-6
        assert torch.cdist(held, others).amin() > 1e-3
        assert len(torch.unique(held, dim=0)) == len(held)


def test_no_more_than_so_many_pixels_of_an_image_and_a_class() -> None:
    student, teacher, labels = draw(0)
    for push in (1, 2, 50):
        loss = build(pixels=50, push=push)
        loss(student, teacher, labels)
        there = [(labels[:, None] == k).flatten(1).sum(1).clamp(max=push).sum() for k in range(4)]
        assert loss.pixel.pushed.tolist() == [int(n) for n in there]


def test_regions_are_the_mean_of_the_unit_vectors_in_order_and_go_round() -> None:
    """Nine images through rings of three places, of which some wrap and some do not."""
    loss, lists = build(pixels=0), Rings(CLASSES, 3)
    for seed in range(9):
        student, teacher, labels = draw(seed)
        if seed % 2:
            labels[labels == 1] = 255
        loss(student, teacher, labels)
        for k, region in regions(teacher, labels, CLASSES):
            lists.push([region], k)
        torch.testing.assert_close(loss.region.rows, lists.rows(CHANNELS), rtol=1e-12, atol=1e-15)
    assert loss.region.pushed.tolist() == lists.next
    assert min(lists.next) > 3


@pytest.mark.parametrize('masked', [False, True])
def test_the_value_is_the_equation_with_what_is_remembered(masked: bool) -> None:
    """This batch included, over the steps until the rings have gone round."""
    torch.manual_seed(0)
    loss = build(push=2)
    for seed in range(5):
        student, teacher, labels = draw(seed)
        mask = torch.arange(24).view(2, 3, 4) % 5 > 0 if masked else None
        weight = torch.rand(2, 3, 4, dtype=torch.float64) if masked else None
        value = loss(student, teacher, labels, mask, weight)
        valid = (labels < CLASSES) if mask is None else (labels < CLASSES) & mask
        expected = {
            name: slow(student, teacher, ring.rows[:-1], ring.known, 0.3, mask=valid, weight=weight)
            for name, ring in (('pixel', loss.pixel), ('region', loss.region))
        }
        assert value.item() == pytest.approx(sum(expected.values()), rel=1e-9)
        for name, one in expected.items():
            assert loss.diagnostics[name].item() == pytest.approx(one, rel=1e-9)
        known = torch.cat([loss.pixel.known, loss.region.known])
        assert loss.diagnostics['filled'].item() == pytest.approx(known.double().mean().item())


def test_the_keys_are_as_many_of_each_class_as_the_authors() -> None:
    """4096 and 1024 in all of 19 classes: 216 and 54 a class."""
    asked = []
    loss = MemoryContrastLoss(19, 4, pixels=300, regions=100)
    for ring in (loss.pixel, loss.region):
        own = ring.draw
        ring.draw = lambda number, own=own: asked.append(number) or own(number)
    loss(torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.zeros(1, 2, 2).long())
    assert asked == [216, 54]


def test_a_student_like_the_teacher_has_nothing_to_learn() -> None:
    loss = build()
    _, teacher, labels = draw(0)
    for scale in (1.0, 4.0):
        student = (scale * teacher).requires_grad_()
        value = loss(student, teacher, labels)
        assert abs(value.item()) < 1e-15
        assert torch.autograd.grad(value, student)[0].abs().max() < 1e-15


def test_a_batch_without_labels_teaches_nothing_and_leaves_no_trace() -> None:
    loss = build()
    student, teacher, labels = draw(0)
    student.requires_grad_()
    value = loss(student, teacher, torch.full_like(labels, 255))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()
    assert not loss.pixel.pushed.any()
    assert not loss.pixel.rows.any()
    # what is not labelled may be anything
    bad = torch.full_like(teacher, torch.nan)
    known = (labels < CLASSES).unsqueeze(1)
    torch.manual_seed(0)
    spoilt = build()
    values = spoilt(student.where(known, bad), teacher.where(known, bad), labels)
    torch.manual_seed(0)
    clean = build()
    assert values == clean(student, teacher, labels)
    assert torch.equal(spoilt.pixel.rows, clean.pixel.rows)
    assert torch.equal(spoilt.region.rows, clean.region.rows)


def test_one_class_and_one_position() -> None:
    loss = MemoryContrastLoss(1, 3, pixels=2, regions=2).double()
    student, teacher = torch.randn(2, 1, 3, 1, 1, dtype=torch.float64).unbind()
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    assert loss(student, teacher, labels).item() == 0  # one key, no choice
    value = loss(student, -teacher, labels)
    keys = F.normalize(torch.stack([teacher[0, :, 0, 0], -teacher[0, :, 0, 0]]))
    assert value.item() == pytest.approx(2 * slow(student, -teacher, keys), rel=1e-9)
    # vectors of images, whose label 255 is a class like any other
    vectors = MemoryContrastLoss(300, 3, pixels=2, regions=0).double()
    vectors(student.flatten(1), teacher.flatten(1), torch.tensor([255]))
    assert vectors.pixel.pushed.nonzero().tolist() == [[255]]


def test_in_eval_mode_nothing_is_remembered() -> None:
    loss = build()
    batch = draw(0)
    loss(*batch)
    state = {key: x.clone() for key, x in loss.state_dict().items()}
    assert set(state) == {'pixel.rows', 'pixel.pushed', 'region.rows', 'region.pushed'}
    loss.eval()(*draw(1))
    for key, x in loss.state_dict().items():
        assert torch.equal(x, state[key])


def test_it_goes_on_where_a_state_dict_was_taken() -> None:
    loss = build(pixel_keys=3, region_keys=3)
    torch.manual_seed(0)
    loss(*draw(0))
    other = build(pixel_keys=3, region_keys=3)
    other.load_state_dict({key: x.clone() for key, x in loss.state_dict().items()})
    for seed in (1, 2):
        torch.manual_seed(seed)
        value = loss(*draw(seed))
        torch.manual_seed(seed)
        assert other(*draw(seed)) == value
    for key, x in other.state_dict().items():
        assert torch.equal(x, loss.state_dict()[key])


def test_it_is_built_for_what_it_is_given() -> None:
    student, teacher, labels = draw(0)
    loss = MemoryContrastLoss(CLASSES, pixels=5, regions=3)
    assert loss.build(student, teacher, labels) == (
        'memories of 5 pixels and 3 regions of each of 4 classes, 0.0 MB'
    )
    assert loss.pixel.rows.shape == (21, CHANNELS)
    assert loss.build(student, teacher, labels) == ''
    assert MemoryContrastLoss(2, pixels=0).build(student, teacher, labels) == (
        'memories of 2000 regions of each of 2 classes, 0.1 MB'
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=0), 'num_classes must be a whole number of at least 1'),
        (dict(num_classes=2.0), 'num_classes must be a whole number'),
        (dict(teacher_channels=0), 'teacher_channels must be a whole number of at least 1'),
        (dict(pixels=-1), 'pixels must be a whole number of at least 0'),
        (dict(regions=True), 'regions must be a whole number'),
        (dict(pixels=0, regions=0), 'leave no memory. Mend'),
        (dict(pixel_keys=0), 'pixel_keys must be'),
        (dict(region_keys=0), 'region_keys must be'),
        (dict(push=0), 'push must be'),
        (dict(tau=0), 'tau must be a finite number above 0'),
    ],
    ids=str,
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryContrastLoss(**(dict(num_classes=4) | options))


@pytest.mark.bad_input
def test_bad_tensors() -> None:
    student, teacher, labels = draw(0)
    loss = build()
    with pytest.raises(RuntimeError, match='the memory is not built.*Mend: teacher_channels'):
        MemoryContrastLoss(4)(student, teacher, labels)
    with pytest.raises(ValueError, match=r"memory 'pixel' was made for a teacher of 6.*Mend"):
        loss(student[:, :5], teacher[:, :5], labels)
    with pytest.raises(ValueError, match='needs maps'):
        loss(student[:, :5], teacher, labels)
    with pytest.raises(TypeError, match='needs labels of an integer dtype'):
        loss(student, teacher, labels.float())
    with pytest.raises(ValueError, match=r'needs labels \(2, 3, 4\)'):
        loss(student, teacher, labels[:, :2])
    with pytest.raises(TypeError, match='mask must be a bool'):
        loss(student, teacher, labels, labels)
    with pytest.raises(TypeError, match='weight must be a float'):
        loss(student, teacher, labels, None, labels)
    with pytest.raises(RuntimeError, match='size mismatch'):
        build(pixels=6).load_state_dict(loss.state_dict())
