"""``method=`` of a config: what it expands to, what wins, and what is refused."""

import logging
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.classification import classifier
from helpers.tiny import build, distiller, segmentor
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmkd.apis.methods import expand_config
from mmkd.apis.prepare import prepare_config
from mmkd.distiller import Distiller
from mmkd.methods import Pair, Plan, expand, find_method, known_methods, needs, options_of
from mmkd.registry import METHODS

FILES = dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')])
RUN = dict(train_cfg=dict(max_iters=60))
ADAMW = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))


def pair(method: Any, **overrides: Any) -> dict:
    """Return a Distiller of two tiny segmentors whose method says what it learns from."""
    nothing: dict = dict(taps=None, objectives=None)
    config = distiller(**(nothing | dict(method=method) | overrides))
    return {key: one for key, one in config.items() if one is not None}


def peers(method: Any) -> dict:
    students = {name: dict(model=segmentor(4)) for name in ('a', 'b')}
    return dict(type='mmkd.Distiller', students=students, method=method)


def detectors(method: Any) -> dict:
    model = dict(type='FCOS', neck=dict(type='FPN', num_outs=5), bbox_head=dict(type='FCOSHead'))
    big = dict(model=model, allow_untrained=True)
    return dict(type='mmkd.Distiller', student=dict(model=model), teacher=big, method=method)


def transformers(method: Any) -> dict:
    backbones = [
        dict(type='MixVisionTransformer', num_layers=layers) for layers in ([1, 2], [2, 2])
    ]
    head = dict(type='SegformerHead', num_classes=3)
    models = [dict(type='EncoderDecoder', backbone=one, decode_head=head) for one in backbones]
    teacher = dict(model=models[1], allow_untrained=True)
    return dict(student=dict(model=models[0]), teacher=teacher, method=method)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Return what mmengine's logger says; it hands nothing on to pytest's."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel('INFO')
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


# ---------------------------------------------------------------------- what wins


def test_what_stands_beside_a_method_adds_to_it_and_wins_by_name() -> None:
    mine = dict(loss=dict(type='HiddenCosineLoss', token='class'), on='feat')
    made, _ = expand(
        pair(
            dict(type='skd-pi-pa', pixel=3.0),
            taps=dict(logits='decode_head.conv_seg'),
            objectives=dict(pair=mine, states=mine, pixel=dict(weight=7.0)),
            task_weight=0.5,
        )
    )
    assert made['taps'] == dict(logits='decode_head.conv_seg', feat='auto:feature')
    assert made['objectives']['pair'] == made['objectives']['states'] == mine
    assert made['objectives']['pixel'] == dict(
        loss=dict(type='PixelWiseKLLoss'), on='logits', weight=7.0
    )
    assert made['task_weight'] == 0.5
    assert 'method' not in made


def test_expanding_leaves_the_config_and_built_models_as_they_are() -> None:
    model = torch.nn.Module()
    model.decode_head = torch.nn.Module()
    model.decode_head.num_classes = 3
    config = dict(student=model, teacher=dict(model=model), method='id')
    with pytest.raises(ValueError, match='does not say how many attention layers'):
        expand(config)
    method = dict(type='id', layers=[0], teacher_layers=[1])
    config['method'] = method
    made, _ = expand(config)
    assert made['student']['model'] is made['teacher']['model'] is model
    assert made['teacher']['taps']['q0'] == 'auto:query[1]'
    assert config == dict(student=model, teacher=dict(model=model), method=method)


def test_taps_of_members_stand_below_shared_ones_and_their_own() -> None:
    config = pair(
        dict(type='id', layers=[0], teacher_layers=[1], cosine=0),
        taps=dict(q0='mine'),
        teacher=dict(model=segmentor(8), allow_untrained=True, taps=dict(k0='theirs')),
    )
    made, _ = expand(config)
    assert made['student']['taps'] == dict(k0='auto:key[0]')
    assert made['teacher']['taps'] == dict(k0='theirs')
    assert made['taps'] == dict(logits='auto', q0='mine')


def test_members_of_other_names_are_read_by_them() -> None:
    big = dict(model=segmentor(8), allow_untrained=True)
    made, _ = expand(pair('kd', teacher=None, teachers=dict(big=big)))
    assert made['objectives']['pixel']['reads'] == dict(
        student='student.logits', teacher='big.logits'
    )


