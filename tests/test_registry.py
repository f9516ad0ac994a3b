"""Names: ``mmkd.X`` from every mm registry, bare names inside mmkd under any default scope."""

import math
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import mmseg.registry
import pytest
import torch
from mmengine.registry import DefaultScope, Registry

import mmkd.registry
from mmkd.registry import MODELS, build_part

ROOT = Path(__file__).resolve().parents[1]
SCOPES = ['mmengine', 'mmseg', 'mmdet', 'mmpretrain', 'mmkd']
KINDS = [
    'MODELS',
    'DATASETS',
    'DATA_SAMPLERS',
    'TRANSFORMS',
    'HOOKS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
]
# KL((3/4, 1/4) ‖ (1/2, 1/2))
TEACHER, STUDENT, KL = (
    torch.tensor([[math.log(3.0), 0.0]]),
    torch.zeros(1, 2),
    0.75 * math.log(1.5) + 0.25 * math.log(0.5),
)


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test under the default scope of each mm package that is installed."""
    pytest.importorskip(f'{request.param}.registry', exc_type=ImportError)
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


def registry(package: str, kind: str) -> Registry:
    return getattr(import_module(f'{package}.registry'), kind)


def test_build_part_takes_bare_names_under_any_scope(scope: str) -> None:
    loss = build_part(dict(type='PixelWiseKLLoss', tau=2.0))
    assert type(loss) is mmkd.losses.PixelWiseKLLoss
    assert build_part(dict(type='PixelWiseKLLoss'))(STUDENT, TEACHER).item() == pytest.approx(
        KL, rel=1e-6
    )
    assert DefaultScope.get_current_instance().scope_name == scope


def test_build_part_leaves_the_config_as_it_was() -> None:
    cfg = dict(type='PixelWiseKLLoss')
    build_part(cfg)
    assert cfg == dict(type='PixelWiseKLLoss')


def test_build_part_takes_a_scope_that_is_named() -> None:
    head = build_part(dict(type='CrossEntropyLoss', _scope_='mmseg'))
    assert type(head) is mmseg.models.losses.CrossEntropyLoss


def test_bare_names_outside_build_part_follow_the_default_scope() -> None:
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(KeyError, match='mmseg::model registry'),
    ):
        MODELS.build(dict(type='PixelWiseKLLoss'))


def test_build_part_names_an_unknown_part() -> None:
    with pytest.raises(KeyError, match='PixelWiseKLLos is not in the mmkd::model registry'):
        build_part(dict(type='PixelWiseKLLos'))


@pytest.mark.parametrize('package', ['mmengine', 'mmseg', 'mmdet', 'mmpretrain'])
def test_prefixed_name_builds_from_every_models_registry(package: str) -> None:
    pytest.importorskip(
        package if package == 'mmengine' else f'{package}.models', exc_type=ImportError
    )
    for default_scope in (None, package):
        with DefaultScope.overwrite_default_scope(default_scope):
            loss = registry(package, 'MODELS').build(dict(type='mmkd.PixelWiseKLLoss'))
        assert loss(student=STUDENT, teacher=TEACHER).item() == pytest.approx(KL, rel=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_every_component_is_found_by_its_prefixed_name(kind: str) -> None:
    ours = getattr(mmkd.registry, kind)
    assert ours.scope == 'mmkd'
    for name, component in ours.module_dict.items():
        for package in ('mmengine', 'mmseg'):
            assert registry(package, kind).get(f'mmkd.{name}') is component


def test_public_names_are_registered() -> None:
    for name in (
        'Distiller',
        'PixelWiseKLLoss',
        'PairWiseAffinityLoss',
        'AdversarialLoss',
        'HolisticCritic',
        'EfficientNetLite',
    ):
        assert MODELS.get(name).__name__ == name
    for name in ('CamVid', 'DigitScenes'):
        assert mmkd.registry.DATASETS.get(name).__name__ == name


def test_importing_mmkd_is_enough(fresh_import: subprocess.CompletedProcess) -> None:
    assert fresh_import.stdout.startswith('registered'), fresh_import.stderr


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        (
            dict(type='HolisticCritc', in_channels=3),
            KeyError,
            "is not registered; did you mean 'HolisticCritic'",
        ),
        (
            dict(type='HolisticCritic', in_channels=3, chanels=(8,)),
            TypeError,
            "'chanels'; did you mean 'channels'",
        ),
    ],
)
def test_a_misspelt_critic_names_its_nearest_match(config: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build_part(dict(type='AdversarialLoss', critic=config))
