"""Options that would change nothing, or are out of range, are refused before anything is built."""

import re
from dataclasses import replace
from typing import Any

import pytest

from mmkd.methods import Pair, find_method
from mmkd.methods.expand import plan_of
from mmkd.methods.plan import Plan
from mmkd.tasks import Described, Detection, Segmentation

SEGMENTOR = Described(dict(backbone=dict(out_indices=(0, 1, 2))))
DETECTOR = Described(dict(neck=dict(num_outs=3)))
PAIR = Pair(Segmentation(19), models=dict(student=SEGMENTOR, teacher=SEGMENTOR), iterations=600)
DETECTORS = Pair(Detection(80), models=dict(student=DETECTOR, teacher=DETECTOR))
LAYERS = dict(layers=[0], teacher_layers=[1])
NO_PAIRS = 'pair_wise=0 leaves its term out'
NO_ATTENTION = 'attention=0 leaves the attentions out'
NO_MEAN = 'without a threshold no mean is taken'
NO_GRAM = 'weight=0 leaves the category-wise term out'
NO_LOGITS = 'logits=0 leaves the term of the logits out'
NO_WEIGHTS = dict(embedding_weights=(0, 0, 0))
# method, what is read, what is not, why, what else may be done
UNUSED = [
    ('psk', {}, dict(momentum=7), "kind='past' takes no running mean", "kind='ema'"),
    ('psk', dict(kind='ema'), dict(steps=-4), "kind='ema' follows every step", "kind='past'"),
    ('cgd', dict(groups=1), dict(size=2), 'groups says how many there are', 'groups'),
    ('skd', dict(pair_wise=0), dict(patch=7), NO_PAIRS, 'pair_wise above 0'),
    ('skd-pi-pa', dict(pair_wise=0), dict(patch=7), NO_PAIRS, 'pair_wise above 0'),
    ('skd-pa', dict(pair_wise=0), dict(patch=7), NO_PAIRS, 'pair_wise above 0'),
    ('id', dict(attention=0), dict(rows=3), NO_ATTENTION, 'attention above 0'),
    ('id', dict(attention=0), dict(queries=False), NO_ATTENTION, 'attention above 0'),
    ('sid', dict(attention=0), dict(heads='mean'), NO_ATTENTION, 'attention above 0'),
    ('sid', LAYERS, dict(window=7), NO_MEAN, 'threshold=0.02'),
    ('pid', LAYERS, dict(window=7), NO_MEAN, 'threshold=0.02'),
    ('fgd', dict(relation=0), dict(blocks='two'), 'relation=0 leaves', 'relation above 0'),
    ('dsd', dict(weight=0), dict(tau=1.0), NO_GRAM, 'weight above 0'),
    ('dsd', dict(weight=0), dict(pool=1), NO_GRAM, 'weight above 0'),
    ('srrl', dict(logits=0), dict(penalty='kl'), NO_LOGITS, 'logits above 0'),
    ('srrl', dict(logits=0), dict(tau=2.0), NO_LOGITS, 'logits above 0'),
    ('transkd', NO_WEIGHTS, dict(embeddings='x.{}'), 'embedding_weights of 0', 'a weight above 0'),
]
# method, options, what is said
WRONG = [
    ('psk', dict(steps=0), 'steps must be a whole number of at least 1, got 0. Mend: steps=…'),
    ('psk', dict(steps=2.0), 'steps must be a whole number of at least 1, got 2.0. Mend: steps'),
    ('psk', dict(length=0), 'length must be a whole number of at least 1, got 0. Mend: length'),
    ('psk', dict(length='9'), "length must be a whole number of at least 1, got '9'. Mend: le"),
    *(
        (
            'psk',
            dict(kind='ema', momentum=momentum),
            f'momentum must be a number from 0 to below 1, got {momentum!r}. Mend: momentum=0.999',
        )
        for momentum in (7, 1.0, -0.1, '0.9', float('nan'), True)
    ),
    *(
        (
            'cgd',
            dict(size=size),
            f'size must be a whole number of at least 1, got {size!r}. Mend: size=10',
        )
        for size in (-3, 0, 2.0, '10', True)
    ),
    ('cgd', dict(groups=0), 'groups must be a whole number of at least 1, got 0. Mend: groups=2'),
    *(
        ('byot', dict(tau=tau), f'tau must be a finite number above 0, got {tau!r}. Mend: tau=3.0')
        for tau in (0, -1.0, '3', float('inf'), float('nan'))
    ),
    *(
        (
            'gdkd',
            dict(weights=weights),
            'weights must be three numbers, of the masses, within the first k and within the rest, '
            f'got {weights!r}. Mend: weights=(1, 1, 2)',
        )
        for weights in (5, (1, 2), 'abc')
    ),
    *(
        (
            'affinity',
            dict(size=size),
            'size must be height and width, whole numbers of at least 1, got '
            f'{size!r}. Mend: size=(16, 16)',
        )
        for size in (16, (16,), (16, 0), (8.0, 8), '88', None)
    ),
    *(
        (
            'id',
            LAYERS | {name: layers},
            f"{name} must be a list of whole numbers, got {layers!r}. Mend: dict(type='id', la",
        )
        for name in LAYERS
        for layers in (3, [], '12', [1.0], [True])
    ),
    ('sid', LAYERS | dict(attention=0, cosine=0), 'attention=0 and cosine=0 leave no level. Mend'),
    ('pid', dict(layers=3), "layers must be a list of whole numbers, got 3. Mend: dict(type='pid'"),
    (
        'skd',
        dict(critic='x'),
        "critic must be a dictionary of options of the HolisticCritic, got 'x'. Mend: critic=dict",
    ),
]