def test_states_are_of_the_stages_that_the_layers_end() -> None:
    """Layers 2 of 3 and 3 of 4 end the second stage of both."""
    made, _ = expand(transformers(dict(type='id', layers=[2], teacher_layers=[3], heads='mean')))
    assert made['student']['taps']['map0'] == made['teacher']['taps']['map0'] == 'auto:stages[1]'
    assert made['student']['taps']['q0'] == 'auto:query[2]'
    loss = made['objectives']['attention0']['loss']
    assert loss == dict(type='AttentionKLLoss', heads='mean', rows=256)


@pytest.mark.parametrize('name', ['skd', 'skd-pi-pa', 'skd-pa'])
def test_the_map_that_is_compared_by_pairs(name: str) -> None:
    usual, _ = expand(pair(name))
    deep, _ = expand(pair(dict(type=name, feature='auto:stages[-1]')))
    assert (usual['taps'].pop('feat'), deep['taps'].pop('feat')) == (
        'auto:feature',
        'auto:stages[-1]',
    )
    assert deep == usual


def test_two_probabilities_have_no_order_to_learn() -> None:
    for classes, inter in ((2, 0.0), (3, 1.0)):
        made, _ = expand(pair('dist', student=segmentor(4, num_classes=classes)))
        assert made['objectives']['dist']['loss']['inter'] == inter


# ---------------------------------------------------------------------- several methods


def test_what_two_methods_say_alike_counts_once() -> None:
    made, additions = expand(pair(['kd', 'skd-pi-pa']))
    assert list(made['objectives']) == ['pixel', 'pair']
    assert additions.told == ["the objective 'pixel' of method 'skd-pi-pa' is there once already"]


def test_two_objectives_of_one_name_are_told_apart_wherever_they_are_named() -> None:
    ids = dict(type='sid', layers=[0], teacher_layers=[1], length=5, soft=2.0)
    made, additions = expand(pair([dict(type='affinity'), ids]))
    assert list(made['objectives']) == ['soft', 'affinity', 'sid_soft', 'attention0', 'cosine0']
    assert made['objectives']['sid_soft']['weight'] == 2.0
    levels = additions.hooks[0]['levels']['levels']
    assert levels == [['attention0', 'cosine0'], ['sid_soft', 'task']]
    assert 'is called' in additions.told[0]


def test_two_taps_of_one_name_are_told_apart_wherever_they_are_read() -> None:
    """MGD's ``feat`` is the last map, CIRKD's what a classifier reads; OFA's stages begin at 0."""
    made, additions = expand(pair(['cirkd', 'mgd']))
    assert made['taps'] == dict(feat='auto:feature', mgd_feat='auto:stages[-1]')
    assert [one['on'] for one in made['objectives'].values()] == ['feat', 'mgd_feat']
    assert additions.told == [
        "the tap 'feat' of method 'mgd' is called 'mgd_feat': another method has a tap of that name"
    ]
    made, _ = expand(pair(['reviewkd', 'ofa']))
    assert made['taps']['stage2'] == made['taps']['ofa_stage1'] == 'auto:stages[1]'
    assert made['objectives']['exit1']['reads'] == dict(
        student='student.ofa_stage1', teacher='teacher.logits', labels='batch.labels'
    )
    assert made['objectives']['review']['reads']['student'][1] == 'student.stage2'


@pytest.mark.parametrize(('method', 'key'), [('crosskd', 'crosskd_feat'), ('srrl', 'srrl_feat')])
def test_a_tap_of_another_name_is_so_of_the_teachers_head_too(method: str, key: str) -> None:
    made, _ = expand(pair(['mgd', method]))
    assert (made['taps']['feat'], made['taps'][key]) == ('auto:stages[-1]', 'auto:feature')
    heads = [one['teacher_head'] for one in made['objectives'].values() if 'teacher_head' in one]
    ends = [one['at'] if isinstance(one, dict) else one for one in heads]
    assert ends == [f'teacher.{key}']


