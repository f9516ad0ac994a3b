"""Checkpoints that a run starts from or is tested by: mmengine only logs what does not fit, and goes on."""

from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

from mmkd.apis.settings import optim_wrappers
from mmkd.utils.checkpoints import (
    hand_over,
    latest_checkpoint,
    listed,
    load_checkpoint_file,
    state_dict_in,
)
from mmkd.utils.work_dir import newest_checkpoint

SHOWN = 3  # names of weights in a message
_OTHER = 'Mend: the config that it was trained by; or a checkpoint of this model'


def check_start(runner: Runner) -> None:
    """Refuse a checkpoint that training cannot start from: of ``--resume``, or of ``load_from``.

    Raises:
        ValueError: It holds other weights than the model has, or no run that could go on.
    """
    path = runner._load_from
    if runner._resume and path is None:  # of another folder (out_dir), the hook finds it
        folder = Path(runner.work_dir)
        path = (
            latest_checkpoint(folder)
            or newest_checkpoint(folder, 'iter_{}.pth')
            or newest_checkpoint(folder, 'epoch_{}.pth')
        )
    if not path:
        return
    content = load_checkpoint_file(path)
    hand_over(path, content)
    missing, other, total = _compare(runner, content, path)
    if runner._resume:
        _check_run(runner, content, path)
        _refuse(f'{path} cannot be resumed by this config', [*missing, *other])
    elif 2 * (len(missing) + len(other)) > total:
        _refuse(f'load_from={path!r} holds less than half of this model', [*missing, *other])
    elif missing or other:
        runner.logger.warning(
            f'load_from={path!r} leaves {len(missing) + len(other)} of {total} weights of this '
            f'model '
            f'as they were drawn: {listed([*missing, *other], SHOWN)}'
        )


def check_tested(runner: Runner) -> None:
    """Refuse to test by a checkpoint that leaves weights of the model as they were drawn.

    An auxiliary head predicts nothing, so it may be missing, and so may what a Distiller's
    objectives hold.

    Raises:
        ValueError: Names what is missing or of another shape.
    """
    path = runner._load_from
    if path:
        content = load_checkpoint_file(path)
        hand_over(path, content)
        missing, other, _ = _compare(runner, content, path)
        kept = [name for name in (*missing, *other) if 'auxiliary_head' not in name]
        _refuse(
            f'{path} does not fit the model of this config, which would be tested with random '
            f'weights',
            kept,
        )


def _compare(runner: Runner, content: Any, path: str) -> tuple[list[str], list[str], int]:
    """Return which weights of the students, or of a plain model, are missing or of another shape, and how many are."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    own = model.state_dict()
    students = [name for name in own if name.startswith('students.')]
    own = {name: own[name] for name in students or own if not name.endswith('num_batches_tracked')}
    given = {
        name.removeprefix('module.'): value for name, value in state_dict_in(content, path).items()
    }
    missing = [name for name in own if name not in given]
    other = [
        f'{name} {tuple(given[name].shape)}, the model has {tuple(value.shape)}'
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    return missing, other, len(own)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        raise ValueError(
            f'{what}: {len(names)} weights are missing or of another shape: '
            f'{listed(names, SHOWN)}. {_OTHER}'
        )


def _check_run(runner: Runner, content: Any, path: str) -> None:
    """Refuse weights without a run, with the critics of objectives that are gone, and states of another optimizer."""
    absent = [key for key in ('meta', 'message_hub', 'optimizer') if key not in content]
    if absent:
        raise ValueError(
            f'{path} holds weights but no run ({", ".join(absent)} missing), so it cannot be '
            f'resumed. '
            'Mend: without --resume, load_from begins a run with these weights'
        )
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    kinds = [
        {key.split('.')[1] for key in state if key.startswith('objectives.')}
        for state in (state_dict_in(content, path), model.state_dict())
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f'{path} cannot be resumed by this config: it holds weights of the objectives '
            f'{sorted(kinds[0])}, the model of {sorted(kinds[1])}. {_OTHER}'
        )
    for name, wrapper in optim_wrappers(runner.cfg):
        saved = content['optimizer']
        saved = (
            saved if 'param_groups' in saved else saved.get(name.removeprefix('optim_wrapper.'), {})
        )
        _check_optimizer(path, name, wrapper.get('optimizer'), saved.get('param_groups') or [])


def _check_optimizer(path: str, name: str, optimizer: Any, groups: list[dict]) -> None:
    kind = OPTIMIZERS.get(optimizer['type']) if isinstance(optimizer, dict) and groups else None
    if kind is not None:
        known = {
            'params',
            'lr',
            'initial_lr',
            'param_names',
            'decoupled_weight_decay',
            *signature(kind).parameters,
        }
        foreign = sorted(set(groups[0]) - known)
        if foreign:
            raise ValueError(
                f'{path} cannot be resumed by this config: {name} is {optimizer["type"]}, which '
                f'has no '
                f'{", ".join(foreign)}, as the optimizer had that wrote it. {_OTHER}'
            )
