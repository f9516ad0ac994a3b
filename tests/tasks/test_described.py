"""What a config's model learns is known before it is built, and is what the built one learns."""

from pathlib import Path
from typing import Any

import pytest
from helpers.runs import need_mmdet
from mmengine.config import Config
from mmengine.registry import MODELS

from mmkd.registry import TASKS
from mmkd.tasks import Described, Task, Unknown, task_of, task_of_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'pairs'
ALONE = {
    'baseline_unet_digit-scenes': 'mmseg',
    'baseline_segformer_digit-scenes': 'mmseg',
    'baseline_pspnet-r18-half_camvid': 'mmseg',
    'baseline_resnet18-half_nyuv2-160x120': 'mmseg',
    'baseline_resnet8_cifar10': 'mmseg',
    'baseline_vit_cifar10': 'mmseg',
    'baseline_fcos-r18-half_bccd-320x240': 'mmdet',
}


@pytest.mark.parametrize('name', ALONE)
def test_a_described_model_learns_what_the_built_one_learns(name: str) -> None:
    if ALONE[name] == 'mmdet':
        need_mmdet()
    config = Config.fromfile(CONFIGS / f'{name}.py').model.to_dict()
    built = MODELS.build({**config, '_scope_': ALONE[name]})
    assert task_of_config(config, ALONE[name]) == task_of(built)


def test_a_text_classifier_is_known_by_its_type() -> None:
    config = dict(type='mmkd.HFTextClassifier', config='a::model', num_classes=2)
    assert type(task_of_config(config)).__name__ == 'Text'
    assert task_of_config(config).num_classes == 2


def test_a_cascade_of_heads_learns_what_its_last_one_does() -> None:
    heads = [dict(type='FCNHead', num_classes=7), dict(type='OCRHead', num_classes=5)]
    assert task_of_config(dict(type='CascadeEncoderDecoder', decode_head=heads)).num_classes == 5


def test_defaults_of_the_class_are_attributes_and_none_is_not_there() -> None:
    backbone = Described(dict(type='ResNetV1c', depth=18))
    assert backbone.out_indices == (0, 1, 2, 3)
    assert not hasattr(backbone, 'init_cfg')
    assert Described(dict(type='CIFARResNet')).out_indices == (0, 1, 2), 'of mmkd'
    assert not hasattr(Described(dict(type='NobodyKnows')), 'depth')


def test_a_task_of_ones_own_is_asked_too() -> None:
    @TASKS.register_module(name='Waves')
    class Waves(Task):
        kind = 'waves'

        @classmethod
        def of(cls, model: Any, source: Any = None) -> 'Waves | None':
            return cls(model.wave_head.bands) if hasattr(model, 'wave_head') else None

    try:
        found = task_of_config(dict(type='WaveNet', wave_head=dict(type='Head', bands=4)))
        assert (found.kind, found.num_classes) == ('waves', 4)
        untold = dict(type='WaveNet', wave_head=dict(type='Head'))
        assert isinstance(task_of_config(untold), Unknown), 'the head alone would know its bands'
    finally:
        TASKS.module_dict.pop('Waves')
    assert isinstance(task_of_config(dict(type='WaveNet', wave_head=dict(bands=4))), Unknown)