def test_what_levels_watch_goes_with_the_names_of_its_objectives() -> None:
    layers = dict(layers=[0], teacher_layers=[1])
    stacked = dict(type='sid', threshold=0.1, length=5, **layers)
    made, additions = expand(pair([dict(type='id', cosine=2.0, **layers), stacked]))
    assert 'sid_cosine0' in made['objectives']
    assert additions.hooks[0]['levels']['watch'] == 'sid_cosine*'


@pytest.mark.bad_input
def test_two_hooks_that_set_one_weight_are_refused() -> None:
    layers = dict(layers=[0], teacher_layers=[1], length=5)
    levels = [dict(type=name, **layers) for name in ('sid', 'pid')]
    with pytest.raises(ValueError, match="'pid' and one before it both learn in levels.*Mend: one"):
        expand(pair(levels))
    rising = dict(type='id', layers=[0], teacher_layers=[1], warm_up=0.5)
    with pytest.raises(ValueError, match='warm_up or decay sets the weight of attention0, cosine0'):
        expand(pair([rising, levels[0]]), RUN)


@pytest.mark.parametrize('methods', [['simkd', 'mgd'], ['mgd', 'simkd']])
def test_a_tap_of_members_and_one_of_all_are_told_apart(methods: list[str]) -> None:
    teacher = dict(model=segmentor(8), checkpoint='big.pth')
    made, _ = expand(pair(methods, teacher=teacher))
    for member in ('student', 'teacher'):
        taps = {**made['taps'], **made[member].get('taps', {})}
        read = {name: taps[one['on']] for name, one in made['objectives'].items()}
        assert read == dict(simkd='auto:feature', mgd='auto:stages[-1]')


def paths_of(made: dict) -> set[tuple[str, ...]]:
    """Return what each objective reads of the student, by the paths behind its taps."""
    taps = {**made['taps'], **made['student'].get('taps', {})}
    found = set()
    for one in made['objectives'].values():
        read = one.get('reads', {}).get('student') or f'student.{one["on"]}'
        names = [read] if isinstance(read, str) else read
        found.add(tuple(taps[name.removeprefix('student.')] for name in names))
    return found


MAPS = ('kd', 'cirkd', 'mgd', 'afdcd', 'reviewkd', 'ofa', 'fsp', 'fitnet', 'srrl', 'at', 'byot')
IMAGES = ('kd', 'crd', 'fitnet', 'srrl', 'reviewkd', 'semckd', 'fsp', 'sp', 'ofa')


PAIRS = [('maps', *two) for two in combinations(MAPS, 2)]
PAIRS += [('images', *two) for two in combinations(IMAGES, 2)]


@pytest.mark.parametrize(('of', 'first', 'second'), PAIRS)
def test_two_methods_read_what_each_reads_alone(of: str, first: str, second: str) -> None:
    models: dict = {}
    if of == 'images':
        teacher = dict(model=classifier(14), allow_untrained=True)
        models = dict(student=dict(model=classifier(8)), teacher=teacher)
    together, _ = expand(pair([first, second], **models))
    alone = [paths_of(expand(pair(one, **models))[0]) for one in (first, second)]
    assert paths_of(together) == alone[0] | alone[1]


def test_noises_of_several_methods_add_up() -> None:
    made, _ = expand(pair(['soft-randomization', 'fickle'], noise=[dict(type='TargetNoise')]))
    assert [one['type'] for one in made['noise']] == [
        'GaussianInput',
        'TeacherDropout',
        'TargetNoise',
    ]


def test_an_objective_beside_phases_joins_that_of_the_students_own_losses() -> None:
    extra = dict(loss=dict(type='FeatureL1Loss'), reads=dict(student='a.feat', teacher='b.feat'))
    made, _ = expand({**peers('afd'), 'objectives': dict(extra=extra)})
    assert made['phases'][0]['objectives'] == ['logit0', 'logit1', 'extra']
    assert [phase['name'] for phase in made['phases']] == ['logit', 'feature', 'critic']


def test_of_an_optimizer_for_each_peer_each_takes_the_objectives_of_its_own() -> None:
    """The gradient of another peer's objective would reach nothing in it."""
    model = {**peers('afd'), 'method': [dict(type='afd', apart=True), 'kdcl']}
    phases = {phase['name']: phase for phase in expand(model)[0]['phases']}
    for name, own in (('a', ['logit_a', 'logit0']), ('b', ['logit_b', 'logit1'])):
        assert phases[name]['task'] == [name]
        assert phases[name]['objectives'] == own


