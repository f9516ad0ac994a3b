"""IFVD: what is special of it; the rest is in the battery."""

import math

import pytest
import torch
from references import intra_class_variation as slow
from torch import Tensor

from mmkd.losses import IntraClassVariationLoss, intra_class_variation


def draw(channels: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 4, 6, dtype=torch.float64, generator=generator)


def draw_labels(classes: int = 3) -> Tensor:
    labels = torch.randint(classes, (2, 4, 6), generator=torch.Generator().manual_seed(1))
    labels[:, 0] = 255
    return labels


def test_by_hand():
    """Three positions of one class: centre (2/3, 1/3), cosines 2/√5, 2/√5 and 1/√5."""
    student = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    teacher = torch.ones(1, 1, 3)
    value = intra_class_variation(student, teacher, torch.zeros(1, 3, dtype=torch.long))
    first, last = (1 - 2 / math.sqrt(5)) ** 2, (1 - 1 / math.sqrt(5)) ** 2
    assert value.item() == pytest.approx((2 * first + last) / 3, rel=1e-6)


@pytest.mark.parametrize('masked', [False, True])
def test_a_weight_counts_in_the_mean_alone(masked):
    student, teacher, labels = draw(), draw(7, seed=2), draw_labels()
    weight = torch.rand(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(48).view(2, 4, 6) % 4 != 1 if masked else None
    value = intra_class_variation(student, teacher, labels, mask=mask, weight=weight)
    expected = slow.intra_class_variation(student, teacher, labels, mask=mask, weight=weight)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    ones = intra_class_variation(student, teacher, labels, mask=mask, weight=torch.ones(2, 4, 6))
    assert ones == intra_class_variation(student, teacher, labels, mask=mask)
    one = torch.zeros(2, 4, 6).index_put(
        (torch.tensor(1), torch.tensor(2), torch.tensor(2)), torch.tensor(5.0)
    )
    alone = intra_class_variation(student, teacher, labels, mask=mask, weight=one)
    expected = slow.intra_class_variation(student, teacher, labels, mask=mask, weight=one)
    assert alone.item() == pytest.approx(expected, rel=1e-9)


def test_a_class_of_one_position_is_its_own_centre():
    labels = torch.arange(48).view(2, 4, 6)
    assert intra_class_variation(draw(), draw(seed=2), labels).item() == pytest.approx(0, abs=1e-30)


def test_invariant_to_scale_rotation_of_channels_and_names_of_classes():
    student, teacher, labels = draw(), draw(7, seed=2), draw_labels()
    value = intra_class_variation(student, teacher, labels)
    rotation = torch.linalg.qr(draw()[0, :, 0, :5])[0]
    rotated = torch.einsum('cd,ndhw->nchw', rotation, student)
    renamed = torch.where(labels == 255, 255, 7 - 2 * labels)
    for other in (
        intra_class_variation(3 * student, teacher, labels),
        intra_class_variation(rotated, 0.1 * teacher, labels),
        intra_class_variation(student, teacher, renamed),
        intra_class_variation(student, teacher, labels, num_classes=3),
        intra_class_variation(student, teacher, labels.int(), num_classes=19),
    ):
        assert other.item() == pytest.approx(value.item(), rel=1e-9)


def test_of_many_classes_no_map_of_scores_is_held():
    """19 classes, 5 channels: the centres at each place are less. Value and slope are the same."""
    student, teacher, labels = draw().requires_grad_(), draw(7, seed=2), draw_labels()
    found = []
    for classes in (3, 19):
        sizes: list[int] = []
        pack = torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        )
        with pack:
            value = intra_class_variation(student, teacher, labels, num_classes=classes)
        assert max(sizes) <= student.numel()
        found.append((value, *torch.autograd.grad(value, student)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_labels_beyond_the_number_of_classes_are_none():
    student, teacher, labels = draw(), draw(seed=2), draw_labels()
    value = intra_class_variation(student, teacher, labels, num_classes=2)
    less = labels.masked_fill(labels == 2, 255)
    assert value == intra_class_variation(student, teacher, less, num_classes=2)


def test_gradient_flows_through_the_centres():
    """The gradient at a position differs from that with centres held."""
    student, teacher, labels = draw().requires_grad_(), draw(seed=2), draw_labels()
    intra_class_variation(student, teacher, labels).backward()
    assert (student.grad[:, :, 0] == 0).all()  # ignored
    held = student.detach().clone().requires_grad_()
    centres = torch.zeros_like(student)
    for n in range(2):
        for k in range(3):
            own = labels[n] == k
            centres[n][:, own] = student.detach()[n][:, own].mean(1, keepdim=True)
    ours = torch.cosine_similarity(held, centres, dim=1)
    theirs = torch.zeros_like(ours)
    for n in range(2):
        for k in range(3):
            own = labels[n] == k
            centre = teacher[n][:, own].mean(1, keepdim=True)
            theirs[n][own] = torch.cosine_similarity(teacher[n][:, own], centre, dim=0)
    (ours - theirs)[labels != 255].square().mean().backward()
    assert not torch.allclose(student.grad, held.grad)


def test_nothing_labelled_is_zero():
    student = draw().requires_grad_()
    nothing = torch.full((2, 4, 6), 255)
    value = intra_class_variation(student, draw(seed=2), nothing)
    assert value == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(student=torch.zeros(2, 5)), ValueError, 'IFVD needs maps'),
        (dict(teacher=torch.zeros(2, 5, 2, 3)), ValueError, 'same places.*mend: connectors'),
        (dict(labels=torch.zeros(2, 4, 6)), TypeError, 'IFVD needs labels of an integer dtype'),
        (dict(labels=torch.zeros(2, 8, 12, dtype=torch.long)), ValueError, 'IFVD needs labels'),
        (dict(mask=torch.ones(2, 4, 6)), TypeError, 'mask must be a bool'),
        (dict(weight=torch.ones(2, 4)), ValueError, 'weight must have the shape'),
    ],
)
def test_bad_inputs(options, error, message):
    given = dict(student=draw(), teacher=draw(), labels=draw_labels()) | options
    with pytest.raises(error, match=message):
        intra_class_variation(**given)


def test_bad_arguments():
    with pytest.raises(ValueError, match='num_classes must be a whole number'):
        IntraClassVariationLoss(num_classes=0)
