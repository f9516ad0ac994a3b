"""Checks of what surrounds the model: names of settings, seed, schedule, batch size, disk."""

import copy
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS, VISBACKENDS, VISUALIZERS

from mmkd.apis.doctor.report import Report
from mmkd.apis.length import follow_length
from mmkd.apis.prepare import prepare_config
from mmkd.apis.settings import accumulation, check_groups, rate_for
from mmkd.engine.hooks.length_check import ENDING
from mmkd.utils.explain import explain
from mmkd.utils.kinds import bare_name

NEEDED = ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg')
# back-end of mmengine → what it imports when a run begins to write
LIBRARIES = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}


def check_run(cfg: Config, report: Report) -> None:
    """Check the settings of a run and table them."""
    for key in NEEDED:
        if cfg.get(key) is None:
            report.error(f'the config has no {key!r}, so nothing can be trained')
    _check_seed(cfg, report)
    _check_hooks(cfg, report)
    try:
        prepare_config(copy.deepcopy(cfg))
        if all(cfg.get(key) is not None for key in NEEDED):
            check_groups(cfg)
    except Exception as error:
        report.error(error)
    iterations = (cfg.get('train_cfg') or {}).get('max_iters')
    _check_schedule(cfg, iterations, report)
    batch, counts, base = _batch(cfg)
    whole = batch * counts if isinstance(batch, int) else 0  # else a loader says what is wrong
    scaled = (cfg.get('auto_scale_lr') or {}).get('enable')
    if base and whole not in (0, base) and not scaled:
        many = f' on {base // whole} devices, or' if base % whole == 0 else ''
        report.warn(
            f'the learning rate is meant for a batch of {base}, one device sees {whole}. '
            f'Mend: train{many} with {rate_for(whole, base, counts)}'
        )
    report.table(
        'run',
        ('setting', 'value'),
        [
            ('batch size of a device', batch),
            ('gradient accumulation', counts),
            ('effective batch size on one device', whole),
            ('batch size of the recipe', base or 'not said'),
            ('iterations', iterations or '–'),
            ('seed', (cfg.get('randomness') or {}).get('seed')),
        ],
    )


def check_disk(cfg: Config, checkpoint: int, report: Report) -> None:
    """Warn where the checkpoints that a run keeps, of so many bytes, do not fit on the disk."""
    cfg = follow_length(copy.deepcopy(cfg))
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    loop, kept = cfg.get('train_cfg') or {}, hook.get('max_keep_ckpts', -1)
    length = loop.get('max_epochs' if hook.get('by_epoch', True) else 'max_iters') or 0
    interval = hook.get('interval', -1)  # −1: the last alone
    saved = length // interval if interval > 0 else 1
    files = (min(kept, saved) if kept > 0 else saved) + 2  # the best, and one being written
    folder = Path(cfg.get('work_dir') or '.').absolute()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if files * checkpoint > free:
        report.warn(
            f'{files} checkpoints of {checkpoint / 2**20:.0f} MiB need '
            f'{files * checkpoint / 2**30:.1f} GiB, but {folder} has {free / 2**30:.1f} GiB free. '
            'Mend: default_hooks.checkpoint.max_keep_ckpts'
        )


def _check_seed(cfg: Config, report: Report) -> None:
    if (cfg.get('randomness') or {}).get('seed') is not None:
        return
    text = (
        'no seed is set, so a run can be neither repeated nor resumed exactly. Mend: '
        'randomness=dict(seed=0)'
    )
    if any('ExactResumeHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or []):
        report.error(f'{text} (ExactResumeHook will not start without one)')
    else:
        report.warn(text)


def _check_hooks(cfg: Config, report: Report) -> None:
    """Build every hook: a misspelt keyword is found here, and not when the hook is first asked."""
    named = cfg.get('default_hooks') or {}
    _make_visualizer(cfg, report)
    for where, hook in [*named.items(), *enumerate(cfg.get('custom_hooks') or [])]:
        try:
            if isinstance(hook, dict) and 'type' in hook:
                HOOKS.build({key: value for key, value in hook.items() if key != 'priority'})
        except Exception as error:
            which = f'default_hooks.{where}' if where in named else f'custom_hooks[{where}]'
            report.error(f'{which}: {explain(error)}')


def _make_visualizer(cfg: Config, report: Report) -> None:
    """Make the visualizer, as a Runner does before its hooks: some take the current one."""
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    if not isinstance(visualizer, dict):
        return
    try:  # without back-ends, which would write files
        VISUALIZERS.build({**visualizer, 'name': f'doctor_{id(cfg)}', 'vis_backends': None})
    except Exception as error:
        report.error(f'visualizer: {explain(error)}')
    backends = visualizer.get('vis_backends') or []
    for number, backend in enumerate([backends] if isinstance(backends, dict) else backends):
        if isinstance(backend, dict):
            _check_backend(f'visualizer.vis_backends[{number}]', backend, report)


def _check_backend(where: str, backend: dict, report: Report) -> None:
    library = LIBRARIES.get(bare_name(backend.get('type')))
    if library and find_spec(library) is None:
        report.error(f'{where} writes by {library}, which is missing. Mend: pip install {library}')
    try:  # writes nothing before it is asked to
        own = {key: value for key, value in backend.items() if key != 'name'}
        VISBACKENDS.build({'save_dir': '', **own})
    except Exception as error:
        report.error(f'{where}: {explain(error)}')


def _check_schedule(cfg: Config, iterations: int | None, report: Report) -> None:
    if not iterations:
        return
    schedulers: Any = cfg.get('param_scheduler') or []
    named = (
        schedulers.values()
        if isinstance(schedulers, dict) and 'type' not in schedulers
        else [schedulers]
    )
    for group in named:
        ends = [
            # one without an end goes on to that of the run
            (iterations if one.get('end') is None else one['end'], _ends_with_the_run(one))
            for one in (group if isinstance(group, list) else [group])
            if not one.get('by_epoch', True)
        ]
        last, shaped = max(ends, default=(iterations, False))
        if last > iterations or (last < iterations and shaped):
            report.warn(
                f'the learning rate is scheduled for {last} iterations, but training takes '
                f'{iterations}. Mend: one number for train_cfg.max_iters and the end of '
                'param_scheduler'
            )


def _ends_with_the_run(scheduler: dict) -> bool:
    """Return whether a schedule's shape is made for the whole run: not a warm-up, nor steps."""
    warm_up = 'Linear' in str(scheduler.get('type')) and scheduler.get('end_factor', 1.0) == 1.0
    return bool(ENDING.fullmatch(bare_name(scheduler.get('type')))) and not warm_up


def _batch(cfg: Config) -> tuple[int, int, int | None]:
    """Return batch size of a device, gradient accumulation, and the recipe's batch size."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    own = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    return own, accumulation(cfg.get('optim_wrapper')), base
