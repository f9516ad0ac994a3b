"""What one rank of two does with weights of classes, which are counted over all ranks."""

import json
from pathlib import Path

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.structures.batch import Batch
from mmkd.where import ClassBalance


def labels() -> Tensor:
    """Return label maps, one a rank, of other frequencies."""
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randint(0, k, (4, 4), generator=generator) for k in (2, 3))
    first[0] = 255
    return torch.stack([first, second])


def work(rank: int, folder: Path) -> None:
    """Write the weights of this rank's image into ``rank{rank}.json``."""
    own = labels()[rank]
    sample = SegDataSample(gt_sem_seg=PixelData(data=own[None]))
    weight = ClassBalance()(Batch(torch.zeros(1, 3, 4, 4), [sample]), torch.zeros(1, 3, 4, 4))
    (folder / f'rank{rank}.json').write_text(json.dumps(weight.flatten().tolist()))
