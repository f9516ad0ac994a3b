"""From a config file to a Runner: what tools/train.py, tools/test.py and tools/doctor.py share."""

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger, print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd.apis.cli import CfgOptions, common_flags
from mmkd.apis.settings import check_groups, check_settings, check_work_dir
from mmkd.compat import require_library
from mmkd.engine.optimizers.phase_constructor import check_schedule_names
from mmkd.registry import MODELS
from mmkd.utils.checkpoints import hand_over, load_checkpoint_file, state_dict_in
from mmkd.utils.config_file import read_config
from mmkd.utils.terminal import quieten

_SHARDS = ('FSDP', 'FullySharded', 'DeepSpeed', 'ColossalAI')


def run_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every run: mmengine's usual ones."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file, or pkg::path such as mmkd::structured_kd/….py')
    parser.add_argument(
        '--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: key=value …'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return common_flags(parser)


def parse_run(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; launchers of old pass the rank as a flag, mmengine reads it from the environment."""
    args = (
        parser.parse_intermixed_args()
    )  # a checkpoint that may be left out may also stand behind the flags
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(path: str, cfg_options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config file or ``pkg::path``, override settings, choose the work dir.

    Raises:
        FileNotFoundError: The file is not there; names the nearest one.
        ValueError: It is no config that runs; the work dir has no name.
    """
    cfg = read_config(path)
    cfg.merge_from_dict(cfg_options or {})
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path.split('::')[-1]).stem)
    check_work_dir(cfg.work_dir)
    return cfg


def prepare_config(cfg: Config, launcher: str = 'none', amp: bool = False) -> Config:
    """Check the settings and settle what depends on the run: precision, the distributed wrapper, SyncBN.

    Args:
        cfg: The config, changed in place.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        amp: Mixed precision for every optimizer.

    Raises:
        ImportError: The config's scope is a library that does not import.
        KeyError: ``param_scheduler`` names an optimizer that is not there.
        ValueError: A length, interval or size that makes no run; a launcher that needs GPUs where
            there is none; a strategy or wrapper that shards weights.
    """
    check_settings(cfg)
    cfg.launcher = launcher
    scope = cfg.get('default_scope') or ''
    whole = scope == 'mmdet' and is_distiller(
        cfg
    )  # its members and data sets, whatever the Distiller is
    require_library(
        scope,
        None if whole else (cfg.get('model') or {}).get('type'),
        f'{cfg.filename or "the config"}',
    )
    _refuse_sharding(cfg)
    if amp:
        _set_amp(cfg)
    check_schedule_names(cfg.get('param_scheduler'), _named_optimizers(cfg))
    if launcher != 'none':
        _distribute(cfg)
    return cfg


class _QuietRunner(Runner):
    """A Runner that keeps pages of settings from the terminal; it logs them while it is built."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        quieten(logger)
        return logger


def build_runner(cfg: Config, verbose: bool = True) -> Runner:
    """Build the Runner that the config asks for.

    Args:
        cfg: The config.
        verbose: Whether the terminal shows all that the log file holds.

    Raises:
        KeyError: The config has no model.
        ValueError: It sets a part of what training, validation or test needs.
    """
    check_groups(cfg)
    if 'runner_type' not in cfg:
        return (Runner if verbose else _QuietRunner).from_cfg(cfg)
    runner = RUNNERS.build(cfg)
    if not verbose:
        quieten(runner.logger)
    return runner


def log_batch_size(runner: Runner) -> None:
    """Log the effective batch, and warn where it is not the one that the recipe's learning rate was chosen for.

    Raises:
        KeyError: The config says nothing of training.
    """
    if runner.cfg.get('train_dataloader') is None:
        raise KeyError(
            "the config has no 'train_dataloader', 'train_cfg' and 'optim_wrapper', so nothing "
            'can be '
            'trained'
        )
    batch = runner.cfg.train_dataloader.batch_size * runner.world_size
    runner.logger.info(
        f'effective batch: {batch // runner.world_size} x {runner.world_size} = {batch}'
    )
    scale = runner.cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size', batch)
    if batch != base and not scale.get('enable'):
        runner.logger.warning(
            f'the recipe was made for a batch of {base}, this run has {batch}: published numbers '
            f'will not be reached. Mend: --auto-scale-lr (learning rate x {batch / base:g}), or '
            f'train_dataloader.batch_size={max(1, base // runner.world_size)}'
        )


def leave_process_group() -> None:
    """End a distributed run; gloo's threads abort a process that exits before, after its work was done."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def is_distiller(cfg: Config) -> bool:
    """Return whether the config's model is a Distiller."""
    return _model_name(cfg) == 'Distiller'


def is_ensemble(cfg: Config) -> bool:
    """Return whether the config's model is an Ensemble, whose members name their own checkpoints."""
    return _model_name(cfg) == 'Ensemble'


