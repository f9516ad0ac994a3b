"""What a config needs before a run: its settings checked, and what depends on the run settled."""

import copy
import logging
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from mmkd.apis.length import follow_length
from mmkd.apis.methods import expand_config
from mmkd.apis.settings import accumulation, check_settings, optim_wrappers
from mmkd.compat import require_library
from mmkd.distiller.members.reading import as_dict, read_member_config
from mmkd.engine.optimizers.phase_constructor import check_schedule_names
from mmkd.registry import KINDS, MODELS
from mmkd.utils.kinds import bare_name, is_made, is_stored
from mmkd.utils.plain_values import with_plain_values

_SHARDS = ('FSDP', 'FullySharded', 'DeepSpeed', 'ColossalAI')


def prepare_config(cfg: Config, launcher: str = 'none', amp: bool = False) -> Config:
    """Check the settings; settle what depends on the run: method, length, precision, distribution.

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
    with_plain_values(cfg)
    check_settings(cfg)
    expand_config(cfg)
    follow_length(cfg)
    _log_by_iterations(cfg)
    _keep_preprocessor(cfg)
    _refuse_wrong_scaling(cfg)
    _lead_teachers(cfg)
    cfg.launcher = launcher
    _require_scope(cfg)
    _refuse_sharding(cfg)
    if amp:
        set_amp(cfg)
    names = [name for name, _ in optim_wrappers(cfg.get('optim_wrapper')) if name]
    check_schedule_names(cfg.get('param_scheduler'), names)
    if launcher != 'none':
        _distribute(cfg)
    return cfg


def is_distiller(cfg: Config) -> bool:
    """Return whether the config's model is a Distiller."""
    return _model_name(cfg) == 'Distiller'


def is_ensemble(cfg: Config) -> bool:
    """Return whether the model is an Ensemble, whose members name their own checkpoints."""
    return _model_name(cfg) == 'Ensemble'


def has_gpu() -> bool:
    """Return whether training will run on an accelerator."""
    return get_device() not in ('cpu', 'mps')


