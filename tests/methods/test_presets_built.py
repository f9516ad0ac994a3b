"""A method whose taps are found is its recipe, whose taps are written: the same values of losses.

Both are built from one seed and see one batch, so that a tap elsewhere, another connector or
another weight would be another number.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import need_mmdet
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkd.distiller.objectives.objective import stand_in
from mmkd.methods import expand
from mmkd.tasks import generated_batch

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ANEW = ('objectives', 'phases', 'noise', 'task_weight', 'taps')
# recipe -> its method; one of each kind of model is in the quick tier
SAME: dict[str, Any] = {
    'pairs/kd_resnet20-resnet8_cifar10': 'kd',
    'ksanc/ksanc_unet_digit-scenes': dict(
        type='ksanc',
        logit=0.003,
        squeezed=0.0005,
        adversarial=0.01,
        positions=512,
        channels=(16, 16),
        stages=3,
    ),
    'internal_representations/id_segformer_digit-scenes': 'id',
    'internal_representations/id_vit-vit_cifar10': 'id',
    'structured_kd_depth/pa-ho_effnetlite2-resnet18-half_nyuv2-160x120': 'skd',
    'structured_kd/structured_kd_effnetlite2-pspnet-r18-half_camvid': 'skd',
    'structured_kd_detection/pi-pa-ho_fcos-effnetlite2-r18-half_bccd-320x240': dict(
        type='skd', critic=dict(size=(24, 32))
    ),
    'quest/quest_resnet20-resnet8_cifar10': 'quest',
    'quest/quest_effnetlite2-pspnet-r18-half_camvid-240x180': dict(type='quest', gamma=10.0),
    'ensemble_distribution/end2-proxy_effnetlite2x3-pspnet-r18-half_camvid-240x180': 'end2-proxy',
    'ksanc/ksanc_resnet20-resnet8_cifar10': 'ksanc',
    'afd/afd_unetx2_digit-scenes': 'afd',
    'afd/afd_unet-segformer_digit-scenes': dict(type='afd', apart=True),
    'afd/afd_resnet8x2_cifar10': 'afd',
    'afd/l1_resnet8-resnet20_cifar10': 'l1',
    'noisy_collaboration/messy_unet_digit-scenes': 'messy',
    'internal_representations/affinity_segformer-unet_digit-scenes': 'affinity',
}
QUICK = [*SAME][:3]


def members_of(model: dict, role: str) -> list[dict]:
    return list((model.get(f'{role}s') or {role: model.get(role)}).values())


def without_weights(cfg: Config) -> dict:
    """Return the model of a recipe, whose members need no file."""
    model = cfg.model.to_dict()
    for teacher in filter(None, members_of(model, 'teacher')):
        teacher.update(checkpoint=None, allow_untrained=True)
    for student in members_of(model, 'student'):
        student.pop('checkpoint', None)
    return model


def values(model: dict) -> dict[str, float]:
    """Return every loss of a Distiller on a generated batch."""
    torch.manual_seed(0)
    built = MODELS.build(copy.deepcopy(model))
    stand_in(built.objectives.values())
    size = (32, 32) if built.task.kind == 'classification' else built.task.size
    size = tuple(getattr(built.data_preprocessor, 'size', None) or size)
    torch.manual_seed(1)
    data = generated_batch(2, size, built.task)
    torch.manual_seed(2)
    losses = built(**built.data_preprocessor(data, True), mode='loss')
    return {key: float(torch.as_tensor(sum_of(value)).detach()) for key, value in losses.items()}


def sum_of(value: Any) -> Any:
    return sum(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SAME]
)
def test_what_is_found_is_what_the_recipe_names(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    scope = cfg.get('default_scope') or 'mmseg'
    if scope == 'mmdet':
        need_mmdet()
    whole = without_weights(cfg)
    bare = {key: one for key, one in whole.items() if key not in ANEW}
    for role in ('student', 'teacher'):
        for member in filter(None, members_of(bare, role)):
            member.pop('taps', None)
    with DefaultScope.overwrite_default_scope(scope):
        theirs = values(without_weights(cfg))
        mine = values(expand({**bare, 'method': SAME[name]}, cfg)[0])
    assert mine == pytest.approx(theirs, rel=1e-6)
