"""What one rank of two does, for the tests of runs that resume."""

import json
from itertools import islice
from pathlib import Path

import torch
from helpers.tiny_run import Line, Numbers, loader, make_runner, segmentation_runner

DISTRIBUTED = dict(
    launcher='pytorch',
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
        )
    ),
)


def numbers(value: torch.Tensor) -> list[float]:
    return value.detach().double().flatten().tolist()


def work(rank: int, folder: Path, data: Path) -> None:
    """Train whole and resumed; write what both ended with into ``rank{rank}.json``."""
    whole = segmentation_runner(folder / 'whole', data, num_workers=1, **DISTRIBUTED)
    model = whole.train().module
    resumed = segmentation_runner(
        folder / 'resumed',
        data,
        num_workers=1,
        resume=True,
        load_from=str(folder / 'whole' / 'iter_4.pth'),
        **DISTRIBUTED,
    )
    again = resumed.train().module
    checkpoint = dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1)
    line = make_runner(
        folder / 'line',
        checkpoint,
        model=Line(),
        train_dataloader=loader(Numbers(5), batch_size=1),
        custom_hooks=[dict(type='mmkd.ExactResumeHook')],
        **DISTRIBUTED,
    )
    found = dict(
        whole=numbers(model.body[0].weight),
        resumed=numbers(again.body[0].weight),
        taken=[index for index, _ in islice(whole.train_dataloader.sampler, 7)],
        line=numbers(line.train().module.weight),
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