def plan(name: str, **options: Any) -> Plan:
    pair = DETECTORS if name == 'fgd' else PAIR
    return find_method(name)(replace(pair, method=name), **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(('name', 'options', 'unused', 'why', 'mend'), UNUSED, ids=str)
def test_what_would_change_nothing(
    name: str, options: dict, unused: dict, why: str, mend: str
) -> None:
    ((option, given),) = unused.items()
    said = f"method '{name}': {option} would change nothing, since {why}"
    got = f', got {option}={given!r}. Mend: leave {option} out, or {mend}'
    with pytest.raises(ValueError, match=f'^{re.escape(said)}.*{re.escape(got)}$'):
        plan(name, **options, **unused)


@pytest.mark.bad_input
@pytest.mark.parametrize(('name', 'options', 'said'), WRONG, ids=str)
def test_what_is_out_of_range(name: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"method '{name}': {said}")):
        plan(name, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('name', 'options', 'said'),
    [
        ('dist', dict(intra=0, inter=0), 'DISTLoss with inter=0 and intra=0 learns nothing'),
        ('dkd', dict(alpha=0, beta=0), 'DecoupledKLLoss with alpha=0 and beta=0 learns nothing'),
        ('gdkd', dict(weights=(0, 0, 0)), 'masses=0 and within=0 and rest=0 learns nothing'),
    ],
)
def test_factors_that_are_all_0(name: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_of(name, options, replace(PAIR, method=name))
    two = replace(PAIR, task=Segmentation(2), method='dist')  # its inter is 0 by itself
    with pytest.raises(ValueError, match='DISTLoss with inter=0 and intra=0'):
        plan_of('dist', dict(intra=0), two)


@pytest.mark.bad_input
def test_backbones_of_one_map_and_of_other_numbers_of_maps() -> None:
    one = Described(dict(backbone=dict(num_stages=4, out_indices=(3,))))
    pair = replace(PAIR, models=dict(student=one, teacher=one), method='ofd')
    said = "backbone of 'student' gives one map of its 4 stages. Mend: out_indices=(0, 1, 2, 3) in"
    with pytest.raises(ValueError, match=re.escape(said)):
        find_method('ofd')(pair)
    assert list(find_method('ofd')(pair, stages=1).objectives) == ['ofd1']
    pair = replace(PAIR, models=dict(student=SEGMENTOR, teacher=one), method='ofd')
    with pytest.raises(ValueError, match='gives one map of its 4 stages'):
        find_method('ofd')(pair)
    two = Described(dict(backbone=dict(num_stages=4, out_indices=(2, 3))))
    pair = replace(PAIR, models=dict(student=SEGMENTOR, teacher=two), method='ofd')
    with pytest.raises(ValueError, match=r"other numbers of maps, {'student': 3, 'teacher': 2}"):
        find_method('ofd')(pair)
    assert list(find_method('ofd')(pair, stages=2).objectives) == ['ofd1', 'ofd2']


def test_states_of_a_plain_vit_are_the_layers_that_end_a_map() -> None:
    def vit(layers: int, indices: tuple[int, ...]) -> Described:
        return Described(dict(backbone=dict(num_layers=layers, out_indices=indices)))

    models = dict(student=vit(4, (1, -1)), teacher=vit(8, (3, 7)))
    made = find_method('id')(replace(PAIR, models=models, method='id'))
    assert made.member_taps['student']['map0'] == 'auto:stages[0]'
    assert made.member_taps['student']['q1'] == 'auto:query[3]'
    assert made.member_taps['teacher']['k0'] == 'auto:key[3]'
    assert made.member_taps['teacher']['map1'] == 'auto:stages[1]'
    assert 'map2' not in made.member_taps['teacher']


def test_the_past_of_psk_is_that_of_the_run() -> None:
    for options in ({}, dict(length=3), dict(length=600)):
        past = plan('psk', **options).teachers['past']
        assert past['steps'] == 600 // 300


@pytest.mark.bad_input
def test_shares_and_weights_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="alpha must be a number from 0 to 1, got '1'"):
        plan('psk', alpha='1')
    with pytest.raises(ValueError, match="kd must be a finite number, 0 or above, got '1'"):
        plan('byot', kd='1')


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('name', 'options'),
    [('skd-pa', dict(pair_wise=0)), ('skd-pi-pa', dict(pixel=0, pair_wise=0))],
)
def test_a_method_of_which_nothing_is_left(name: str, options: dict) -> None:
    said = f"method '{name}' teaches nothing by dict("
    with pytest.raises(ValueError, match=f'^{re.escape(said)}.*Mend: a weight above 0 for one'):
        plan_of(name, options, PAIR)


