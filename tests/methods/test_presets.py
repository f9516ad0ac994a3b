"""Methods by name are the recipes: the same objectives, weights, reads, phases and schedules."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmkd.distiller.objectives.references import resolve
from mmkd.methods import expand, known_methods
from mmkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SHORT = dict(length=60, threshold=0.02, window=20)
# recipe -> the method that it is; options are what the recipe's own comment gives a reason for
SAME: dict[str, Any] = {
    # plain distillation
    'pairs/kd_resnet20-resnet8_cifar10': 'kd',
    'pairs/kd_resnet164-resnet20_cifar10': 'kd',
    'pairs/kd_wrn-22-1-dropout-resnet8_cifar10': 'kd',
    'pairs/kd_wrn-40-2-wrn-16-2_cifar10': 'kd',
    'pairs/kd_wrn-40-2-wrn-16-2_cifar100': 'kd',
    'pairs/kd_resnet14_cifar10-2500': dict(type='kd', weight=1.0, task_weight=0.0),
    'pairs/kd_vit-vit_cifar10': dict(type='kd', task_weight=1.0),
    'pairs/kd_unet_digit-scenes': 'kd',
    'pairs/kd_effnetlite2-pspnet-r18-half_camvid-160x120': 'kd',
    'pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k': 'kd',
    'pairs/kd_pspnet_r101-r18_cityscapes-512x512-40k': 'kd',
    'pairs/kd_segformer_digit-scenes': dict(type='kd', weight=1.0),
    'pairs/kd_bert-base-bert6_sst2': 'kd',
    'pairs/soft_minilm-minilm3_sst2': 'kd',
    # Structured KD
    'structured_kd/structured_kd-pi_effnetlite2-pspnet-r18-half_camvid': 'skd-pi',
    'structured_kd/structured_kd-pi_effnetlite2-pspnet-r18-half_camvid-240x180': 'kd',
    'structured_kd/structured_kd-pi-pa_effnetlite2-pspnet-r18-half_camvid': 'skd-pi-pa',
    'structured_kd/structured_kd-pi-pa_effnetlite2-pspnet-r18_camvid': 'skd-pi-pa',
    'structured_kd/structured_kd-pi-pa-deepest-unlabelled_unet_digit-scenes-100': dict(
        type='skd-pi-pa', feature='auto:stages[0]', patch=1
    ),
    'structured_kd/structured_kd_effnetlite2-pspnet-r18-half_camvid': 'skd',
    'structured_kd/structured_kd_effnetlite2-pspnet-r18-half_camvid-240x180-600': 'skd',
    'structured_kd/structured_kd_effnetlite2-pspnet-r18_camvid': 'skd',
    'structured_kd/structured_kd_pspnet_r101-r18_cityscapes-512x1024-80k': 'skd',
    'structured_kd/structured_kd_pspnet_r101-r18_cityscapes-512x512-40k': 'skd',
    'structured_kd_depth/pi_effnetlite2-resnet18-half_nyuv2-160x120': 'skd-pi',
    'structured_kd_depth/pa_effnetlite2-resnet18-half_nyuv2-160x120': 'skd-pa',
    'structured_kd_depth/pa-ho_effnetlite2-resnet18-half_nyuv2-160x120': 'skd',
    'structured_kd_depth/pa-ho_resnext101-mobilenetv2_nyuv2-384x384': 'skd',
    'structured_kd_detection/pi_fcos-effnetlite2-r18-half_bccd-320x240': 'kd',
    'structured_kd_detection/pi-pa_fcos-effnetlite2-r18-half_bccd-320x240': 'skd-pi-pa',
    'structured_kd_detection/pi-pa-ho_fcos-effnetlite2-r18-half_bccd-320x240': dict(
        type='skd', critic=dict(size=(24, 32))
    ),
    # QUEST
    'quest/quest_resnet20-resnet8_cifar10': 'quest',
    'quest/quest_effnetlite2-pspnet-r18-half_camvid-240x180': dict(type='quest', gamma=10.0),
    'quest/quest-kd_effnetlite2-pspnet-r18-half_camvid-240x180': [
        dict(type='quest', gamma=10.0),
        'kd',
    ],
    'quest/quest_pspnet_r101-r18_cityscapes-512x1024-80k': dict(type='quest', num_words=1024),
    'quest/quest_wrn-40-2-wrn-16-2_cifar100': dict(type='quest', num_words=4096, tau=0.2),
    # ensembles
    'ensemble_distribution/end_resnet14x4_cifar10-2500': 'end',
    'ensemble_distribution/end_effnetlite2x3-pspnet-r18-half_camvid-240x180': 'end',
    'ensemble_distribution/end2_vgg16x5_cifar10': dict(type='end2', smoothing=1e-4),
    'ensemble_distribution/end2_resnet14x4_cifar10-2500': dict(
        type='end2', temperature=3.0, begin=0, length=390, max_norm=2.0
    ),
    'ensemble_distribution/end2_effnetlite2x3-pspnet-r18-half_camvid-240x180': dict(
        type='end2', begin=107, length=107
    ),
    'ensemble_distribution/end2-proxy_resnet14x4_cifar10-2500': 'end2-proxy',
    'ensemble_distribution/end2-proxy_effnetlite2x3-pspnet-r18-half_camvid-240x180': 'end2-proxy',
    'ensemble_distribution/end2-proxy_pspnet_r101x3-r18_cityscapes-512x1024-80k': 'end2-proxy',
    # KSANC
    'ksanc/ksanc_resnet20-resnet8_cifar10': 'ksanc',
    'ksanc/ksanc_resnet164-resnet20_cifar10': 'ksanc',
    'ksanc/ksanc-labels_resnet20-resnet8_cifar10': dict(type='ksanc', task_weight=1.0),
    'ksanc/ksanc_pspnet_r101-r18_cityscapes-512x1024-80k': 'ksanc',
    'ksanc/ksanc_unet_digit-scenes': dict(
        type='ksanc',
        logit=0.003,
        squeezed=0.0005,
        adversarial=0.01,
        positions=512,
        channels=(16, 16),
        stages=3,
    ),
    # peers
    'afd/dml_resnet8x2_cifar10': 'dml',
    'afd/dml_resnet8x3_cifar10': 'dml',
    'afd/dml_resnet8-resnet20_cifar10': 'dml',
    'afd/dml_unetx2_digit-scenes': 'dml',
    'afd/afd_resnet32x2_cifar100': 'afd',
    'afd/afd_resnet8x2_cifar10': 'afd',
    'afd/afd_resnet8x3_cifar10': 'afd',
    'afd/afd_resnet8-resnet20_cifar10': 'afd',
    'afd/afd_unetx2_digit-scenes': 'afd',
    'afd/afd_unet-segformer_digit-scenes': dict(type='afd', apart=True),
    'afd/afd_pspnet-r18-segformer-b0_cityscapes-512x1024-80k': dict(type='afd', apart=True),
    'afd/l1_resnet8x2_cifar10': 'l1',
    'afd/l1_resnet8-resnet20_cifar10': 'l1',
    'afd/l1_unetx2_digit-scenes': 'l1',
    # noise
    'noisy_collaboration/soft_resnet20-resnet8_cifar10': 'soft-randomization',
    'noisy_collaboration/soft_unet_digit-scenes': 'soft-randomization',
    'noisy_collaboration/soft_wrn-40-2-wrn-16-2_cifar10': 'soft-randomization',
    'noisy_collaboration/fickle_unet_digit-scenes': 'fickle',
    'noisy_collaboration/fickle_wrn-22-1-dropout-resnet8_cifar10': 'fickle',
    'noisy_collaboration/fickle_wrn-40-2-wrn-16-2_cifar10': 'fickle',
    'noisy_collaboration/messy_resnet20-resnet8_cifar10': 'messy',
    'noisy_collaboration/messy_unet_digit-scenes': 'messy',
    'noisy_collaboration/messy_wrn-40-2-wrn-16-2_cifar10': dict(type='messy', rate=0.1),
    'noisy_collaboration/noisy_pspnet_r101-r18_cityscapes-512x1024-80k': [
        dict(type='soft-randomization', std=0.05),
        'fickle',
    ],
    # function matching
    'funmatch/funmatch_unet_digit-scenes': 'funmatch',
    'funmatch/funmatch_effnetlite2-effnetlite0_camvid-240x180': 'funmatch',
    # internal representations
    'internal_representations/id_segformer_digit-scenes': 'id',
    'internal_representations/sid_segformer_digit-scenes': dict(
        type='sid', length=100, threshold=0.05
    ),
    'internal_representations/id_vit-vit_cifar10': 'id',
    'internal_representations/id_minilm-minilm3_sst2': dict(type='id', teacher_layers=[1, 3, 5]),
    'internal_representations/attention_minilm-minilm3_sst2': dict(
        type='id', cosine=0, teacher_layers=[1, 3, 5]
    ),
    'internal_representations/cosine_minilm-minilm3_sst2': dict(
        type='id', attention=0, teacher_layers=[1, 3, 5]
    ),
    'internal_representations/pid_minilm-minilm3_sst2': dict(
        type='pid', teacher_layers=[1, 3, 5], **SHORT
    ),
    'internal_representations/sid_minilm-minilm3_sst2': dict(
        type='sid', teacher_layers=[1, 3, 5], **SHORT
    ),
    'internal_representations/sid_minilm-minilm3_rte': dict(
        type='sid', teacher_layers=[1, 3, 5], **SHORT
    ),
    'internal_representations/sid_bert-base-bert6_sst2': dict(
        type='sid', teacher_layers=[1, 3, 5, 7, 9, 11]
    ),
    'internal_representations/affinity_segformer-unet_digit-scenes': 'affinity',
}
# methods without a recipe of their own; the test of their family compares values
BY_FORMULA = {
    # tests/methods/test_point_wise.py
    *('ab', 'at', 'cosine', 'fitnet', 'foundation', 'ft', 'nfd', 'ofd', 'pkd', 'vid'),
    # tests/methods/test_masked.py
    *('fgd', 'maskd'),
    # tests/methods/test_generation_presets.py
    *('mgd', 'vitkd'),
    # tests/methods/test_fusion_presets.py
    *('reviewkd', 'semckd', 'transkd'),
    # tests/methods/test_memory_presets.py
    *('afdcd', 'cirkd-memory', 'crd'),
    # tests/methods/test_divergence_presets.py
    *('cgd', 'ctkd', 'cwd', 'dist', 'dkd', 'gdkd', 'jml', 'lskd', 'nkd', 'wsld'),
    # tests/methods/test_ld.py
    'ld',
    # tests/methods/test_kd_detr.py
    'kd-detr',
    # tests/methods/test_teacher_head_presets.py
    *('crosskd', 'heteroakd', 'ofa', 'simkd', 'srrl'),
    # tests/methods/test_where_presets.py
    *('bpkd', 'ifvd'),
    # tests/methods/test_relations.py
    *('cc', 'cirkd', 'dsd', 'fsp', 'ickd', 'nst', 'pkt', 'rkd', 'sp'),
    # tests/methods/test_self_presets.py
    *('byot', 'dlb', 'ema', 'kdcl', 'one', 'psk'),
}
ANEW = ('objectives', 'phases', 'noise', 'task_weight')


def recipe(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def by_name(cfg: Config, method: Any) -> tuple[dict, Any]:
    """Return what the method makes of the recipe's pair, whose taps win by name."""
    model = {key: one for key, one in cfg.model.to_dict().items() if key not in ANEW}
    return expand({**model, 'method': method}, cfg)


