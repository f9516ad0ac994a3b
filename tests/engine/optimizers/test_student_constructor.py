"""A constructor that knows a model by its names sees the student of a Distiller."""

from typing import Any

import pytest
from helpers.runs import run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import distiller, objectives, segmentor
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmkd.apis.prepare import prepare_config

SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class SlowerBackbone(DefaultOptimWrapperConstructor):
    """As those of layer decay do, it asks for the backbone and goes by names."""

    def add_params(self, params: list[dict], module: nn.Module, **options: Any) -> None:
        assert module.backbone is not None
        for name, one in module.named_parameters():
            factor = self.paramwise_cfg['decay'] if name.startswith('backbone.') else 1.0
            params.append(dict(params=[one], lr=self.base_lr * factor, lr_scale=factor))


def config(**changes: Any) -> Config:
    wrapper = dict(SGD, constructor='SlowerBackbone', paramwise_cfg=dict(decay=0.5))
    return Config(dict(model=distiller(**changes), optim_wrapper=wrapper, default_scope='mmseg'))


def test_rates_are_those_of_the_student_alone() -> None:
    terms = objectives()
    terms['hint'] = dict(
        loss=dict(type='FeatureMatchingLoss'), on='feat', connectors=dict(student='auto')
    )
    cfg = prepare_config(config(objectives=terms))
    model = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(one): group['lr'] for group in groups for one in group['params']}
    for name, one in model.student.named_parameters():
        assert rates[id(one)] == (0.05 if name.startswith('backbone.') else 0.1)
    (conv,) = (x for x in model.objectives['hint'].parameters() if x.dim() == 4)
    assert rates[id(conv)] == 0.1
    assert len(rates) == sum(p.requires_grad for p in model.parameters())


def test_of_a_plain_model_it_is_the_constructor_itself() -> None:
    """As in a comparison, whose rows have the optimizer of the pair."""
    cfg = prepare_config(config())
    model = MODELS.build(dict(segmentor(4), _scope_='mmseg'))
    own = dict(SGD, constructor='SlowerBackbone', paramwise_cfg=dict(decay=0.5))
    found, alone = (build_optim_wrapper(model, one) for one in (cfg.optim_wrapper, own))
    rates = [[g['lr'] for g in one.optimizer.param_groups] for one in (found, alone)]
    assert rates[0] == rates[1]
    assert set(rates[0]) == {0.05, 0.1}


def test_a_plain_model_and_the_usual_constructors_are_left_alone() -> None:
    for model, constructor in (
        (segmentor(4), 'SlowerBackbone'),
        (distiller(), 'DefaultOptimWrapperConstructor'),
    ):
        wrapper = dict(SGD, constructor=constructor)
        cfg = prepare_config(Config(dict(model=model, optim_wrapper=wrapper)))
        assert cfg.optim_wrapper.constructor == constructor


def test_a_run_goes_on(tmp_path: Any) -> None:
    def run(max_iters: int, name: str, resume: bool = False) -> Any:
        cfg = run_config(tmp_path, max_iters=max_iters, name=name)
        cfg.model.objectives.pop('holistic')
        cfg.optim_wrapper = dict(SGD, constructor='SlowerBackbone', paramwise_cfg=dict(decay=0.5))
        return train(cfg, resume)

    whole = run(4, 'whole')
    run(2, 'parts')
    parts = run(4, 'parts', resume=True)
    states = [checkpoint(one, 'iter_4.pth')['state_dict'] for one in (whole, parts)]
    assert differences(*states) == []


@pytest.mark.bad_input
def test_several_students_are_refused() -> None:
    cfg = config()
    peers = {name: dict(model=segmentor(4)) for name in 'ab'}
    reads = dict(student='a.logits', teacher='b.logits')
    kd = dict(loss=dict(type='PixelWiseKLLoss'), reads=reads)
    taps = dict(logits='decode_head.conv_seg')
    cfg.model = dict(type='mmkd.Distiller', students=peers, objectives=dict(kd=kd), taps=taps)
    cfg = prepare_config(cfg)
    model = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    with pytest.raises(ValueError, match="'SlowerBackbone' .* sees one model, .* 2 students"):
        build_optim_wrapper(model, cfg.optim_wrapper)
