"""Small real runs of mmengine's Runner for the tests of hooks."""

import random
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.models import SegDataPreProcessor
from torch import nn

_RUNS = count()


class Line(BaseModel):
    """One weight and one unused buffer; ``losses`` overrides what a step returns, by iteration."""

    def __init__(self, losses: dict[int, Any] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer('mask', torch.tensor([0.0, float('-inf')]))
        self.losses = losses or {}
        self.steps = 0

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode != 'loss':
            return [torch.zeros(())] if mode == 'predict' else self.weight * inputs
        loss = (self.weight * inputs - 2).square().mean()
        self.steps += 1
        extra = self.losses.get(self.steps, {})
        return {'decode.loss_ce': loss, **(extra(self.weight) if callable(extra) else extra)}


class Script(BaseMetric):
    """Reports ``scores[n]`` at its n-th evaluation; several names get shifted scores."""

    def __init__(self, scores: list[float], names: tuple[str, ...] = ('mIoU',)) -> None:
        super().__init__()
        self.scores, self.names, self.calls = scores, names, 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.calls += 1
        return {
            name: self.scores[(self.calls - 1 + shift) % len(self.scores)]
            for shift, name in enumerate(self.names)
        }


class Numbers(torch.utils.data.Dataset):
    """x = 0 … size − 1 with noise, as (inputs,) batches."""

    def __init__(self, size: int = 6) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(inputs=torch.tensor([1.0 + index]))


def loader(
    dataset: Any,
    batch_size: int = 2,
    num_workers: int = 0,
    shuffle: bool = True,
    sampler: str = 'InfiniteSampler',
    **kwargs: Any,
) -> dict:
    return dict(
        dataset=dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=dict(type=sampler, shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
        **kwargs,
    )


def make_runner(
    work_dir: Path,
    checkpoint: dict | None = None,
    max_iters: int = 6,
    val_interval: int = 0,
    train_cfg: dict | None = None,
    metric: BaseMetric | None = None,
    **kwargs: Any,
) -> Runner:
    """Return a Runner on ``Line`` and ``Numbers``; keywords override its arguments."""
    arguments: dict[str, Any] = dict(
        model=kwargs.pop('model', None) or Line(),
        work_dir=str(work_dir),
        train_dataloader=kwargs.pop('train_dataloader', None) or loader(Numbers()),
        train_cfg=train_cfg
        or dict(by_epoch=False, max_iters=max_iters, val_interval=val_interval or 10**6),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_scope='mmseg',
        log_level='ERROR',
        experiment_name=f'run_{next(_RUNS)}',
        randomness=dict(seed=0),
        default_hooks=dict(
            checkpoint=checkpoint, logger=dict(type='LoggerHook', log_metric_by_epoch=False)
        ),
    )
    if metric is not None:
        arguments.update(
            val_dataloader=loader(Numbers(2), shuffle=False, sampler='DefaultSampler'),
            val_cfg=dict(),
            val_evaluator=Evaluator([metric]),
        )
    arguments.update(kwargs)
    return Runner(**arguments)


class Noisy:
    """Draws from all three generators, as mmseg's and mmcv's transforms do."""

    def __call__(self, results: dict) -> dict:
        scale = 1 + 0.1 * random.random() + 0.1 * torch.rand(()).item() + 0.1 * np.random.rand()
        results['img'] = (results['img'] * scale).astype(np.float32)
        return results


class Segmentor(BaseModel):
    """Convolution, BatchNorm, dropout, convolution; draws random numbers in validation too."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=SegDataPreProcessor(size=(16, 16), bgr_to_rgb=True))
        generator = torch.Generator().manual_seed(7)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(4, 3, 1),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        logits = self.body(inputs / 255)
        if mode == 'loss':
            labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
            return {
                'decode.loss_ce': nn.functional.cross_entropy(
                    logits, labels.long(), ignore_index=255
                )
            }
        torch.rand(5), random.random(), np.random.rand()
        return [logits]


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(24, 24), ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(16, 16), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    Noisy(),
    dict(type='PackSegInputs'),
]


def segmentation_data(folder: Path, size: int = 7) -> Path:
    """Write ``size`` images and label maps of random squares."""
    rng = np.random.default_rng(0)
    for sub in ('img', 'ann'):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for index in range(size):
        image, labels = rng.integers(0, 255, (24, 24, 3), np.uint8), np.zeros((24, 24), np.uint8)
        labels[index : index + 12, 6:18] = 1 + index % 2
        cv2.imwrite(str(folder / 'img' / f'{index}.png'), image)
        cv2.imwrite(str(folder / 'ann' / f'{index}.png'), labels)
    return folder


def segmentation_set(folder: Path) -> BaseSegDataset:
    return DATASETS.build(
        dict(
            type='BaseSegDataset',
            _scope_='mmseg',
            data_root=str(folder),
            img_suffix='.png',
            seg_map_suffix='.png',
            data_prefix=dict(img_path='img', seg_map_path='ann'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=PIPELINE,
        )
    )


def segmentation_runner(
    work_dir: Path, data: Path, num_workers: int = 0, max_iters: int = 8, **kwargs: Any
) -> Runner:
    """Return a Runner on ``Segmentor`` and a real mmseg data set, with momentum, PolyLR and a
    validation.
    """
    dataset = segmentation_set(data)
    listed = dict(type='pseudo_collate')
    train = dict(
        loader(dataset, 2, num_workers, persistent_workers=num_workers > 0), collate_fn=listed
    )
    kwargs.setdefault(
        'custom_hooks', [dict(type='mmkd.ExactResumeHook'), dict(type='mmkd.NaNStopHook')]
    )
    return make_runner(
        work_dir,
        dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=4),
        max_iters,
        val_interval=2,
        model=Segmentor(),
        train_dataloader=train,
        metric=Script([1.0]),
        param_scheduler=[
            dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)
        ],
        optim_wrapper=kwargs.pop(
            'optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
        ),
        val_dataloader=dict(
            loader(dataset, 2, shuffle=False, sampler='DefaultSampler'), collate_fn=listed
        ),
        **kwargs,
    )