def test_what_each_kind_of_psk_reads() -> None:
    past = plan('psk', steps=7).teachers['past']
    assert past == dict(kind='past', of='student', steps=7)
    mean = plan('psk', kind='ema', momentum=0.5).teachers['past']
    assert mean == dict(kind='ema', of='student', momentum=0.5)


def test_groups_of_cgd_are_as_many_as_their_size_asks_for() -> None:
    asked = [dict(), dict(size=1), dict(size=6), dict(size=19), dict(size=99), dict(groups=5)]
    found = [plan('cgd', **options).objectives['cgd']['loss']['groups'] for options in asked]
    assert found == [2, 19, 4, 1, 1, 5]


def test_what_is_read_is_taken() -> None:
    made = plan('sid', **LAYERS, threshold=0.1, window=7).hooks[0]['levels']
    assert (made['threshold'], made['window']) == (0.1, 7)
    assert plan('id', layers=range(1), teacher_layers=(1,), rows=3) == plan('id', **LAYERS, rows=3)
    critic = plan('skd', critic=dict(size=(24, 32))).objectives['holistic']['loss']['critic']
    assert critic == dict(type='HolisticCritic', size=(24, 32))
    assert 'pair' not in plan('skd', pair_wise=0).objectives
    assert plan('affinity', size=[8, 4]).objectives['affinity']['connectors']['student'] == dict(
        type='AffinityRows', size=(8, 4)
    )
