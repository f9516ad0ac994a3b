"""What one rank of two does with memories of the joined batch."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd.losses import MemoryContrastLoss, QueueContrastLoss

STEPS, CLASSES = 4, 3


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return student, teacher and labels of both ranks, two images each.

    A class that only one of them sees, and a step in which the second has no label at all.
    """
    generator = torch.Generator().manual_seed(step)
    student, teacher = torch.randn(2, 4, 5, 3, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(CLASSES, (4, 3, 4), generator=generator)
    labels[2:][labels[2:] == 2] = 0
    if step == 1:
        labels[2:] = 255
    return student, teacher, labels


def losses() -> dict[str, Any]:
    """Return losses that draw nothing: of every class more is pushed than there is."""
    torch.manual_seed(0)
    memory = MemoryContrastLoss(CLASSES, 5, pixels=150, regions=5, push=12, pixel_keys=600, tau=0.3)
    queue = QueueContrastLoss(9, 0.3, 'nce', embed=4, student_channels=5, teacher_channels=5)
    return dict(memory=memory.double(), queue=queue.double(), kl=queue_of_teachers())


def queue_of_teachers() -> QueueContrastLoss:
    return QueueContrastLoss(9, 0.3, 'kl', teacher_channels=5).double()


def run(images: slice) -> dict[str, Any]:
    """Return values step by step, and all rings in the end."""
    found: dict[str, Any] = {}
    for name, loss in losses().items():
        values = []
        for step in range(STEPS):
            student, teacher, labels = (x[images] for x in batch(step))
            own = dict(memory=dict(labels=labels), queue=dict(labels=labels[:, 0, 0])).get(name, {})
            values.append(loss(student, teacher, **own).item())
        rings = {key: x.tolist() for key, x in loss.state_dict().items() if 'layer' not in key}
        found[name] = dict(values=values, rings=rings)
    return found


def work(rank: int, folder: Path) -> None:
    """Write them of this rank's half into ``rank{rank}.json``."""
    found = run(slice(2 * rank, 2 * rank + 2))
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