def members_of(model: dict) -> dict[str, list[str]]:
    """Return member -> taps that it offers."""
    named = {role: model[role] for role in ('student', 'teacher') if model.get(role)}
    named |= {**(model.get('students') or {}), **(model.get('teachers') or {})}
    shared = model.get('taps') or {}
    return {name: [*{**shared, **(one.get('taps') or {})}] for name, one in named.items()}


def with_defaults(config: Any) -> Any:
    """Return a part's config with the defaults of its class."""
    kind = MODELS.get(config['type'].split('.')[-1])
    defaults = {
        key: one.default
        for key, one in inspect.signature(kind).parameters.items()
        if one.default is not inspect.Parameter.empty
    }
    config = {**defaults, **config}
    if isinstance(config.get('critic'), dict):
        config['critic'] = with_defaults(config['critic'])
    return config


def read_objective(one: dict, known: dict[str, list[str]]) -> dict[str, Any]:
    """Return an objective in full: defaults said, ``on`` and globs written out."""
    reads = dict(one.get('reads') or {})
    if one.get('on'):
        reads = dict(student=f'student.{one["on"]}', teacher=f'teacher.{one["on"]}', **reads)
    return dict(
        loss=with_defaults(one['loss']),
        reads={key: resolve(value, known, 'x') for key, value in reads.items()},
        weight=one.get('weight', 1.0),
    )


