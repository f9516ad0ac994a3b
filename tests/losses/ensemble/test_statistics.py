"""EnsembleStatistics by value."""

import math

import pytest
import torch
from helpers.ensembles import ensemble

from mmkd.losses import EnsembleStatistics
from mmkd.losses.ensemble.statistics import read_ensemble
from mmkd.losses.functional import masked_mean


def test_hand_values() -> None:
    statistics = EnsembleStatistics(temperature=2.0, smoothing=0.1)
    statistics.update(
        torch.tensor([[1.0, 9.0]]).log()
    )  # at T = 2: π = (1/4, 3/4), smoothed (.275, .725)
    statistics.update(torch.tensor([[1.0, 1.0]]).log())
    assert statistics.mean_prob[0].tolist() == pytest.approx([0.3875, 0.6125], rel=1e-7)
    assert statistics.mean_log_prob[0].tolist() == pytest.approx(
        [0.5 * math.log(0.275 * 0.5), 0.5 * math.log(0.725 * 0.5)], rel=1e-7
    )


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 3, 2, 2, 2)])
def test_equals_the_means_of_a_stack(shape: tuple[int, ...]) -> None:
    _, teachers = ensemble(*shape, members=5)
    statistics = EnsembleStatistics(3.0, 0.01)
    for member in teachers:
        statistics.update(member)
    pi = 0.99 * (teachers / 3).softmax(2) + 0.01 / shape[1]
    torch.testing.assert_close(statistics.mean_prob, pi.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(statistics.mean_log_prob, pi.log().mean(0), rtol=1e-13, atol=0)
    assert (statistics.count, statistics.shape) == (5, teachers.shape)
    assert statistics.mean_prob.sum(1).sub(1).abs().max() < 1e-14


def test_the_authors_form_of_smoothing_is_the_same() -> None:
    _, teachers = ensemble(2, 7, members=1)
    statistics = EnsembleStatistics(smoothing=1e-3)
    statistics.update(teachers[0])
    torch.testing.assert_close(
        statistics.mean_prob, (1 - 1e-3) * (teachers[0].softmax(1) - 1 / 7) + 1 / 7
    )


def test_memory_does_not_grow_with_the_members() -> None:
    statistics = EnsembleStatistics()
    for _ in range(20):
        statistics.update(torch.randn(1, 3, 4))
    held = [value for value in vars(statistics).values() if isinstance(value, torch.Tensor)]
    assert [x.shape for x in held] == [(1, 3, 4)] * 2
    assert {x.dtype for x in held} == {torch.float64}


def test_reading_changes_nothing_and_members_stay_as_they_were() -> None:
    _, teachers = ensemble(2, 3, members=2)
    before = teachers.clone()
    statistics = EnsembleStatistics(smoothing=0.1)
    statistics.update(teachers[0])
    first = statistics.mean_prob.clone()
    assert torch.equal(statistics.mean_prob, first)
    assert first.sum() == pytest.approx(2)
    statistics.update(teachers[1])
    assert torch.equal(teachers, before)
    assert not torch.equal(statistics.mean_prob, first)


@pytest.mark.parametrize('kept', ['prob', 'log_prob'])
def test_what_is_not_read_is_not_kept(kept: str) -> None:
    """Not even of members in float64, which stay as they were."""
    _, teachers = ensemble(2, 3, members=3)
    before, (other,) = teachers.clone(), {'prob', 'log_prob'} - {kept}
    whole, part = EnsembleStatistics(2.0, 0.1), EnsembleStatistics(2.0, 0.1, means=[kept])
    for member in teachers:
        whole.update(member)
        part.update(member)
    assert torch.equal(getattr(part, f'mean_{kept}'), getattr(whole, f'mean_{kept}'))
    assert part.example.shape == (2, 3)
    assert part.shape == whole.shape == (3, 2, 3)
    assert torch.equal(teachers, before)
    with pytest.raises(ValueError, match=rf"keep the means of \('{kept}',\) alone, not that of "):
        getattr(part, f'mean_{other}')
    with pytest.raises(ValueError, match='each of means must be one of'):
        EnsembleStatistics(means=['variance'])


def test_far_apart_logits_keep_their_logarithm_and_positions_do_not_mix() -> None:
    statistics = EnsembleStatistics()
    statistics.update(torch.tensor([[[1e4, float('nan')], [0.0, 0.0]]]))
    assert statistics.mean_log_prob[0, :, 0].tolist() == [0, -1e4]
    assert statistics.mean_prob[0, :, 0].tolist() == [1, 0]
    assert statistics.mean_prob[0, :, 1].isnan().all()


def test_half_precision_and_autocast_lose_nothing() -> None:
    member = torch.randn(2, 5, 3).half()
    exact, inside = EnsembleStatistics(), EnsembleStatistics()
    exact.update(member.double())
    with torch.autocast('cpu', torch.bfloat16):
        inside.update(member.requires_grad_())
    assert torch.equal(exact.mean_log_prob, inside.mean_log_prob)
    assert not inside.mean_prob.requires_grad


def test_members_that_disagree() -> None:
    statistics = EnsembleStatistics()
    statistics.update(torch.zeros(2, 19, 4, 4))
    with pytest.raises(
        ValueError,
        match=r'disagree on classes: member 2 has 11, those before it have 19 \(\(2, 19, 4, '
        r'4\) before, now \(2, 11, 4, 4\)\). Mend: members trained on the same',
    ):
        statistics.update(torch.zeros(2, 11, 4, 4))
    with pytest.raises(
        ValueError, match=r'differ in shape: member 2 has \(2, 19, 8, 8\).*Mend: tap every member'
    ):
        statistics.update(torch.zeros(2, 19, 8, 8))
    with pytest.raises(ValueError, match=r'differ in shape: member 2 has \(2, 19\)'):
        statistics.update(torch.zeros(2, 19))
    assert statistics.count == 1


def test_no_members() -> None:
    statistics = EnsembleStatistics()
    assert statistics.shape == (0,)
    with pytest.raises(ValueError, match=r'have seen no member. Mend: update\(logits\)'):
        statistics.mean_prob  # noqa: B018
    with pytest.raises(ValueError, match='two members or more, got 0'):
        read_ensemble(torch.zeros(2, 3), torch.zeros(0, 2, 3))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'temperature': 0.0}, 'temperature must be a finite number above 0, got 0.0'),
        ({'smoothing': 1.0}, 'smoothing must be a number from 0 to below 1, got 1.0'),
        ({'smoothing': -0.1}, 'smoothing must be'),
        ({'smoothing': float('nan')}, 'smoothing must be'),
        ({'smoothing': '1e-3'}, "got '1e-3'"),
        ({'smoothing': True}, 'got True'),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleStatistics(**options)


def test_statistics_of_another_temperature_are_refused() -> None:
    student, teachers = ensemble(2, 3)
    statistics = read_ensemble(student, teachers, 10.0, 1e-3)
    assert read_ensemble(student, statistics, 10.0, 1e-3) is statistics
    with pytest.raises(
        ValueError,
        match=r'taken at temperature=10.0, smoothing=0.001, this loss needs temperature=1.0'
        r', smoothing=0.001. Mend: statistics = loss.running\(\)',
    ):
        read_ensemble(student, statistics, 1.0, 1e-3)


def test_masked_mean() -> None:
    values = torch.tensor([[1.0, 5.0], [6.0, float('inf')]])
    assert masked_mean(values, torch.tensor([[True, True], [True, False]])) == 4
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)) == 0
    assert masked_mean(values[0], None) == 3