def test_options_of_a_part_that_a_method_makes_anew_are_in_it_once() -> None:
    own = {'model.decode_head.dropout_ratio': 0.25, 'model.pretrained': None}
    student = dict(model=segmentor(4), cfg_options=own)
    teacher = dict(model=segmentor(8), checkpoint='big.pth')
    made, _ = expand(pair('simkd', student=student, teacher=teacher))
    options = made['student']['cfg_options']
    assert options.keys() == {'model.decode_head', 'model.pretrained'}
    assert options['model.decode_head']['type'] == 'mmkd.BorrowedClassifier'
    assert options['model.decode_head']['head']['dropout_ratio'] == 0.25


# ---------------------------------------------------------------------- the config around it


def test_a_critic_brings_its_optimizer_and_a_schedule_its_hook() -> None:
    cfg = Config(dict(model=pair('skd'), optim_wrapper=dict(ADAMW), custom_hooks=[]))
    expand_config(cfg)
    assert cfg.optim_wrapper.student == ADAMW
    assert cfg.optim_wrapper.constructor == 'mmkd.PhaseOptimWrapperConstructor'
    assert cfg.optim_wrapper.critic.optimizer.lr == 4e-4
    assert 'method' not in cfg.model
    assert expand_config(cfg) is None, 'it is done once'


def test_optimizers_and_hooks_of_the_config_win() -> None:
    own = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5))
    optimizers = dict(constructor='mmkd.PhaseOptimWrapperConstructor', student=ADAMW, critic=own)
    hook = dict(type='mmkd.VocabularyHook', seed=3)
    cfg = Config(dict(model=pair(['skd', 'quest']), optim_wrapper=optimizers, custom_hooks=[hook]))
    expand_config(cfg)
    assert cfg.optim_wrapper.critic == own
    assert cfg.custom_hooks == [hook]


def test_the_length_of_a_run_decides_a_schedule_and_gradients_are_clipped() -> None:
    teachers = {f't{k}': dict(model=classifier(2), allow_untrained=True) for k in range(2)}
    model = dict(
        type='mmkd.Distiller', student=dict(model=classifier(2)), teachers=teachers, method='end2'
    )
    cfg = Config(dict(model=model, optim_wrapper=dict(ADAMW), train_cfg=dict(max_iters=90)))
    expand_config(cfg)
    anneal = cfg.custom_hooks[0].schedules[0]
    assert (anneal.start, anneal.begin, anneal.length) == (10.0, 30, 30)
    assert cfg.optim_wrapper == {**ADAMW, 'clip_grad': dict(max_norm=10.0)}
    assert cfg.model.task_weight == 0.0
    assert cfg.model.objectives.end2.reads.teachers == ['t0.logits', 't1.logits']


def test_a_critic_steps_as_often_as_the_student() -> None:
    seldom = {**ADAMW, 'accumulative_counts': 4}
    cfg = Config(dict(model=pair('skd'), optim_wrapper=seldom))
    expand_config(cfg)
    assert cfg.optim_wrapper.critic.accumulative_counts == 4
    mine = dict(constructor='mmkd.PhaseOptimWrapperConstructor', student=seldom, critic=ADAMW)
    cfg = Config(dict(model=pair('skd'), optim_wrapper=mine))
    expand_config(cfg)
    assert 'accumulative_counts' not in cfg.optim_wrapper.critic, 'the config wins'


def test_a_schedule_of_the_config_wins(said: list[str]) -> None:
    teachers = {f't{k}': dict(model=classifier(2), allow_untrained=True) for k in range(2)}
    model = dict(
        type='mmkd.Distiller', student=dict(model=classifier(2)), teachers=teachers, method='end2'
    )
    mine = dict(target='end2.loss.temperature', type='linear', start=5, end=1, begin=0, length=9)
    hook = dict(type='ScheduleHook', schedules=[mine])
    cfg = Config(dict(model=model, train_cfg=dict(max_iters=90), custom_hooks=[hook]))
    expand_config(cfg)
    assert cfg.custom_hooks == [hook]
    assert "mmkd: the schedule of 'end2.loss.temperature' of the config wins" in said