def schedules_of(cfg: Config | None, hooks: Any) -> list[dict]:
    default = dict((cfg or {}).get('default_hooks') or {}).values()
    hooks = [dict(hook) for hook in (*default, *hooks) if 'ScheduleHook' in hook['type']]
    for hook in hooks:
        hook['schedules'] = [
            dict(start=10.0, end=1.0) | dict(one) for one in hook.get('schedules') or ()
        ]
    return hooks


@pytest.mark.parametrize('name', SAME)
def test_a_method_is_its_recipe(name: str) -> None:
    cfg = recipe(name)
    made, additions = by_name(cfg, SAME[name])
    known = members_of(made)
    own = cfg.model.to_dict()
    mine = {key: read_objective(one, known) for key, one in made['objectives'].items()}
    theirs = {key: read_objective(one, known) for key, one in own['objectives'].items()}
    if set(mine) != set(theirs):  # names differ where a recipe is called after what it is part of
        assert [*mine.values()] == [*theirs.values()]
    else:
        assert mine == theirs
    assert made.get('task_weight', 1.0) == own.get('task_weight', 1.0)
    assert made.get('phases') == own.get('phases')
    assert [with_defaults(one) for one in made.get('noise', ())] == [
        with_defaults(one) for one in own.get('noise', ())
    ]
    assert schedules_of(None, additions.hooks) == schedules_of(cfg, cfg.get('custom_hooks') or ())
    assert 'method' not in made


def test_every_method_is_compared() -> None:
    """With a recipe or, where it has none, with the formula of its paper and code."""
    named = [value if isinstance(value, list) else [value] for value in SAME.values()]
    used = {one if isinstance(one, str) else one['type'] for each in named for one in each}
    assert used.isdisjoint(BY_FORMULA)
    assert used | BY_FORMULA == set(known_methods())
