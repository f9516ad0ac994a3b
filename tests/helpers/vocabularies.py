"""Runs whose objectives have a vocabulary."""

from pathlib import Path
from typing import Any

from helpers.runs import model_of, run_config
from mmengine.config import Config

WORDS = 6

TAPS = dict(feat='decode_head.bottleneck', early='backbone[0]', later='backbone[1]')


def quest(on: str = 'feat', **changes: Any) -> dict:
    """Return an objective with a vocabulary."""
    loss = dict(type='AssignmentKLLoss', num_words=WORDS, tau='auto', target_perplexity=2.0)
    return dict(loss=loss, on=on, **changes)


def config(
    folder: Path, objectives: dict | None = None, hook: dict | None = None, **changes: Any
) -> Config:
    """Return a run with VocabularyHook; ``deep`` is the objective unless others are given."""
    model = model_of(critic=False, taps=TAPS, objectives=objectives or dict(deep=quest()))
    cfg = run_config(folder, model, **changes)
    cfg.custom_hooks = without_hook(cfg) + [dict(type='mmkd.VocabularyHook', **(hook or {}))]
    return cfg


def without_hook(cfg: Config) -> list[dict]:
    return [hook for hook in cfg.custom_hooks if 'Vocabulary' not in hook.type]