def test_levels_of_the_config_win() -> None:
    mine = dict(type='stacked', levels=[['attention0'], ['soft', 'task']], length=3)
    hook = dict(type='mmkd.ScheduleHook', levels=mine)
    method = dict(type='sid', layers=[0], teacher_layers=[1], length=5)
    cfg = Config(dict(model=pair(method), custom_hooks=[hook]))
    expand_config(cfg)
    assert cfg.custom_hooks == [hook]


def test_what_is_logged_can_be_pasted_where_a_critic_is(said: list[str], tmp_path: Path) -> None:
    text = Config(
        dict(model=pair(['skd', 'quest']), optim_wrapper=ADAMW, custom_hooks=[dict(type='Mine')])
    ).pretty_text
    (tmp_path / 'base.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'base.py')
    expand_config(cfg)
    pasted = said[0].partition('\n')[2]
    (tmp_path / 'pasted.py').write_text(
        f"_base_ = 'base.py'\n{pasted}\nmodel['method'] = None  # it stands in its place\n"
    )
    again = Config.fromfile(tmp_path / 'pasted.py')
    assert again.model.pop('method') is None
    assert expand_config(again) is None
    assert list(again.optim_wrapper) == ['constructor', 'student', 'critic']
    assert again.to_dict() == cfg.to_dict()


def test_loops_of_peers_can_be_pasted(said: list[str]) -> None:
    hooks = dict(checkpoint=dict(save_best='mIoU', interval=3))
    cfg = Config(dict(model=peers('dml'), val_cfg=dict(type='ValLoop'), default_hooks=hooks))
    expand_config(cfg)
    found: dict = {}
    exec(said[0].partition('\n')[2], found)
    assert found['val_cfg'] == dict(type='mmkd.PeerValLoop')
    assert found['default_hooks'] == dict(checkpoint=dict(save_best=['a/mIoU', 'b/mIoU']))


def test_peers_are_validated_each() -> None:
    cfg = Config(
        dict(
            model=peers('dml'),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            default_hooks=dict(checkpoint=dict(save_best='mIoU')),
        )
    )
    expand_config(cfg)
    assert (cfg.val_cfg.type, cfg.test_cfg.type) == ('mmkd.PeerValLoop', 'mmkd.PeerTestLoop')
    assert cfg.default_hooks.checkpoint.save_best == ['a/mIoU', 'b/mIoU']


def test_preparing_a_config_writes_its_method_out_and_logs_it(
    said: list[str],
) -> None:
    cfg = Config(dict(model=pair(dict(type='kd', weight=2.0)), optim_wrapper=dict(ADAMW)))
    prepare_config(cfg)
    first, _, pasted = said[0].partition('\n')
    assert first == "mmkd: method=dict(type='kd', weight=2.0) is"
    found: dict = {}
    exec(pasted, found)
    assert found['model'] == dict(
        taps=dict(logits='auto'),
        objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=2.0)),
    )
    assert found['model']['objectives'] == cfg.model.to_dict()['objectives']
    assert 'method' not in cfg.pretty_text


# ---------------------------------------------------------------------- a Distiller built with one


TAPS = dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck')


def test_a_distiller_is_built_by_its_method() -> None:
    model = build(pair('skd-pi-pa', taps=TAPS))
    assert list(model.objectives) == ['pixel', 'pair']
    assert model.objectives['pair'].weight == 10.0
    assert model.task_weight == 1.0


def test_a_distiller_says_what_only_a_config_can_have(said: list[str]) -> None:
    Distiller(**{key: one for key, one in pair('skd', taps=TAPS).items() if key != 'type'})
    assert 'needs what only the config of the run can have: optim_wrapper=dict(critic=…)' in said[1]


def test_the_weight_of_the_labels_is_the_methods_unless_it_is_given() -> None:
    teacher = dict(model=classifier(2), allow_untrained=True)
    for given, weight in (({}, 0.1), (dict(task_weight=1.0), 1.0)):
        model = Distiller(
            student=dict(model=classifier(2)),
            teacher=teacher,
            method='kd',
            taps=dict(logits='head.fc'),
            **given,
        )
        assert model.task_weight == weight


