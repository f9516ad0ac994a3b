"""Errors of registries, told anew."""

import pytest
from mmengine.registry import HOOKS, MODELS, DefaultScope

from mmkd.utils.explain import explain, is_mistake
from mmkd.utils.retell import retell

pytestmark = pytest.mark.bad_input


def refusal(build: object, config: dict, scope: str = 'mmseg') -> str:
    with (
        DefaultScope.overwrite_default_scope(scope),
        pytest.raises((KeyError, TypeError)) as raised,
    ):
        build(config)
    assert is_mistake(raised.value)
    return explain(raised.value)


def test_unknown_types() -> None:
    said = refusal(MODELS.build, dict(type='ResNetV1x'))
    assert said.startswith(
        "mmseg has no model 'ResNetV1x'. Mend: a registered name; did you mean 'ResNetV1"
    )
    assert 'custom_imports' in said
    said = refusal(HOOKS.build, dict(type='SegVisualizationHook'), 'mmengine')
    assert (
        "it belongs to mmseg. Mend: default_scope='mmseg', or type='mmseg.SegVisualizationHook'"
        in said
    )


def test_arguments_of_a_class_and_of_its_parents() -> None:
    said = refusal(MODELS.build, dict(type='ResNetV1c', depht=18))
    assert said.startswith(
        "ResNet got an unknown argument 'depht'; did you mean 'depth' or 'deep_stem'? (allowed: "
    )
    assert 'out_indices' in said


def test_no_type_and_no_inputs() -> None:
    assert 'a part of the config has no type' in refusal(MODELS.build, dict(depth=18))
    assert is_mistake(KeyError('inputs'))
    assert not is_mistake(KeyError('feat'))
    assert (
        retell("Foo.__init__() got an unexpected keyword argument 'a' in <x.Y object at 0x1f>")
        == "Foo got an unknown argument 'a'"
    )
