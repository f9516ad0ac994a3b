"""One rank of a two-process gloo run: ``python two_ranks.py RANK FOLDER DATA``; prints what it
ended with as JSON.
"""

import json
import os
import sys
from itertools import islice
from pathlib import Path

import torch
from helpers.tiny_run import Line, Numbers, loader, make_runner, segmentation_runner

import mmkd  # noqa: F401  registers every component

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


def main(rank: int, folder: Path, data: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
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
    print(
        json.dumps(
            dict(
                whole=numbers(model.body[0].weight),
                resumed=numbers(again.body[0].weight),
                taken=[index for index, _ in islice(whole.train_dataloader.sampler, 7)],
                line=numbers(line.train().module.weight),
            )
        )
    )
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