# ---------------------------------------------------------------------- one's own


def test_a_method_of_ones_own_is_one_function() -> None:
    @METHODS.register_module(name='hint')
    @needs(tasks=('segmentation',), paper='mine')
    def hint(pair: Pair, weight: float = 2.0) -> Plan:
        """Match the features."""
        loss = dict(type='FeatureL1Loss')
        return Plan(
            objectives=dict(hint=dict(loss=loss, **pair.on('feat'), weight=weight)),
            taps=dict(feat='auto:feature'),
        )

    try:
        made, _ = expand(pair(dict(type='hint', weight=3.0)))
        assert made['objectives']['hint']['weight'] == 3.0
        with pytest.raises(KeyError, match="did you mean 'hint'"):
            expand(pair('hnt'))
    finally:
        METHODS.module_dict.pop('hint')


def test_options_are_those_of_the_signature() -> None:
    assert options_of(find_method('kd')) == dict(tau=None, weight=None, task_weight=None)
    assert {'length', 'layers', 'rows'} <= set(options_of(find_method('sid')))


# ---------------------------------------------------------------------- what is refused


REFUSED = {
    'unknown method': (
        pair('skdd'),
        KeyError,
        "there is no method 'skdd'; did you mean 'skd'",
    ),
    'options in a name': (
        pair('kd:tau=3'),
        KeyError,
        "options are no part of a name. Mend: method=dict(type='kd', tau=3)",
    ),
    'misspelt option': (
        pair(dict(type='kd', wieght=3.0)),
        TypeError,
        "method 'kd' got an unknown key 'wieght'; did you mean 'weight'",
    ),
    'option of the method that gets the rest': (
        pair(dict(type='sid', rws=3)),
        TypeError,
        "method 'sid' got an unknown key 'rws'; did you mean 'rows'",
    ),
    'a feature that is no tap': (
        pair(dict(type='skd', feature=3)),
        ValueError,
        "feature must be a point or a path, got 3. Mend: feature='auto:stages[-1]'",
    ),
    'a feature of detectors': (
        detectors(dict(type='skd-pa', feature='auto:stages[-1]')),
        ValueError,
        'compares every level of the necks, so that feature has no effect. Mend: leave it out',
    ),
    'a feature without its term': (
        pair(dict(type='skd-pi-pa', feature='auto:stages[-1]', pair_wise=0)),
        ValueError,
        'feature is of the pair-wise term. Mend: pair_wise above 0, or no feature',
    ),
    'no method at all': (pair(3), TypeError, "method must be a name, dict(type='kd', …)"),
    'an empty list': (pair([]), ValueError, 'method is an empty list'),
    'one method twice': (pair(['kd', 'kd']), ValueError, "method names 'kd' twice"),
    'another task': (
        detectors('quest'),
        ValueError,
        "method 'quest': it is made for segmentation, classification, but the student learns "
        'detection. Mend: one of cosine, crosskd, fgd, fitnet, foundation, kd, kd-detr, ld, mgd, '
        'nfd, pkd, reviewkd, skd, skd-pa, skd-pi, skd-pi-pa',
    ),
    'another task, several teachers': (
        {**detectors('end2'), 'teacher': None, 'teachers': dict(a='x', b='y')},
        FileNotFoundError,
        "teacher 'a': the config 'x' is not there",
    ),
    'no teacher': (
        {key: one for key, one in pair('kd').items() if key != 'teacher'},
        ValueError,
        "method 'kd': it needs one teacher, but there is none. Mend: teacher=dict(cfg=…",
    ),
    'one teacher of several': (
        pair('end2'),
        ValueError,
        "method 'end2': it needs several teachers, got ['teacher']. Mend: teachers=dict(t0=",
    ),
    'several teachers of one': (
        pair('kd', teacher=None, teachers=dict(a=segmentor(4), b=segmentor(4))),
        ValueError,
        "it needs one teacher, got ['a', 'b']. Mend: teacher=dict(cfg=…, checkpoint='….pth'); "
        "several teachers: method='end'",
    ),
    'peers with a teacher': (
        pair('afd'),
        ValueError,
        "method 'afd': peers teach each other, without a teacher, got ['teacher']. Mend: "
        'students=dict(peer0=dict(cfg=…), peer1=dict(cfg=…))',
    ),
    'one peer': (
        dict(student=segmentor(4), method='dml'),
        ValueError,
        "peers teach each other, got one student ['student']",
    ),
    'students of a teacher': (
        {**peers('kd'), 'teacher': segmentor(4)},
        ValueError,
        "it teaches one student, got ['a', 'b']. Mend: student=dict(cfg=…); peers",
    ),
    'no student': (dict(method='kd'), ValueError, 'a Distiller needs student= or students='),
    'tau out of range': (
        pair(dict(type='kd', tau=-1.0)),
        ValueError,
        "method 'kd': tau must be a finite number above 0, got -1.0",
    ),
    'weight out of range': (
        pair(dict(type='kd', weight=-1)),
        ValueError,
        "method 'kd': the weight of its objective 'pixel' must be a finite number above 0, got -1. "
        'Mend: the option that sets it, above 0',
    ),
    'noise out of range': (
        pair(dict(type='soft-randomization', std=-1.0)),
        ValueError,
        "method 'soft-randomization': std of GaussianInput must be a finite number, 0 or above",
    ),
    'layers that do not divide': (
        pair(dict(type='id', layers=[0, 1], teacher_layers=[1])),
        ValueError,
        "method 'id': teacher_layers must be one for each of the 2 layers, got [1]",
    ),
    'two standardised logits': (
        pair('lskd', student=segmentor(4, num_classes=2)),
        ValueError,
        "method 'lskd': two logits, standardised, are ±1 whatever they were",
    ),
    'layers that end no stage': (
        transformers(dict(type='id', layers=[1], teacher_layers=[2])),
        ValueError,
        "stages, which end with the layers [0, 2] in 'student'; got the layers [1]. Mend: those",
    ),
    'no length': (
        pair(dict(type='sid', layers=[0], teacher_layers=[0])),
        ValueError,
        "method 'sid': how long a level is follows from the length of the run",
    ),
    'two methods with phases': (
        peers([dict(type='afd'), 'afd']),
        ValueError,
        "method names 'afd' twice",
    ),
    'one noise': (
        pair('soft-randomization', noise=dict(type='TargetNoise')),
        TypeError,
        'noise must be a list of noises, which those of a method are added to, got {',
    ),
    'misspelt objective': (
        pair('kd', objectives=dict(pixl=dict(weight=3.0))),
        KeyError,
        "objective 'pixl' has no loss, so it changes one of the method, which has none of that "
        "name; did you mean 'pixel'?",
    ),
    'option of a loss': (
        pair('kd', objectives=dict(pixel=dict(loss=dict(tau=3.0)))),
        TypeError,
        "objective 'pixel' has a loss without a type: it would replace that of the method, got "
        "loss=dict(tau=3.0). Mend: options of a method go into method=dict(type='kd', tau=3.0)",
    ),
    'unknown task': (
        dict(student=dict(type='Net'), teacher=dict(type='Net'), method='kd'),
        ValueError,
        'but the student learns something that its config does not tell. Mend: objectives',
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize('what', REFUSED)
def test_what_is_refused(what: str) -> None:
    config, kind, message = REFUSED[what]
    with pytest.raises(kind) as refused:
        expand(config)
    assert message in str(refused.value.args[0])


@pytest.mark.bad_input
def test_end2_on_a_detector_names_what_serves_it() -> None:
    config = detectors('end2')
    config['teachers'] = dict(a=config['teacher'], b=config.pop('teacher'))
    with pytest.raises(ValueError, match='but the student learns detection. Mend: objectives of'):
        expand(config)


@pytest.mark.bad_input
def test_labels_are_needed() -> None:
    run = dict(train_dataloader=dict(dataset=FILES))
    with pytest.raises(ValueError, match="method 'ksanc': it reads labels, but the training pipel"):
        expand(pair('ksanc'), run)
    expand(pair('kd'), run)
    wrapped = dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=FILES)))
    with pytest.raises(ValueError, match='loads none. Mend: '):
        expand(pair('messy'), wrapped)


