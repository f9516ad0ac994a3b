"""EnsembleKLLoss by value."""

import math
from functools import partial

import pytest
import scipy.stats
import torch
from helpers import ensembles
from helpers.ensembles import ensemble

from mmkd.losses import EnsembleKLLoss, PixelWiseKLLoss, ensemble_kl


def test_hand_values() -> None:
    teachers = torch.tensor(
        [[[1.0, 3.0]], [[3.0, 1.0]]], dtype=torch.float64
    ).log()  # mean (1/2, 1/2)
    student = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()
    assert ensemble_kl(student, teachers).item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-12
    )
    # T = 2: the student's squared odds give (1/4, 3/4) again, and the value is multiplied by 4
    assert ensemble_kl(2 * student, 2 * teachers, 2.0).item() == pytest.approx(
        2 * math.log(4 / 3), rel=1e-12
    )


def test_equals_scipy() -> None:
    student, teachers = ensemble(2, 5, 3, 4)
    entropy = scipy.stats.entropy(
        teachers.softmax(2).mean(0).numpy(), student.detach().softmax(1).numpy(), axis=1
    )
    assert ensemble_kl(student, teachers).item() == pytest.approx(entropy.mean(), rel=1e-12)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_pixel_wise_distillation_where_members_are_equal(temperature: float) -> None:
    student, teachers = ensemble(2, 5, 3, 4, members=1)
    mask = torch.rand(2, 3, 4) > 0.3
    ours = EnsembleKLLoss(temperature)(student, teachers.expand(3, -1, -1, -1, -1), mask)
    theirs = PixelWiseKLLoss(tau=temperature)(student, teachers[0], mask)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in (ours, theirs)))


def test_has_the_gradient_of_the_authors_cross_entropy() -> None:
    """Theirs is a mean over positions and classes: ours divided by K, plus a constant."""
    student, teachers = ensemble(4, 7)
    theirs = -((teachers / 2).softmax(2).mean(0) * (student / 2).log_softmax(1)).mean() * 4
    torch.testing.assert_close(
        7 * torch.autograd.grad(theirs, student)[0],
        torch.autograd.grad(ensemble_kl(student, teachers, 2.0), student)[0],
    )


def test_module_equals_function_and_reads_the_temperature_at_each_call() -> None:
    student, teachers = ensemble(2, 3, 4, 4)
    loss = EnsembleKLLoss(10.0, loss_weight=3.0)
    assert loss(student, teachers) == 3 * ensemble_kl(student, teachers, 10.0)
    loss.temperature = 2.5
    assert loss(student, teachers) == 3 * ensemble_kl(student, teachers, 2.5)
    assert (loss.running().temperature, loss.running().smoothing) == (2.5, 0)
    assert loss.loss_name == 'loss_ensemble_kl_loss'


def test_what_every_loss_of_an_ensemble_does() -> None:
    ensembles.check_streams(EnsembleKLLoss(3.0))
    ensembles.check_order_of_members(ensemble_kl)
    ensembles.check_refusals(EnsembleKLLoss())


def test_far_apart_logits_stay_exact() -> None:
    teachers = torch.tensor([[[0.0, 1e4]], [[0.0, 1e4]]])
    assert ensemble_kl(torch.tensor([[1e4, 0.0]]), teachers).item() == 1e4


def test_a_bad_temperature() -> None:
    for build in (EnsembleKLLoss, partial(ensemble_kl, torch.zeros(1, 2), torch.zeros(2, 1, 2))):
        with pytest.raises(ValueError, match='temperature must be a finite number above 0, got -1'):
            build(temperature=-1)
