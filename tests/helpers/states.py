"""States of runs, compared bit by bit."""

from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor


def checkpoint(runner: Runner, name: str) -> dict:
    return torch.load(Path(runner.work_dir) / name, weights_only=False)


def differences(one: Any, other: Any, path: str = '') -> list[str]:
    """Return where two nested states differ in a single bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        return [d for key in one for d in differences(one[key], other[key], f'{path}.{key}')]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), path
        return [
            d
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for d in differences(a, b, f'{path}[{i}]')
        ]
    return [] if one == other else [path]
