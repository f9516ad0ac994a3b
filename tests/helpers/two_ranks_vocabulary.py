"""What one rank of two does with a VocabularyHook."""

import json
from pathlib import Path

import torch
from helpers.vocabularies import config
from mmengine.runner import Runner

from mmkd.apis.prepare import prepare_config
from mmkd.losses.quest.hook import VocabularyHook


def numbers(value: torch.Tensor) -> list[float]:
    return value.detach().double().flatten().tolist()


def work(rank: int, folder: Path) -> None:
    """Train; write what was fitted, and how often, into ``rank{rank}.json``."""
    runner = Runner.from_cfg(
        prepare_config(config(folder, name='two', max_iters=2, val_interval=9), 'pytorch')
    )
    runner.train()
    loss = runner.model.module.objectives['deep'].loss
    hook = next(hook for hook in runner.hooks if isinstance(hook, VocabularyHook))
    found = dict(
        fits=len(hook.reports),
        buffers=[numbers(b) for b in loss.vocabulary.buffers()],
        predictor=numbers(loss.predictor.weight),
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
