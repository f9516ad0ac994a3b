"""Backbones of mmpretrain and timm inside mmseg's EncoderDecoder, as students."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exported import load_and_run
from helpers.runs import model_of, run_config, train
from helpers.tiny import segmentor
from mmengine.config import Config

from mmkd.apis.doctor import diagnose

pytestmark = pytest.mark.zoo
# of each backbone its last maps' channels
BACKBONES = {
    'mmpretrain': (dict(type='mmpretrain.MobileNetV3', arch='small', out_indices=(11,)), 96),
    'mmpretrain vit': (
        dict(
            type='mmpretrain.VisionTransformer',
            arch='deit-tiny',
            img_size=32,
            patch_size=8,
            out_type='featmap',
        ),
        192,
    ),
    'timm by mmpretrain': (
        dict(
            type='mmpretrain.TIMMBackbone',
            model_name='mobilenetv3_small_050',
            features_only=True,
            out_indices=(3,),
        ),
        24,
    ),
    'timm by mmseg': (
        dict(type='TIMMBackbone', model_name='resnet10t', pretrained=False, out_indices=(2,)),
        128,
    ),
}


def student(backbone: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return a segmentor of three classes on such a backbone."""
    model = segmentor(4, num_classes=3, size=32, head='FCNHead', auxiliary=False)
    model['backbone'] = backbone
    model['decode_head'].update(in_channels=channels, in_index=0)
    return model


@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone_distils_and_loads_without_mmkd(tmp_path: Path, name: str) -> None:
    """The connector brings its features to the width and size of the teacher's."""
    mimic = dict(
        loss=dict(type='FeatureL1Loss'), on='feat', weight=1.0, connectors=dict(student='auto')
    )
    logits = dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=1.0)
    model = model_of(
        student=student(*BACKBONES[name]),
        taps=dict(logits='decode_head.conv_seg', feat='decode_head.convs'),
        teacher=dict(
            model=segmentor(8, num_classes=3, size=32, head='FCNHead'), allow_untrained=True
        ),
        objectives=dict(logits=logits | dict(connectors=dict(student='auto')), mimic=mimic),
    )
    cfg = run_config(
        tmp_path, model, max_iters=2, custom_hooks=[dict(type='mmkd.ExportStudentHook')]
    )
    assert diagnose(cfg).errors == []
    runner = train(cfg)
    distiller = runner.model
    weight = distiller.objectives['mimic'].connectors['student'].state_dict()
    assert any(value.shape[:2] == (16, 8) for value in weight.values() if value.ndim == 4)
    trained = distiller.student.eval()
    folder = tmp_path / 'run' / 'student'
    images = torch.randn(2, 3, 32, 32)
    seen = load_and_run(folder / 'config.py', folder / 'iter_2.pth', images, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(seen, trained(images, mode='tensor'))
    exported = Config.fromfile(folder / 'config.py').model.backbone
    assert not exported.get('pretrained'), 'nothing is fetched: the weights lie beside it'
