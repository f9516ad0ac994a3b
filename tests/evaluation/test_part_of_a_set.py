"""A perfect detector is perfect on any part of a set, and stays so where the set is whole."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.runs import need_mmdet
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

from mmkd.apis.robustness import robustness
from mmkd.engine.hooks import TeacherCheckHook
from mmkd.structures.batch import Batch

IMAGES = 10


class Perfect(BaseModel):
    """Finds the box that is on every image."""

    def __init__(self) -> None:
        super().__init__(dict(type='BaseDataPreprocessor'))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor, data_samples: list, mode: str = 'tensor') -> list:
        for sample in data_samples:
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[1.0, 1.0, 6.0, 6.0]]),
                scores=torch.tensor([0.9]),
                labels=torch.tensor([0]),
            )
        return data_samples


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    need_mmdet()
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

    for k in range(IMAGES):
        cv2.imwrite(str(tmp_path / f'{k}.png'), np.zeros((8, 8, 3), np.uint8))
    images = [dict(id=k, file_name=f'{k}.png', width=8, height=8) for k in range(IMAGES)]
    box = dict(category_id=1, bbox=[1, 1, 5, 5], area=25, iscrowd=0)
    annotations = [dict(box, id=k + 1, image_id=k) for k in range(IMAGES)]
    file = tmp_path / 'boxes.json'
    file.write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='a')]))
    )
    dataset = dict(
        type='CocoDataset',
        ann_file=str(file),
        data_prefix=dict(img=f'{tmp_path}/'),
        metainfo=dict(classes=('a',)),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape')),
        ],
    )
    return Config(
        dict(
            default_scope='mmdet',
            work_dir=str(tmp_path / 'run'),
            log_level='ERROR',
            test_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dataset,
            ),
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(type='CocoMetric', metric='bbox', ann_file=str(file)),
        )
    )


def runner_of(cfg: Config) -> Runner:
    settings = {key: cfg[key] for key in ('test_dataloader', 'test_cfg', 'test_evaluator')}
    return Runner(
        Perfect(),
        cfg.work_dir,
        **settings,
        cfg=cfg,
        default_scope='mmdet',
        log_level='ERROR',
        experiment_name=Path(cfg.work_dir).parent.name,
    )


@pytest.mark.parametrize('images', [None, 3])
def test_robustness_on_a_part_of_a_set(cfg: Config, images: int | None) -> None:
    found = dict(robustness(runner_of(cfg), ['contrast'], images=images))
    assert found['clean']['coco/bbox_mAP'] == pytest.approx(1.0)
    assert found['contrast']['coco/bbox_mAP'] == pytest.approx(1.0)


def test_a_teacher_on_a_part_of_a_set(cfg: Config) -> None:
    loop = runner_of(cfg).test_loop
    run = SimpleNamespace(
        model=Perfect(),
        prepare=lambda batch: batch.inputs,
        samples=lambda batch: batch.data_samples,
    )

    def preprocess(data: dict, training: bool) -> dict[str, Any]:
        return dict(data, inputs=torch.stack(data['inputs']).float())

    model = SimpleNamespace(runs=dict(t=run), data_preprocessor=preprocess)
    found = TeacherCheckHook(1)._evaluate(SimpleNamespace(val_loop=loop), model, 't')  # type: ignore[arg-type]
    assert found['coco/bbox_mAP'] == pytest.approx(1.0)
    # the run's own evaluator counts the whole set: what does not run is not found
    first = next(iter(loop.dataloader))
    samples = Perfect()(torch.zeros(1), Batch(torch.zeros(1), first['data_samples']).data_samples)
    loop.evaluator.process(samples, first)
    assert loop.evaluator.evaluate(2)['coco/bbox_mAP'] < 0.3
