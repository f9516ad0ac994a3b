"""Tiny classifiers on three colours, and a run of them."""

from pathlib import Path
from typing import Any

from helpers.images import CLASSES, write_classes
from helpers.runs import _RUNS, ROOT
from mmengine.config import Config

BASES = ['datasets/cifar10', 'schedules/schedule_cifar', 'runtime_cls']


def classifier(base_channels: int, num_classes: int = 3) -> dict:
    """Return a ResNet-8 of ``base_channels``."""
    return dict(
        type='mmkd.ImageClassifier',
        num_classes=num_classes,
        in_channels=4 * base_channels,
        backbone=dict(type='CIFARResNet', depth=8, base_channels=base_channels),
    )


def distiller(num_classes: int = 3, **changes: Any) -> dict:
    """Return a Distiller of two classifiers, with logits and features."""
    return (
        dict(
            type='mmkd.Distiller',
            student=dict(model=classifier(2, num_classes)),
            teacher=dict(model=classifier(4, num_classes), allow_untrained=True),
            taps=dict(logits='head.fc', feat='backbone.layer3'),
            objectives=dict(
                kd=dict(loss=dict(type='PixelWiseKLLoss', tau=4.0), on='logits'),
                pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat'),
            ),
        )
        | changes
    )


def config(
    folder: Path, model: dict | None = None, max_iters: int = 3, name: str = 'run', **changes: Any
) -> Config:
    """Return a run of the base configs on three colours; a checkpoint and a validation every
    iteration.
    """
    data = folder / 'data'
    if not data.exists():
        write_classes(data)
    cfg = Config(dict())
    for base in BASES:
        cfg.merge_from_dict(Config.fromfile(ROOT / f'configs/_base_/{base}.py').to_dict())
    own = dict(data_root=str(data), val_per_class=2, metainfo=dict(classes=CLASSES))
    cfg.merge_from_dict(
        dict(
            work_dir=str(folder / name),
            log_level='ERROR',
            experiment_name=f'{name}_{next(_RUNS)}',
            visualizer=dict(name=f'{name}_{next(_RUNS)}'),
            model=model or distiller(),
            train_dataloader=dict(
                batch_size=4, num_workers=0, persistent_workers=False, dataset=own
            ),
            val_dataloader=dict(batch_size=4, dataset=own),
            test_dataloader=dict(batch_size=4, dataset=own),
            train_cfg=dict(max_iters=max_iters, val_interval=1),
            # written out: a part of a run has the schedule of the whole
            param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0, end=20, by_epoch=False)],
            default_hooks=dict(
                logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1)
            ),
            env_cfg=dict(cudnn_benchmark=False),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg
