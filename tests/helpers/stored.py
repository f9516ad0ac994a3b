"""Small runs whose teacher was stored, for the tests of mmkd store and of what reads it."""

import copy
from pathlib import Path
from typing import Any

from helpers.runs import SGD, model_of, run_config
from mmengine.config import Config

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.apis.store import store
from mmkd.utils.stored.manifest import Manifest
from mmkd.utils.stored.precision import Precision

PLAIN = dict(_delete_=True, **SGD)


def config(folder: Path, name: str, model: dict | None = None, **changes: Any) -> Config:
    """Return a run of four iterations of a student of three classes under one live teacher."""
    model = copy.deepcopy(model) if model else model_of(critic=False)
    changes = dict(optim_wrapper=copy.deepcopy(PLAIN), val_interval=99, interval=2) | changes
    return run_config(folder, model, name=name, **changes)


def reading(folder: Path, name: str, stored: Path, **changes: Any) -> Config:
    """Return the same run, its teacher read from a folder."""
    model = changes.pop('model', None) or model_of(critic=False)
    verify = changes.pop('verify', None)
    teacher = dict(kind='stored', path=str(stored)) | (dict(verify=verify) if verify else {})
    return config(folder, name, {**model, 'teacher': teacher}, **changes)


def store_of(cfg: Config, out: Path, dtype: str = 'fp32', **options: Any) -> Manifest:
    """Store as mmkd store does; what it says is kept from the terminal, unless asked for."""
    options.setdefault('tell', lambda text: None)
    precision = Precision(dtype, options.pop('top_k', None))
    return store(build_runner(prepare_config(cfg)), out, precision, **options)
