"""From a config file to a Runner: what tools/train.py, tools/test.py and tools/doctor.py share."""
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd.checks import nearest


def load_config(path: str, cfg_options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config file or ``pkg::path``, override settings, choose the work dir.

    Raises:
        FileNotFoundError: The file is not there; names the nearest one.
    """
    if '::' not in path and not os.path.isfile(path):
        folder = Path(path).parent
        near = nearest(Path(path).name, [p.name for p in folder.glob('*.py')]) if folder.is_dir() else ''
        raise FileNotFoundError(f'config {path!r} is not there{near}')
    cfg = get_config(path) if '::' in path else Config.fromfile(path)
    cfg.merge_from_dict(cfg_options or {})
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path.split('::')[-1]).stem)
    return cfg


def prepare_config(cfg: Config, launcher: str = 'none', amp: bool = False) -> Config:
    """Settle what depends on the run: precision, schedulers by optimizer name, the distributed wrapper, SyncBN.

    Args:
        cfg: The config, changed in place.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        amp: Mixed precision for every optimizer.

    Raises:
        KeyError: ``param_scheduler`` names an optimizer that is not there.
    """
    cfg.launcher = launcher
    optimizers = [k for k, v in cfg.get('optim_wrapper', {}).items() if isinstance(v, dict) and 'optimizer' in v]
    if amp:
        _set_amp(cfg, optimizers)
    _check_schedulers(cfg, optimizers)
    if launcher != 'none':
        _distribute(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the Runner that the config asks for."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def has_gpu() -> bool:
    """Return whether training will run on an accelerator."""
    return get_device() not in ('cpu', 'mps')


def _set_amp(cfg: Config, optimizers: list[str]) -> None:
    for wrapper in [cfg.optim_wrapper[name] for name in optimizers] or [cfg.optim_wrapper]:
        if has_gpu():
            wrapper.type = 'AmpOptimWrapper'
            wrapper.setdefault('loss_scale', 'dynamic')
        else:
            # mmengine's AmpOptimWrapper asserts on a CPU.
            wrapper.type = 'mmkd.Bf16OptimWrapper'
            wrapper.pop('loss_scale', None)
            wrapper.pop('dtype', None)


def _check_schedulers(cfg: Config, optimizers: list[str]) -> None:
    """Complete ``param_scheduler`` given by optimizer name: mmengine dies where one is missing."""
    schedulers = cfg.get('param_scheduler')
    if not isinstance(schedulers, dict) or 'type' in schedulers:
        return
    for name in schedulers:
        if name not in optimizers:
            raise KeyError(f'param_scheduler names the optimizer {name!r}{nearest(name, optimizers)} '
                           f'(optim_wrapper has {optimizers})')
    used = _used_optimizers(cfg, optimizers)
    if len(used) == 1:  # the constructor returns a plain wrapper, whose schedulers are a list
        own = schedulers.get(used[0], [])
        cfg.param_scheduler = own if isinstance(own, list) else [own]
        return
    for name in used:
        schedulers.setdefault(name, [])  # a constant learning rate
    for name in set(schedulers) - set(used):
        schedulers.pop(name)


def _used_optimizers(cfg: Config, optimizers: list[str]) -> list[str]:
    phases = cfg.model.get('phases')
    if phases:
        return [phase['optimizer'] for phase in phases]
    critics = any('critic' in o['loss'] or 'Adversarial' in str(o['loss'].get('type'))
                  for o in cfg.model.get('objectives', {}).values())
    return ['student', 'critic'] if critics else ['student'] if 'student' in optimizers else optimizers[:1]


def _distribute(cfg: Config) -> None:
    distils = str(cfg.model.get('type')).split('.')[-1] == 'Distiller'
    several = len(_used_optimizers(cfg, [])) > 1 if distils else False
    if distils and cfg.get('model_wrapper_cfg') is None and (several or not has_gpu()):
        cfg.model_wrapper_cfg = dict(type='mmkd.PhasedDDP')
    if not has_gpu():
        cfg.env_cfg.setdefault('dist_cfg', dict())['backend'] = 'gloo'