@pytest.mark.bad_input
def test_an_optimizer_of_another_constructor_is_refused() -> None:
    own = {**ADAMW, 'constructor': 'LayerDecayOptimizerConstructor'}
    with pytest.raises(ValueError, match='needs the optimizers .*which makes one. Mend: optim_wr'):
        expand_config(Config(dict(model=pair('skd'), optim_wrapper=own)))


@pytest.mark.bad_input
def test_the_doctor_names_a_method_that_is_not_there_and_goes_on() -> None:
    from mmkd.apis.doctor import diagnose

    cfg = Config(dict(model=pair('skdd'), optim_wrapper=dict(ADAMW), randomness=dict(seed=0)))
    errors = diagnose(cfg, fake_data=True).errors
    assert sum("there is no method 'skdd'" in error for error in errors) == 1
    assert not any('objectives is empty' in error for error in errors)


def test_every_method_has_a_sentence_a_paper_and_documented_options() -> None:
    for name, function in known_methods().items():
        text = function.__doc__ or ''
        assert text.splitlines()[0].endswith(('.', ':')), name
        for option in options_of(function):
            assert f'{option}: ' in text or 'options: Those of ``id``' in text, (name, option)


@pytest.mark.parametrize(('method', 'weight'), [('cwd', None), ('jml', 0.25)])
def test_every_method_weighs_the_labels(method: str, weight: float | None) -> None:
    assert expand(pair(method))[0].get('task_weight') == weight
    for asked in (0, 0.5):
        assert expand(pair(dict(type=method, task_weight=asked)))[0]['task_weight'] == asked
    both = [dict(type='kd', task_weight=0.5), dict(type='cwd')]
    assert expand(pair(both))[0]['task_weight'] == 0.5


