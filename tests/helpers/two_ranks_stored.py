"""What one rank of two does with a stored teacher."""

import json
from pathlib import Path

import torch
from helpers.stored import config, reading
from mmengine.runner import Runner

from mmkd.apis.prepare import prepare_config
from mmkd.apis.store import store
from mmkd.utils.stored.precision import Precision


def weights(runner: Runner) -> list[float]:
    found = runner.train().module.students.parameters()
    return torch.cat([one.detach().double().flatten() for one in found]).tolist()


def work(rank: int, folder: Path) -> None:
    """Train under the live teacher, store, and train under what was stored."""
    live = Runner.from_cfg(prepare_config(config(folder, 'live'), 'pytorch'))
    found = dict(live=weights(live))
    again = Runner.from_cfg(prepare_config(config(folder, 'store'), 'pytorch'))
    manifest = store(again, folder / 'out', Precision('fp32'), tell=lambda text: None)
    cfg = prepare_config(reading(folder, 'stored', folder / 'out'), 'pytorch')
    found |= dict(stored=weights(Runner.from_cfg(cfg)), world=manifest.run['world_size'])
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
