"""Checkpoints that a run starts from or is tested by.

mmengine only logs what does not fit, and goes on with random weights.
"""

from collections.abc import Iterable
from inspect import signature
from itertools import chain
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from mmkd.apis.prepare import is_distiller, is_ensemble
from mmkd.apis.settings import optim_wrappers, wrapper_key
from mmkd.utils.checkpoints import (
    hand_over,
    listed,
    load_checkpoint_file,
    state_dict_in,
)
from mmkd.utils.unwrap import unwrap
from mmkd.utils.work_dir import newest_of_run

# of a group of parameters, whatever the optimizer
# 'momentum' is what a schedule of it writes, of Adam too
_GROUP_KEYS = {'params', 'lr', 'initial_lr', 'param_names', 'decoupled_weight_decay', 'momentum'}
SHOWN = 3  # names of weights in a message
_OTHER = 'Mend: the config that it was trained by; or a checkpoint of this model'


def check_start(runner: Runner) -> None:
    """Refuse a checkpoint that training cannot start from: of ``--resume``, or of ``load_from``.

    Raises:
        ValueError: It holds other weights than the model has, or no run that could go on.
    """
    path = runner._load_from
    if runner._resume and path is None:  # of another folder (out_dir), the hook finds it
        path = newest_of_run(runner.work_dir)
    if not path:
        return
    content = load_checkpoint_file(path)
    hand_over(path, content)
    if runner._resume:
        missing, other, _ = _compare(runner.model, content, path)
        _check_run(runner, content, path)
        _refuse(f'{path} cannot be resumed by this config', [*missing, *other])
        return
    left = left_as_drawn(runner.model, content, path)
    if left is not None:
        runner.logger.warning(left)


def left_as_drawn(model: nn.Module, content: Any, path: str) -> str | None:
    """Return what to say of weights that ``load_from`` leaves as they were drawn; None: of none.

    Raises:
        ValueError: It holds less than half of this model.
    """
    missing, other, total = _compare(model, content, path)
    left = [*missing, *other]
    if 2 * len(left) > total:
        _refuse(f'load_from={path!r} holds less than half of this model', left)
    if not left:
        return None
    return (
        f'load_from={path!r} leaves {len(left)} of {total} weights of this model as they were '
        f'drawn: {listed(left, SHOWN)}'
    )


def check_checkpoint(cfg: Config, path: str) -> None:
    """Refuse a checkpoint of another kind of model.

    Raises:
        ValueError: A plain checkpoint for a Distiller, or the reverse.
        FileNotFoundError: No such checkpoint.
    """
    content = load_checkpoint_file(path)
    state = state_dict_in(content, path)
    hand_over(path, content)  # mmengine would open the file once more
    if is_distiller(cfg) and not any(key.startswith('students.') for key in state):
        raise ValueError(
            f'{path} holds no students: it is the checkpoint of a plain model, but the config is a '
            "Distiller's. Mend: test it by its own config (config.py beside an exported student)"
        )
    if not is_distiller(cfg) and any(key.startswith('students.') for key in state):
        raise ValueError(
            f"{path} is the checkpoint of a Distiller, but the config is a plain model's. Mend: "
            "test it by the Distiller's config, or export the student first: "
            'mmkd export'
        )


def check_given_checkpoint(cfg: Config, path: str | None) -> None:
    """Refuse a test without a checkpoint, or with one that the config has no place for.

    Raises:
        SystemExit: There is none, or the model is an Ensemble, whose members name their own.
        ValueError: As of :func:`check_checkpoint`.
    """
    if is_ensemble(cfg) != (path is None):
        raise SystemExit(
            'a test needs a checkpoint. Mend: mmkd test CONFIG CHECKPOINT'
            if path is None
            else f"an mmkd.Ensemble's members name their own checkpoints. Mend: leave out {path}"
        )
    if path is not None:
        check_checkpoint(cfg, path)


def check_tested(runner: Runner) -> None:
    """Refuse to test by a checkpoint that leaves weights of the model as they were drawn.

    An auxiliary head predicts nothing, so it may be missing, and so may what a Distiller's
    objectives hold.

    Raises:
        ValueError: Names what is missing or of another shape.
    """
    path = runner._load_from
    if not path:
        return
    content = load_checkpoint_file(path)
    hand_over(path, content)
    missing, other, _ = _compare(runner.model, content, path)
    needed = [name for name in (*missing, *other) if 'auxiliary_head' not in name]
    _refuse(
        f'{path} does not fit the model of this config, which would be tested with random weights',
        needed,
    )


def _compare(model: nn.Module, content: Any, path: str) -> tuple[list[str], list[str], int]:
    """Compare the weights of the students, or of a plain model.

    Returns:
        Those that are missing, those of another shape, and how many weights there are.
    """
    own = unwrap(model).state_dict()
    students = [name for name in own if name.startswith('students.')]
    own = {name: own[name] for name in students or own if not name.endswith('num_batches_tracked')}
    saved = state_dict_in(content, path)
    given = {name.removeprefix('module.'): value for name, value in saved.items()}
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
    """Refuse weights without a run, of other objectives, or with states of another optimizer."""
    absent = [key for key in ('meta', 'message_hub', 'optimizer') if key not in content]
    if absent:
        raise ValueError(
            f'{path} holds weights but no run ({", ".join(absent)} missing), so it cannot be '
            'resumed. Mend: without --resume, load_from begins a run with these weights'
        )
    saved, own = map(_objectives, (state_dict_in(content, path), unwrap(runner.model).state_dict()))
    if saved != own:
        raise ValueError(
            f'{path} cannot be resumed by this config: it holds weights of the objectives '
            f'{sorted(saved)}, the model of {sorted(own)}. {_OTHER}'
        )
    states, wrappers = content['optimizer'], dict(optim_wrappers(runner.cfg.get('optim_wrapper')))
    if 'param_groups' in states and 'student' in wrappers:  # a critic's is left out where none is
        wrappers = dict(student=wrappers['student'])
    for name, wrapper in wrappers.items():
        state = states if 'param_groups' in states else states.get(name, {})
        _check_optimizer(
            path, wrapper_key(name), wrapper.get('optimizer'), state.get('param_groups') or []
        )


def _objectives(state: Iterable[str]) -> set[str]:
    return {key.split('.')[1] for key in state if key.startswith('objectives.')}


def _check_optimizer(path: str, key: str, optimizer: Any, groups: list[dict]) -> None:
    kind = OPTIMIZERS.get(optimizer['type']) if isinstance(optimizer, dict) and groups else None
    if kind is None:
        return
    kinds = OPTIMIZERS.module_dict.values()
    settings = chain.from_iterable(signature(one).parameters for one in kinds)
    # what is no optimizer's is a constructor's: lr_mult of paramwise_cfg, lr_scale of layer decay
    noted = set(groups[0]) & set(settings)
    foreign = sorted(noted - _GROUP_KEYS - _settings_of(kind, optimizer))
    if foreign:
        raise ValueError(
            f'{path} cannot be resumed by this config: {key} is {optimizer["type"]}, which has no '
            f'{", ".join(foreign)}, as the optimizer had that wrote it. {_OTHER}'
        )


def _settings_of(kind: Any, optimizer: dict) -> set[str]:
    """Return what an optimizer notes of itself: its arguments alone would not be all of it."""
    options = {key: value for key, value in optimizer.items() if key != 'type'}
    try:
        made = kind([nn.Parameter(torch.zeros(1, 1))], **options)
    except Exception:  # it says why where it is built
        return set(signature(kind).parameters)
    return set(made.param_groups[0]) | set(signature(kind).parameters)