def scale_learning_rate(cfg: Config) -> None:
    """Have mmengine scale the learning rate by the batch size.

    Raises:
        SystemExit: The config does not say what batch its learning rate is for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise SystemExit(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config'
        )
    cfg.auto_scale_lr.enable = True


def _refuse_wrong_scaling(cfg: Config) -> None:
    """Refuse to have mmengine scale a learning rate whose gradients are added up."""
    counts = accumulation(cfg.get('optim_wrapper'))
    if (cfg.get('auto_scale_lr') or {}).get('enable') and counts > 1:
        raise ValueError(
            '--auto-scale-lr, or auto_scale_lr=dict(enable=True), counts no accumulation of '
            f'gradients, and optim_wrapper has accumulative_counts={counts}: the learning rate '
            f'would be {counts} times too small. Mend: without it; the log says by what the '
            'learning rate of the config should change'
        )


def draw_into(cfg: Config, folder: str) -> None:
    """Have a test save pictures of the predictions.

    Raises:
        SystemExit: The config has no hook that draws.
    """
    if not (cfg.get('default_hooks') or {}).get('visualization'):
        raise SystemExit(
            '--show-dir draws label maps, but this config has no default_hooks.visualization: its '
            'model predicts none'
        )
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    cfg.visualizer = dict(
        type=(cfg.get('visualizer') or {}).get('type', 'SegLocalVisualizer'),
        vis_backends=[dict(type='LocalVisBackend')],
        save_dir=folder,
        name=f'show in {folder}',
    )


def _model_name(cfg: Config) -> str:
    return bare_name((cfg.get('model') or {}).get('type'))


def _log_by_iterations(cfg: Config) -> None:
    """Have a run by iterations log its validations by them: by epochs all of them were at 0."""
    if (cfg.get('train_cfg') or {}).get('max_iters') is None:
        return
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    if 'logger' not in cfg.default_hooks:
        cfg.default_hooks.logger = dict(type='LoggerHook')
    hook = cfg.default_hooks.logger
    if not isinstance(hook, dict):  # none, or built already
        return
    kind = hook.get('type', '')
    name = kind if isinstance(kind, str) else kind.__name__
    if name.rpartition('.')[-1] == 'LoggerHook':
        hook.setdefault('log_metric_by_epoch', False)


def hand_down_preprocessor(cfg: Config) -> None:
    """Give the model the ``data_preprocessor`` at the top of the config, as mmengine's Runner does.

    Args:
        cfg: The config, changed in place.
    """
    _keep_preprocessor(cfg)
    given, model = cfg.get('data_preprocessor'), cfg.get('model')
    if given is not None and isinstance(model, dict) and model.get('data_preprocessor') is None:
        model['data_preprocessor'] = copy.deepcopy(given)


def _keep_preprocessor(cfg: Config) -> None:
    """Have a Distiller see the pixels that its student sees alone.

    mmengine's Runner hands ``data_preprocessor`` of the config to a model that has none, which a
    student has, and its Distiller had not.
    """
    given = cfg.get('data_preprocessor')
    if not is_distiller(cfg) or given is None or cfg.model.get('data_preprocessor') is not None:
        return
    students = cfg.model.get('students') or dict(student=cfg.model.get('student'))
    name, first = next(iter(students.items()))
    if first is None:  # which the Distiller says
        return
    read = read_member_config(as_dict(first, name), name)
    own = None if read is None else read.model.get('data_preprocessor')
    if own is None:
        return
    cfg.model.data_preprocessor = own
    apart = sorted(key for key in {*own, *given} if own.get(key) != given.get(key))
    if apart:
        print_log(
            f"mmkd: the data_preprocessor is that of {name}'s model; the config's own differs in "
            f'{", ".join(apart)} and serves no one. Mend: model=dict(data_preprocessor=dict(…)) '
            'of the Distiller, where it is meant',
            logger='current',
            level=logging.WARNING,
        )


def _teachers(cfg: Config) -> list[Any]:
    """Return the teachers of a Distiller as they are written."""
    model = (cfg.get('model') or {}) if is_distiller(cfg) else {}
    several = model.get('teachers')
    return [model.get('teacher'), *(several.values() if isinstance(several, dict) else ())]


def _lead_teachers(cfg: Config) -> None:
    """Have hooks tell stored teachers which iteration it is, and let images come again."""
    teachers = _teachers(cfg)
    wanted = {
        'StoredTeacherHook': any(map(is_stored, teachers)),
        'LastBatchHook': any(map(_recalls, teachers)),
    }
    for name in [name for name, asked in wanted.items() if asked]:
        hooks = list(cfg.get('custom_hooks') or [])
        if not any(bare_name(_type_of(hook)) == name for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type=f'mmkd.{name}')]


def _recalls(teacher: Any) -> bool:
    """Return whether a teacher says again what a student said in the step before."""
    if not is_made(teacher):
        return False
    kind = teacher['kind']
    made = KINDS.get(kind) if isinstance(kind, str) else kind
    return bool(getattr(made, 'recalls', False))


def _type_of(hook: Any) -> Any:
    return hook.get('type') if isinstance(hook, dict) else type(hook)


def _require_scope(cfg: Config) -> None:
    scope = cfg.get('default_scope') or ''
    # of a detector's Distiller: its members and data sets, whatever the Distiller itself is
    whole = scope == 'mmdet' and is_distiller(cfg)
    kind = None if whole else (cfg.get('model') or {}).get('type')
    require_library(scope, kind, f'{cfg.filename or "the config"}')


def set_amp(cfg: Config) -> None:
    """Give every optimizer mixed precision: bfloat16 on a CPU, which needs no scaled loss.

    Args:
        cfg: The config, changed in place.

    Raises:
        KeyError: It has no optimizer.
    """
    if cfg.get('optim_wrapper') is None:
        raise KeyError(
            "--amp sets the precision of optimizers, but the config has no 'optim_wrapper'"
        )
    for _, wrapper in optim_wrappers(cfg.optim_wrapper):
        if has_gpu():
            wrapper.type = 'AmpOptimWrapper'
            wrapper.setdefault('loss_scale', 'dynamic')
        else:
            # mmengine's AmpOptimWrapper asserts on a CPU.
            wrapper.type = 'mmkd.Bf16OptimWrapper'
            wrapper.pop('loss_scale', None)
            wrapper.pop('dtype', None)


def _refuse_sharding(cfg: Config) -> None:
    """Refuse what of mmengine cuts weights into pieces, before it would do so to the wrong ones."""
    wrapper = cfg.get('optim_wrapper') or {}
    asked = {key: cfg.get(key) for key in ('strategy', 'model_wrapper_cfg', 'optim_wrapper')}
    asked |= {f'optim_wrapper.{key}': one for key, one in wrapper.items() if isinstance(one, dict)}
    for what, part in asked.items():
        kind = str((part or {}).get('type', ''))
        if is_distiller(cfg) and any(name in kind for name in _SHARDS):
            raise ValueError(
                f'{what}=dict(type={kind!r}): teachers are outside the module tree, so that no '
                'checkpoint, optimizer or EMA holds them, and what shards the tree would cut up '
                'the small student and leave every rank a whole teacher; nor can it step several '
                "optimizers from one forward. Mend: teacher=dict(…, precision='bf16'), which "
                'halves it, with --launcher pytorch; a teacher that does not fit a device even so '
                'is not served'
            )


def _distribute(cfg: Config) -> None:
    """Choose what wraps the model, and where there is no GPU start the processes' group."""
    distils = is_distiller(cfg)
    several = distils and len(_used_optimizers(cfg)) > 1
    # copies of students follow by the Distiller's own step, which mmengine's wrapper goes round
    several = several or any(map(is_made, _teachers(cfg)))
    if distils and cfg.get('model_wrapper_cfg') is None and (several or not has_gpu()):
        cfg.model_wrapper_cfg = dict(type='mmkd.PhasedDDP')
    if has_gpu():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs GPUs. Mend: torchrun … --launcher pytorch also runs '
            'on CPUs'
        )
    if not distils:
        _wrap_plain_model_on_cpu(cfg)
    if not dist.is_initialized():  # mmengine would ask for a GPU first
        _init_gloo(((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout'))


def _used_optimizers(cfg: Config) -> list[str]:
    phases = cfg.model.get('phases')
    if phases:
        return [phase['optimizer'] for phase in phases]
    losses = [one.get('loss', {}) for one in (cfg.model.get('objectives') or {}).values()]
    return ['student', 'critic'] if any(map(_has_critic, losses)) else ['student']


def _has_critic(loss: dict) -> bool:
    kind = loss.get('type')
    made = MODELS.get(kind) if isinstance(kind, str) else kind
    return getattr(made, 'critic_loss', None) is not None  # of the class: nothing is built yet


def _wrap_plain_model_on_cpu(cfg: Config) -> None:
    """Name no device and no SyncBN, as mmengine would; PhasedDDP sees to both for a Distiller."""
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
    )
    print_log('SyncBN cannot run on a CPU, so it is reverted to BN', logger='current')
    _revert_sync_bn(cfg.model)


def _revert_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if str(node.get('type')).rpartition('.')[-1] in ('SyncBN', 'SyncBatchNorm'):
            node['type'] = 'BN'
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        _revert_sync_bn(child)


def _init_gloo(seconds: float | None) -> None:
    timeout = None if seconds is None else timedelta(seconds=seconds)
    try:
        dist.init_process_group('gloo', timeout=timeout)
    except ValueError as error:
        if 'environment variable' not in str(error):
            raise
        raise ValueError(
            f'--launcher pytorch, but nothing launched this process: {error}. Mend: torchrun '
            '--nproc_per_node=N -m mmkd train CONFIG --launcher pytorch'
        ) from error
