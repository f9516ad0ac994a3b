"""Schedules by value."""

import math
import pickle

import numpy as np
import pytest

from mmkd.engine.schedules import Anneal, Cosine, Linear, Piecewise, build_schedule

CASES = [
    dict(type='linear', start=3.0, end=1.0, begin=10, length=40),
    dict(type='anneal', begin=10, length=40),
    dict(type='cosine', start=0.0, end=5.0, begin=10, length=40),
]


def test_linear_is_numpys_interpolation() -> None:
    schedule = Linear(start=3.0, end=-1.0, begin=10, length=40)
    steps = list(range(80))
    assert [schedule(s) for s in steps] == pytest.approx(
        np.interp(steps, [10, 50], [3.0, -1.0]).tolist(), abs=1e-12
    )


def test_cosine_by_hand_and_by_symmetry() -> None:
    schedule = Cosine(start=2.0, end=6.0, begin=5, length=12)
    assert schedule(9) == pytest.approx(2 + 4 * 0.25)  # ½ − ½ cos 60°
    assert schedule(11) == pytest.approx(4.0)
    for step in range(-2, 15):
        assert schedule(5 + step) + schedule(17 - step) == pytest.approx(8)
        assert schedule(5 + step) == pytest.approx(
            4 - 2 * math.cos(math.pi * min(max(step / 12, 0), 1))
        )


def test_annealing_of_the_paper() -> None:
    """90 epochs: 10 for 30, down to 1 in 30, 1 for 30."""
    schedule = Anneal(begin=30, length=30)
    assert {schedule(step) for step in range(31)} == {10.0}
    assert {schedule(step) for step in range(60, 90)} == {1.0}
    assert np.diff([schedule(step) for step in range(30, 61)]).tolist() == pytest.approx(
        [-0.3] * 30
    )
    assert Anneal(start=5.0, end=2.0, length=3)(1) == pytest.approx(4)


def test_lines_from_point_to_point_are_numpys_interpolation() -> None:
    points = [(3, 0.0), (10, 2.0), (11, 2.0), (40, 0.5), (50, 0.0)]
    schedule = build_schedule(dict(type='piecewise', points=points))
    steps = list(range(80))
    assert [schedule(step) for step in steps] == pytest.approx(
        np.interp(steps, *zip(*points, strict=True)).tolist(), abs=1e-12
    )
    assert [schedule(step) for step, _ in points] == [value for _, value in points]
    assert (schedule.begin, schedule.length) == (3, 47)
    assert schedule.values() == {f'points[{n}]': value for n, (_, value) in enumerate(points)}
    line = Linear(start=3.0, end=1.0, begin=10, length=7)
    alike = Piecewise(points=[(10, 3.0), (17, 1.0)])
    assert [alike(step) for step in steps] == [line(step) for step in steps], 'bit for bit'
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule == Piecewise(points=[list(point) for point in points])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('points', 'error', 'message'),
    [
        ([(0, 1.0)], ValueError, 'two or more pairs .*Mend: points='),
        (3, ValueError, 'two or more pairs .*got 3'),
        ([(0, 1.0), 5], ValueError, 'two or more pairs'),
        ([(0, 1.0), (0, 2.0)], ValueError, r'must rise, got \[0, 0\]. Mend'),
        ([(-1, 1.0), (0, 2.0)], ValueError, r'step of points\[0\]'),
        ([(0, 1.0), (1.5, 2.0)], (TypeError, ValueError), r'step of points\[1\]'),
        ([(0, 1.0), (1, math.nan)], ValueError, r'points\[1\] .* finite number, got nan'),
        ([(0, 1.0), (1, True)], ValueError, r'points\[1\] .* finite number, got True'),
    ],
)
def test_points_that_are_none(points: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_schedule(dict(type='piecewise', points=points))


@pytest.mark.parametrize('config', CASES)
def test_both_ends_are_exact_and_the_value_is_a_function_of_the_step_alone(config: dict) -> None:
    schedule = build_schedule(config)
    start, end = config.get('start', 10.0), config.get('end', 1.0)
    assert [schedule(s) for s in (0, 10, 50, 10**9)] == [start, start, end, end]
    values = [schedule(step) for step in range(60)]
    assert [schedule(step) for step in reversed(range(60))] == values[::-1]
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert [again(step) for step in range(60)] == values


def test_building_leaves_the_config_as_it_was() -> None:
    config = dict(CASES[0])
    assert build_schedule(config) == Linear(start=3.0, end=1.0, begin=10, length=40)
    assert config == CASES[0]


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (
            dict(type='liner'),
            ValueError,
            "type of a schedule must be one of .*got 'liner'; did you mean 'linear'",
        ),
        (dict(type=None), ValueError, 'type of a schedule must be one of .*got None'),
        (
            dict(lenght=3),
            TypeError,
            "a schedule got an unknown key 'lenght'; did you mean 'length'",
        ),
        (
            dict(length=0),
            ValueError,
            'length of a schedule must be a whole number of at least 1, got 0',
        ),
        (
            dict(length=2.5),
            ValueError,
            'length of a schedule must be a whole number of at least 1, got 2.5',
        ),
        (
            dict(begin=-1),
            ValueError,
            'begin of a schedule must be a whole number of at least 0, got -1',
        ),
        (dict(start='1'), ValueError, "start of a schedule must be a finite number, got '1'"),
        (dict(end=float('inf')), ValueError, 'end of a schedule must be a finite number, got inf'),
    ],
)
def test_bad_schedules(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_schedule(CASES[0] | changes)


def test_missing_keys() -> None:
    with pytest.raises(
        TypeError, match=r"of type 'linear' also needs \['start', 'end'\]. Mend: start="
    ):
        build_schedule(dict(type='linear', length=3))
    with pytest.raises(TypeError, match=r"of type 'anneal' also needs \['length'\]"):
        build_schedule(dict(type='anneal'))
