"""Real runs of configs/_base_/runtime.py on a few small images, in this process or by the tools."""

from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny import distiller, holistic, objectives, segmentor
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.apis import launch
from mmkd.apis.prepare import prepare_config

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('wall', 'box', 'floor')
SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
ADAM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
_RUNS = count()


def need_mmdet() -> None:
    """Skip where detectors cannot be built."""
    pytest.importorskip(
        'mmcv.ops',
        exc_type=ImportError,
        reason='detectors need the compiled operations of mmcv: see docs/user_guides/detection.md',
    )
    pytest.importorskip('mmdet', reason='detectors need mmdet: see docs/user_guides/detection.md')


def write_images(folder: Path, number: int = 6, seed: int = 0) -> None:
    """Write ``number`` images of 40×40 and their label maps: a box on a floor before a wall."""
    rng = np.random.default_rng(seed)
    for part in ('img', 'ann'):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(number):
        labels = np.zeros((40, 40), np.uint8)
        labels[24:] = 2
        y, x = rng.integers(4, 20, 2)
        labels[y : y + 14, x : x + 14] = 1
        image = np.array([[60, 60, 160], [50, 200, 60], [200, 120, 40]])[labels] + rng.normal(
            0, 20, (40, 40, 3)
        )
        cv2.imwrite(str(folder / 'img' / f'{index}.png'), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / 'ann' / f'{index}.png'), labels)


def loader(data: Path, train: bool, workers: int = 0) -> dict:
    """Return a data loader with mmseg's usual pipeline."""
    augment = (
        [
            dict(type='RandomCrop', crop_size=(32, 32)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
        ]
        if train
        else []
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        *augment,
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(data),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        pipeline=pipeline,
        metainfo=dict(classes=CLASSES, palette=[[160, 60, 60], [60, 200, 50], [40, 120, 200]]),
    )
    sampler = dict(type='InfiniteSampler' if train else 'DefaultSampler', shuffle=train)
    return dict(
        batch_size=2,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=sampler,
        dataset=dataset,
    )


def model_of(critic: bool = True, student: dict | None = None, **changes: Any) -> dict:
    """Return a Distiller of three classes, with all three losses of Structured KD."""
    terms = objectives(holistic=holistic()) if critic else objectives()
    return (
        distiller(
            student=dict(model=student or segmentor(4, num_classes=3, size=32)),
            objectives=terms,
            teacher=dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True),
        )
        | changes
    )


def run_config(
    folder: Path,
    model: dict | None = None,
    workers: int = 0,
    max_iters: int = 4,
    interval: int = 2,
    keep: int = -1,
    val_interval: int = 2,
    name: str = 'run',
    **changes: Any,
) -> Config:
    """Return the config of a run in ``folder/name`` on the images of ``folder/data``, written there
    if need be.
    """
    data = folder / 'data'
    if not data.exists():
        write_images(data)
    cfg = Config.fromfile(ROOT / 'configs/_base_/runtime.py')
    cfg.merge_from_dict(
        dict(
            work_dir=str(folder / name),
            log_level='ERROR',
            experiment_name=f'{name}_{next(_RUNS)}',
            model=model or model_of(),
            train_dataloader=loader(data, True, workers),
            val_dataloader=loader(data, False),
            test_dataloader=loader(data, False),
            val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            train_cfg=dict(
                type='IterBasedTrainLoop', max_iters=max_iters, val_interval=val_interval
            ),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                constructor='mmkd.PhaseOptimWrapperConstructor', student=SGD, critic=ADAM
            ),
            param_scheduler=[
                dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=8, by_epoch=False)
            ],
            visualizer=dict(
                name=f'{name}_{next(_RUNS)}'
            ),  # one of the same name would write into the first run's folder
            default_hooks=dict(
                logger=dict(interval=1),
                checkpoint=dict(interval=interval, max_keep_ckpts=keep, save_best=None),
            ),
            env_cfg=dict(cudnn_benchmark=False),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def train(cfg: Config, resume: bool = False) -> Runner:
    """Train as mmkd train does."""
    cfg.resume = resume
    runner = launch.build_runner(prepare_config(cfg))
    launch.train(runner)
    return runner
