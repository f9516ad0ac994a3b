"""Argument checks: accepted values pass in silence, refused ones are named with what is allowed."""

import math
from collections.abc import Callable
from functools import partial

import pytest

from mmkd.utils.checks import (
    check_choice,
    check_count,
    check_fraction,
    check_keys,
    check_non_negative,
    check_positive,
    nearest,
)


def test_nearest_orders_by_likeness() -> None:
    choices = ['backbone.layer1', 'backbone.layer2', 'decode_head']
    assert nearest('backbone.layer1', choices).startswith(
        "; did you mean 'backbone.layer1' or 'backbone.layer2'"
    )


def test_nearest_keeps_to_its_count() -> None:
    assert nearest('layer', ['layer1', 'layer2', 'layer3'], count=2).count('layer') == 2


@pytest.mark.parametrize('choices', [[], ['decode_head']])
def test_nearest_says_nothing_where_nothing_is_near(choices: list[str]) -> None:
    assert nearest('xyz', choices) == ''


def test_check_keys_accepts_any_subset() -> None:
    check_keys([], ['on'], 'objective')
    check_keys(dict(on='logits'), dict(on=1, weight=2), 'objective')


def test_check_keys_names_key_match_and_allowed() -> None:
    with pytest.raises(TypeError) as error:
        check_keys(['weigth'], ['weight', 'on'], "objective 'pixel'")
    assert str(error.value) == (
        "objective 'pixel' got an unknown key 'weigth'; did you mean 'weight'? (allowed: on, "
        'weight)'
    )


def test_check_keys_reads_a_generator_once() -> None:
    with pytest.raises(TypeError, match=r"unknown key 'c' \(allowed: a, b\)"):
        check_keys(['a', 'b', 'c'], (key for key in 'ab'), 'x')


def test_check_choice_accepts_what_is_listed() -> None:
    for value in (1, None, 'avg'):
        check_choice('pool', value, iter((1, None, 'avg')))


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('agv', "pool must be one of ('avg', 'max'), got 'agv'; did you mean 'avg'?"),
        (None, "pool must be one of ('avg', 'max'), got None"),
        (3, "pool must be one of ('avg', 'max'), got 3"),
    ],
)
def test_check_choice_names_value_and_choices(value: object, message: str) -> None:
    with pytest.raises(ValueError, match='pool') as error:
        check_choice('pool', value, ('avg', 'max'))
    assert str(error.value) == message


@pytest.mark.parametrize('value', [1, 1e-30, 2.5])
def test_check_positive_accepts_numbers_above_zero(value: float) -> None:
    check_positive('tau', value)


@pytest.mark.parametrize('value', [0, 0.0, -1, math.inf, -math.inf, math.nan, True, '1', None])
def test_check_positive_refuses_the_rest(value: object) -> None:
    with pytest.raises(ValueError, match='tau') as error:
        check_positive('tau', value)  # type: ignore[arg-type]
    assert str(error.value) == f'tau must be a finite number above 0, got {value!r}'


@pytest.mark.parametrize(
    ('check', 'good', 'bad', 'message'),
    [
        (
            check_non_negative,
            [0, 1e-30, 2.5],
            [-1e-9, math.inf, math.nan, True, '1', None],
            'must be a finite number, 0 or above',
        ),
        (
            check_fraction,
            [0, 0.5, 0.999],
            [-0.1, 1, 1.5, math.nan, False, '0', None],
            'must be a number from 0 to below 1',
        ),
        (
            partial(check_count, least=2),
            [2, 7],
            [1, -3, 2.0, True, '2', None],
            'must be a whole number of at least 2',
        ),
    ],
)
def test_ranges(check: Callable, good: list, bad: list, message: str) -> None:
    for value in good:
        check('rate', value)
    for value in bad:
        with pytest.raises(ValueError, match=f'^rate {message}') as error:
            check('rate', value)
        assert str(error.value).endswith(f'got {value!r}')
