"""Exported students, loaded where there is no mmkd."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

CODE = """
import sys
sys.modules['mmkd'] = None  # an import of it fails
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

config, weights, images, out = sys.argv[1:]
cfg = Config.fromfile(config)
init_default_scope(cfg.default_scope)
__import__(f'{cfg.default_scope}.models')
model = MODELS.build(cfg.model)
load_checkpoint(model, weights, map_location='cpu', strict=True)
with torch.no_grad():
    seen = model.eval()(torch.load(images), mode='tensor')
torch.save(seen[-1] if isinstance(seen, (list, tuple)) else seen, out)
"""


def load_and_run(config: Path, weights: Path, images: Tensor, folder: Path) -> Tensor:
    """Return what an exported student makes of preprocessed images, in a process without mmkd."""
    torch.save(images, folder / 'images.pth')
    command = [sys.executable, '-c', CODE, str(config), str(weights)]
    paths = [str(folder / 'images.pth'), str(folder / 'seen.pth')]
    run = subprocess.run([*command, *paths], capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    return torch.load(folder / 'seen.pth')
