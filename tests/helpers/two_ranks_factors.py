"""What one rank of two does with a FitHook and factor transfer."""

import json
from pathlib import Path
from typing import Any

import torch
from helpers.runs import model_of, run_config
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.apis.prepare import prepare_config
from mmkd.losses.fitted.hook import FitHook


def config(folder: Path, **changes: Any) -> Config:
    """Return a run of factor transfer."""
    loss = dict(type='FactorTransferLoss', epochs=3)
    model = model_of(critic=False, objectives=dict(ft=dict(loss=loss, on='feat')))
    cfg = run_config(folder, model, **changes)
    cfg.custom_hooks = cfg.custom_hooks + [dict(type='mmkd.FitHook')]
    return cfg


def numbers(value: torch.Tensor) -> list[float]:
    return value.detach().double().flatten().tolist()


def work(rank: int, folder: Path) -> None:
    """Train; write what was fitted, and how often, into ``rank{rank}.json``."""
    cfg = config(folder, name='two', max_iters=2, val_interval=9)
    runner = Runner.from_cfg(prepare_config(cfg, 'pytorch'))
    runner.train()
    loss = runner.model.module.objectives['ft'].loss
    hook = next(hook for hook in runner.hooks if type(hook) is FitHook)
    found = dict(
        fits=len(hook.reports),
        buffers=[numbers(b) for b in loss.paraphraser.buffers()],
        translator=[numbers(p) for p in loss.translator.parameters()],
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
