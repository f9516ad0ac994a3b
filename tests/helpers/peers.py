"""Tiny peers that the tests of AFD share: K classifiers in a cycle, with logits, maps and a critic
each.
"""

import copy
from typing import Any

import torch
from helpers.tiny import build
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from mmkd.tasks import Classification, generated_batch

TAU = 3.0
OPTIMIZERS = dict(
    logit=dict(type='SGD', lr=0.1, momentum=0.9),
    feature=dict(type='Adam', lr=1e-3, eps=1e-4),
    critic=dict(type='Adam', lr=2e-3, eps=1e-4),
)  # a small eps would make much of rounding


def classifier(base_channels: int = 2, num_classes: int = 3) -> dict:
    """Return a ResNet-8 of ``base_channels``."""
    return dict(
        type='mmkd.ImageClassifier',
        num_classes=num_classes,
        in_channels=4 * base_channels,
        backbone=dict(type='CIFARResNet', depth=8, base_channels=base_channels),
    )


def afd(
    peers: int = 2, widths: tuple[int, ...] | None = None, norm: bool = True, **changes: Any
) -> dict:
    """Return the config of ``peers`` classifiers by AFD."""
    pairs = [(k, (k - 1) % peers) for k in range(peers)]
    critic = dict(type='FeatureMapCritic', **({} if norm else dict(norm_cfg=None)))
    fit = {} if widths is None else dict(connectors=dict(student='auto'))
    both = [f'{kind}{k}' for k in range(peers) for kind in ('logit', 'map')]
    return (
        dict(
            type='mmkd.Distiller',
            students={
                f'peer{k}': dict(model=classifier(2 if widths is None else widths[k]))
                for k in range(peers)
            },
            taps=dict(logits='head.fc', feat='backbone.layer3'),
            objectives={
                **{
                    f'logit{k}': dict(
                        loss=dict(type='PixelWiseKLLoss', tau=TAU),
                        reads=dict(student=f'peer{k}.logits', teacher=f'peer{j}.logits'),
                    )
                    for k, j in pairs
                },
                **{
                    f'map{k}': dict(
                        loss=dict(
                            type='AdversarialLoss', mode='lsgan', sigmoid=True, critic=critic
                        ),
                        **fit,
                        reads=dict(student=f'peer{k}.feat', teacher=f'peer{j}.feat'),
                    )
                    for k, j in pairs
                },
            },
            phases=[
                dict(name='logit', optimizer='logit', task=True, objectives=both[::2]),
                dict(name='feature', optimizer='feature', objectives=both[1::2]),
                dict(name='critic', optimizer='critic', critics=both[1::2]),
            ],
        )
        | changes
    )


def model_of(*args: Any, seed: int = 5, **kwargs: Any) -> Any:
    """Return the Distiller of :func:`afd` in train mode."""
    torch.manual_seed(seed)
    return build(afd(*args, **kwargs))


def optimizers(model: Any, kind: str = 'OptimWrapper', **options: Any) -> Any:
    """Return the optimizers of the three phases, as a config builds them."""
    cfg = {
        name: dict(type=kind, optimizer=dict(optimizer), **copy.deepcopy(options))
        for name, optimizer in OPTIMIZERS.items()
    }
    constructor = dict(type='mmkd.PhaseOptimWrapperConstructor', optim_wrapper_cfg=cfg)
    return OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model)


def batch(n: int = 4, seed: int = 0) -> dict:
    """Return generated images and labels for ``train_step``."""
    return generated_batch(n, (32, 32), Classification(3), seed=seed)