def test_a_weight_that_was_asked_for_beats_a_default() -> None:
    def weight(*methods: Any, **beside: Any) -> float:
        model = dict(pair(list(methods), **beside), student=dict(model=classifier(2)))
        model['teacher'] = dict(model=classifier(2), allow_untrained=True)
        return expand(model)[0]['task_weight']

    zero, half = dict(type='nkd', task_weight=0), dict(type='nkd', task_weight=0.5)
    assert weight('kd') == 0.1, 'its default'
    for asked, value in ((zero, 0), (half, 0.5)):
        assert weight('kd', asked) == weight(asked, 'kd') == value
        assert weight('kd', asked, 'lskd') == value, 'nor does a later default win'
    assert weight(dict(type='kd', task_weight=0.5), half) == 0.5
    assert weight('kd', dict(type='at', task_weight=0.3), task_weight=0.7) == 0.7


@pytest.mark.bad_input
def test_two_weights_of_the_labels_are_refused() -> None:
    asked = [dict(type='kd', task_weight=0.5), dict(type='cwd', task_weight=0)]
    with pytest.raises(ValueError, match="'cwd' is given task_weight=0, a method before it 0.5"):
        expand(pair(asked))


@pytest.mark.bad_input
@pytest.mark.parametrize('method', ['dlb', 'ema'])
def test_a_student_that_learns_from_its_own_words_alone_is_refused(method: str) -> None:
    alone = dict(pair(dict(type=method, task_weight=0)))
    without = {key: one for key, one in alone.items() if key != 'teacher'}
    said = f"task_weight=0 and method '{method}': the student would learn from its own words alone"
    for model in (alone, without, dict(without, method=method, task_weight=0)):
        with pytest.raises(ValueError, match=said):
            expand(model)
    own = dict(own=dict(loss=dict(type='PixelWiseKLLoss'), on='logits'))
    assert expand(dict(alone, objectives=own))[0]['task_weight'] == 0, 'a teacher says something'
    assert expand(dict(alone, method=['kd', dict(type=method, task_weight=0)]))[0]
    assert expand(dict(without, method=method))[0].get('task_weight') is None
    assert expand(dict(without, method='psk'), RUN)[0]['task_weight'] == 0, 'labels in its target'


@pytest.mark.parametrize('wrong', [-1, float('nan'), '1', True])
def test_a_weight_of_the_labels_is_a_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match="'cwd': task_weight must be a finite number, 0 or above"):
        expand(pair(dict(type='cwd', task_weight=wrong)))
