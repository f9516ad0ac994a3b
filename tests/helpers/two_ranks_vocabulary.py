"""One rank of a two-process gloo run with VocabularyHook: ``python two_ranks_vocabulary.py RANK
FOLDER``.
"""

import json
import os
import sys
from pathlib import Path

import torch
from helpers.vocabularies import config
from mmengine.runner import Runner
from yapf.yapflib import yapf_api

from mmkd.apis.prepare import prepare_config
from mmkd.losses.quest.hook import VocabularyHook

yapf_api.FormatCode = lambda text, **kwargs: (
    text,
    True,
)  # the formatter takes longer than this training


def numbers(value: torch.Tensor) -> list[float]:
    return value.detach().double().flatten().tolist()


def main(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    runner = Runner.from_cfg(
        prepare_config(config(folder, name='two', max_iters=2, val_interval=9), 'pytorch')
    )
    runner.train()
    loss = runner.model.module.objectives['deep'].loss
    hook = next(hook for hook in runner.hooks if isinstance(hook, VocabularyHook))
    print(
        json.dumps(
            dict(
                fits=len(hook.reports),
                buffers=[numbers(b) for b in loss.vocabulary.buffers()],
                predictor=numbers(loss.predictor.weight),
            )
        )
    )
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), Path(sys.argv[2]))