def check_checkpoint(cfg: Config, path: str) -> None:
    """Refuse a checkpoint of another kind of model: mmengine only logs missing keys, and would test random weights.

    Raises:
        ValueError: A plain checkpoint for a Distiller, or the reverse.
        FileNotFoundError: No such checkpoint.
    """
    content = load_checkpoint_file(path)
    state = state_dict_in(content, path)
    hand_over(path, content)  # mmengine would open the file once more
    if is_distiller(cfg) and not any(key.startswith('students.') for key in state):
        raise ValueError(
            f'{path} holds no students: it is the checkpoint of a plain model, but the config is '
            "a Distiller's. Mend: test it by its own config (config.py beside an exported student)"
        )
    if not is_distiller(cfg) and any(key.startswith('students.') for key in state):
        raise ValueError(
            f"{path} is the checkpoint of a Distiller, but the config is a plain model's. Mend: "
            f'test it '
            "by the Distiller's config, or export the student first: tools/export_student.py"
        )


def wrapper_configs(optim_wrapper: Any) -> list[Any]:
    """Return the configs of all optimizers, whether they have names or there is one alone.

    >>> wrapper_configs(dict(constructor='x', student=dict(optimizer=1), critic=dict(optimizer=2)))
    [{'optimizer': 1}, {'optimizer': 2}]
    """
    return [v for v in optim_wrapper.values() if isinstance(v, dict) and 'optimizer' in v] or [
        optim_wrapper
    ]


def has_gpu() -> bool:
    """Return whether training will run on an accelerator."""
    return get_device() not in ('cpu', 'mps')


def _model_name(cfg: Config) -> str:
    kind = (cfg.get('model') or {}).get('type', '')
    return (kind if isinstance(kind, str) else kind.__name__).split('.')[-1]


def _set_amp(cfg: Config) -> None:
    if cfg.get('optim_wrapper') is None:
        raise KeyError(
            "--amp sets the precision of optimizers, but the config has no 'optim_wrapper'"
        )
    for wrapper in wrapper_configs(cfg.optim_wrapper):
        if has_gpu():
            wrapper.type = 'AmpOptimWrapper'
            wrapper.setdefault('loss_scale', 'dynamic')
        else:
            # mmengine's AmpOptimWrapper asserts on a CPU.
            wrapper.type = 'mmkd.Bf16OptimWrapper'
            wrapper.pop('loss_scale', None)
            wrapper.pop('dtype', None)


def _named_optimizers(cfg: Config) -> list[str]:
    return [
        k
        for k, v in (cfg.get('optim_wrapper') or {}).items()
        if isinstance(v, dict) and 'optimizer' in v
    ]


def _used_optimizers(cfg: Config) -> list[str]:
    phases = cfg.model.get('phases')
    if phases:
        return [phase['optimizer'] for phase in phases]
    critics = any(
        _has_critic(o.get('loss', {})) for o in (cfg.model.get('objectives') or {}).values()
    )
    return ['student', 'critic'] if critics else ['student']


def _has_critic(loss: dict) -> bool:
    kind = loss.get('type')
    return hasattr(MODELS.get(kind) if isinstance(kind, str) else kind, 'critic_loss')


def _refuse_sharding(cfg: Config) -> None:
    """Refuse what of mmengine cuts weights into pieces, before it would do so to the wrong ones."""
    wrapper = cfg.get('optim_wrapper') or {}
    parts = {f'optim_wrapper.{name}': one for name, one in wrapper.items() if isinstance(one, dict)}
    asked = {
        'strategy': cfg.get('strategy'),
        'model_wrapper_cfg': cfg.get('model_wrapper_cfg'),
        'optim_wrapper': wrapper,
        **parts,
    }
    for what, part in asked.items():
        kind = str((part or {}).get('type', ''))
        if not is_distiller(cfg) or not any(name in kind for name in _SHARDS):
            continue
        raise ValueError(
            f'{what}=dict(type={kind!r}): teachers are outside the module tree, so that no '
            f'checkpoint, optimizer or '
            'EMA holds them, and what shards the tree would cut up the small student and leave '
            'every rank '
            'a whole teacher; nor can it step several optimizers from one forward. Mend: '
            'teacher=dict(…, precision='
            "'bf16'), which halves it, with --launcher pytorch; a teacher that does not fit a "
            'device even so is not '
            'served'
        )


def _distribute(cfg: Config) -> None:
    distils = is_distiller(cfg)
    several = distils and len(_used_optimizers(cfg)) > 1
    if distils and cfg.get('model_wrapper_cfg') is None and (several or not has_gpu()):
        cfg.model_wrapper_cfg = dict(type='mmkd.PhasedDDP')
    if has_gpu():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs GPUs. Mend: torchrun … --launcher pytorch also runs '
            f'on CPUs'
        )
    if not distils:
        # mmengine's wrapper names a device, and SyncBN cannot run on a CPU; PhasedDDP sees to both
        # for a Distiller.
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
        )
        print_log('SyncBN cannot run on a CPU, so it is reverted to BN', logger='current')
        _revert_sync_bn(cfg.model)
    if not dist.is_initialized():  # mmengine would ask for a GPU first
        seconds = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
        try:
            dist.init_process_group(
                'gloo', timeout=None if seconds is None else timedelta(seconds=seconds)
            )
        except ValueError as error:
            if 'environment variable' not in str(error):
                raise
            raise ValueError(
                f'--launcher pytorch, but nothing launched this process: {error}. Mend: torchrun '
                '--nproc_per_node=N tools/train.py CONFIG --launcher pytorch'
            ) from error


def _revert_sync_bn(node: Any) -> None:
    if isinstance(node, dict) and node.get('type') == 'SyncBN':
        node['type'] = 'BN'
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    ):
        _revert_sync_bn(child)
