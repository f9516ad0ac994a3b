"""How a member is written: a config path, ``pkg::path``, a Config, a model dict or a model."""

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmkd.utils.checks import check_dict, nearest
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import is_stored
from mmkd.utils.plain_values import with_plain_values

# whose default_scope a member written inline belongs to
TASK_SCOPES = ('mmseg', 'mmdet', 'mmpretrain')


def name_members(role: str, one: Any, many: dict[str, Any] | None) -> dict[str, Any]:
    """Return name -> value of ``student=`` or ``students=`` (``teacher=`` or ``teachers=``).

    Raises:
        ValueError: Both are given, or there is no student.
    """
    check_dict(f'{role}s', many, f'{role}s=dict(a=dict(cfg=…), b=dict(cfg=…)), each under a name')
    if one is not None and many is not None:
        raise ValueError(f'give {role}= (one member) or {role}s= (named members), not both')
    named = {role: one} if one is not None else dict(many or {})
    if role == 'student' and not named:
        raise ValueError('a Distiller needs student= or students=')
    return named


def as_dict(value: Any, where: str) -> dict:
    """Return any way to write a member as ``dict(cfg=…, …)`` or ``dict(model=…, …)``.

    Raises:
        TypeError: The value is none of them.
    """
    if isinstance(value, Config | str | Path):
        return dict(cfg=value)
    if isinstance(value, nn.Module):
        return dict(model=value)
    if isinstance(value, dict):
        return dict(model=value) if 'type' in value else dict(value)
    raise TypeError(
        f'{where} must be dict(cfg=…) or dict(model=…), a config path, a Config or a model, got '
        f'{type(value).__name__}'
    )


def network_of(value: dict, where: str) -> dict:
    """Return a member that can be run: of a stored teacher the live one that ``verify`` gives.

    Args:
        value: How the member is written.
        where: How errors call it.

    Raises:
        ValueError: A stored teacher without one.

    >>> network_of(dict(kind='stored', path='a', verify=dict(cfg='b.py')), 'teacher')
    {'cfg': 'b.py'}
    """
    if not is_stored(value):
        return value
    if value.get('verify') is None:
        raise ValueError(
            f'{where} is stored in {value.get("path")!r}: there is no network that could be run or '
            'tested here. Mend: verify=dict(cfg=…, checkpoint=…) beside path, or the config of the '
            'live teacher'
        )
    live = as_dict(value['verify'], where)
    taps = {**(value.get('taps') or {}), **(live.get('taps') or {})}
    return {**live, 'taps': taps} if taps else live


def read_member_config(value: dict, where: str) -> Config | None:
    """Return the config that a member comes from, with its ``cfg_options``; None for a built model.

    Args:
        value: ``dict(cfg=…)`` or ``dict(model=…)``.
        where: How errors call the member.

    Raises:
        FileNotFoundError: The config is not there.
        ValueError: It has no model; options for a model that is built already.
        KeyError: An option that would add a key.
    """
    source, options = value.get('cfg'), value.get('cfg_options')
    if source is None and isinstance(value['model'], dict):
        source = dict(model=value['model'])
    if source is None:
        if options:
            raise ValueError(
                f'{where}: cfg_options change a config, but the model is built already'
            )
        return None
    if isinstance(source, str | Path):
        cfg = _config_from_path(str(source), where)
    else:
        given = source._cfg_dict if isinstance(source, Config) else ConfigDict(source)
        cfg = with_plain_values(Config(copy.deepcopy(given)))
    if 'model' not in cfg:
        raise ValueError(
            f"{where}: the config has no 'model' (it has {sorted(cfg.keys())[:8]}). Mend: "
            'dict(model=dict(...)) for a bare model dict'
        )
    for key, new in (options or {}).items():
        _check_option(cfg, key, new, where)
    cfg.merge_from_dict(dict(options or {}))
    if cfg.get('data_preprocessor') is not None and isinstance(cfg.model, dict):
        # mmengine's Runner hands it to the model too; mmpretrain's configs have it nowhere else
        cfg.model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return cfg


def _config_from_path(path: str, where: str) -> Config:
    try:
        return read_config(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'{where}: {error}') from error


def _check_option(cfg: Config, key: str, new: Any, where: str) -> None:
    """Refuse an option that would add a key: mmengine adds it, and nothing reads it."""
    if isinstance(new, dict) and not {'_delete_', 'type'} & set(new):
        for inner, value in new.items():
            _check_option(cfg, f'{key}.{inner}', value, where)
        return
    node: Any = cfg._cfg_dict
    done = ''
    for part in key.split('.'):
        keys = _keys_of(node)
        if part not in keys:
            raise KeyError(
                f"{where}: cfg_options['{key}'] changes nothing: "
                f'{done.rstrip(".") or "the config"} has no {part!r}'
                f'{nearest(part, keys, otherwise=".")} Options '
                "are relative to the whole config, for instance 'model.backbone.depth'"
            )
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        done += part + '.'


def _keys_of(node: Any) -> list[str]:
    if isinstance(node, list | tuple):
        return [str(i) for i in range(len(node))]
    return list(node) if isinstance(node, dict) else []


def scope_of(value: dict, cfg: Config | None, model: Any) -> str:
    """Return the scope of a member: its config's, the one given, its type's, the running one."""
    own = cfg.get('default_scope') if cfg is not None else None
    kind = model.get('type') if isinstance(model, dict) else None
    # two dots: a path to a class that is registered nowhere
    prefix = kind.split('.')[0] if isinstance(kind, str) and kind.count('.') == 1 else None
    running = DefaultScope.get_current_instance()
    known = running is not None and running.scope_name in TASK_SCOPES
    return own or value.get('scope') or prefix or (running.scope_name if known else 'mmseg')
