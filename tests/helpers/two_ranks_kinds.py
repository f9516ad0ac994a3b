"""What one rank of two does with copies of a student: each sees other images."""

import json
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import batch, build, distiller, segmentor, sgd

from mmkd.engine.runner import PhasedDDP


def config(**teachers: dict) -> dict:
    """Return a Distiller of a student and of teachers that are made of it."""
    return distiller(
        student=dict(model=segmentor(2, num_classes=3, size=32, auxiliary=False)),
        teacher=None,
        teachers=teachers,
        taps=dict(logits='decode_head.conv_seg'),
        objectives={
            name: dict(
                loss=dict(type='PixelWiseKLLoss'),
                reads=dict(student='student.logits', teacher=f'{name}.logits'),
            )
            for name in teachers
        },
    )


KINDS = dict(
    ema=dict(kind='ema', of='student', momentum=0.5),
    mean=dict(kind='ema', of='student', momentum=0.5, buffers='mean'),
    past=dict(kind='past', of='student', steps=1),
)


def weights(run: Any) -> list[float]:
    """Return all parameters and buffers of a copy."""
    return torch.cat([x.double().flatten() for x in run.model.state_dict().values()]).tolist()


def work(rank: int, folder: Path) -> None:
    """Train on images of this rank's own; write every copy into ``rank{rank}.json``."""
    torch.manual_seed(rank)
    model = build(config(**KINDS))
    wrapped = PhasedDDP(model)
    wrapper = sgd(model, lr=0.1)
    for step in range(3):
        wrapped.train_step(batch(2, 32, 3, seed=10 * step + rank), wrapper)
    found = {name: weights(model.runs[name]) for name in KINDS}
    own = model.student.backbone.layer1[0].bn1.running_mean.tolist()
    (folder / f'rank{rank}.json').write_text(json.dumps(dict(found, own=own)))
