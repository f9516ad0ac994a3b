"""Members of an ensemble: one config, several seeds, one after the other."""

import sys
from collections.abc import Container, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmkd.apis.launch import build_runner, load_config, train
from mmkd.apis.length import LENGTHS, follow_length
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.apis.report import digits
from mmkd.apis.runs import (
    NoteBegin,
    begun_by,
    digest_of,
    digest_of_file,
    read_note,
    write_note,
)
from mmkd.utils.averages import spread
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.stored.facts import LOADER

# what decides on a member's weights, and of its loop what does not
_RECIPE = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'custom_hooks',
    'auto_scale_lr',
)
UNITS = dict(max_iters='iterations', max_epochs='epochs')  # of lengths
_VALIDATES = ('val_interval', 'val_begin', 'dynamic_intervals')
_TELLS = ('logger', 'timer', 'visualization', 'checkpoint')  # hooks that change no weights
# a member that is finished, and tested by the settings of now
_STATES = {
    (False, False): 'is trained',
    (True, False): 'is finished, and tested by the settings of now',
    (True, True): 'is finished already',
}
_TESTED_BY = ('model', 'data_preprocessor', 'custom_imports')


def member_config(
    path: str, seed: int, cfg_options: dict | None = None, work_dir: str | None = None
) -> Config:
    """Return the config of one member, in its own folder and under its own names.

    Args:
        path: The config of all members; this and the last two as of
            :func:`mmkd.apis.launch.load_config`.
        seed: The member's.
        cfg_options: Settings to override.
        work_dir: Folder of all members.

    Raises:
        SystemExit: The config is a Distiller's, or trains nothing.
    """
    cfg = follow_length(load_config(path, cfg_options, work_dir))
    if is_distiller(cfg):
        raise SystemExit(
            f"{path} is a Distiller's; members are plain models. Mend: give the config of the "
            'model alone'
        )
    if cfg.get('train_cfg') is None:
        raise SystemExit(f'{cfg.filename} has no train_cfg, so nothing can be trained')
    if ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir') is not None:
        raise SystemExit(
            f'{cfg.filename} keeps checkpoints elsewhere (default_hooks.checkpoint.out_dir), under '
            'the seed alone, where members of two ensembles would meet. Mend: leave out_dir out, '
            'and give --work-dir'
        )
    cfg.work_dir = str(Path(cfg.work_dir) / f'seed_{seed}')
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    # Loggers, message hubs and visualizers are shared by name in a process: members must not share
    # them.
    cfg.experiment_name = f'{Path(cfg.filename).stem}_seed_{seed}'
    (cfg.get('visualizer') or {}).pop('name', None)
    return cfg


def read_member(cfg: Config, amp: bool = False) -> dict[str, Any] | None:
    """Return what a finished member's note says; None where it is to be trained, or for longer.

    Args:
        cfg: As :func:`member_config` returns it.
        amp: Mixed precision.

    Raises:
        SystemExit: It was begun or trained by another recipe, or for longer, or the note is broken.
    """
    folder, recipe, length = Path(cfg.work_dir), _recipe(cfg, amp), _length(cfg)
    note = read_note(folder, ('checkpoint', 'length', 'settings', 'metrics'), 'member')
    if note is None:
        others = begun_by(folder) not in (None, _begin(cfg, amp))
        if others and (folder / 'last_checkpoint').is_file():
            raise SystemExit(_OTHERS.format(folder))
        return None
    if note['settings'] != recipe or set(note['length']) != set(length):
        raise SystemExit(_OTHERS.format(folder))
    if any(note['length'][key] > value for key, value in length.items()):
        raise SystemExit(
            f'{folder} holds a member of {_told(note["length"])}, longer than the {_told(length)} '
            'of the config now. Mend: another --work-dir, or remove that folder'
        )
    if note['length'] != length and _schedules_end(cfg):
        raise SystemExit(
            f'{folder} holds a finished member of {_told(note["length"])}, whose schedules ended '
            f'there: the rest of {_told(length)} would go on at their last values. Mend: another '
            '--work-dir, or remove that folder'
        )
    note['checkpoint'] = Path(note['checkpoint']).name  # of this folder, whatever the note says
    if note['length'] != length or not (folder / note['checkpoint']).is_file():
        return None
    return note


_OTHERS = (
    '{} holds a member of another model, data, optimizer, schedule, hook, starting weights or '
    'precision than the config has now. Mend: another --work-dir, or remove that folder'
)


def train_member(
    cfg: Config, launcher: str = 'none', amp: bool = False, verbose: bool = True
) -> dict[str, Any]:
    """Train one member, or the rest of it; test its last weights; note that it is finished.

    Args:
        cfg: As :func:`member_config` returns it.
        launcher: As of :func:`mmkd.apis.prepare.prepare_config`.
        amp: Mixed precision.
        verbose: Whether the terminal shows all that the log file holds.

    Returns:
        The note: its checkpoint, metrics, length and a digest of its settings.
    """
    folder = Path(cfg.work_dir)
    about: dict[str, Any] = dict(
        length=_length(cfg), settings=_recipe(cfg, amp), tested_by=_tested_by(cfg)
    )
    cfg.resume = (folder / 'last_checkpoint').is_file()
    if cfg.resume:
        cfg.load_from = None  # mmengine would resume from there instead
    else:  # of one that was left before its first checkpoint, the best so far may lie there
        cfg.overwrite = begun_by(folder) == _begin(cfg, amp)
    runner = build_runner(prepare_config(cfg, launcher, amp), verbose)
    runner.register_hook(NoteBegin(_begin(cfg, amp)))
    train(runner)
    about['checkpoint'] = Path(latest_checkpoint(folder) or '').name
    return _test(runner, about)


def retest_member(
    cfg: Config, note: dict[str, Any], launcher: str, amp: bool, verbose: bool
) -> dict[str, Any]:
    """Test a finished member by what the config says now; return its note, written anew.

    Args:
        cfg: As :func:`member_config` returns it; the others as of :func:`train_member`.
        note: What :func:`read_member` returns.
        launcher: As of :func:`train_member`.
        amp: Mixed precision.
        verbose: Whether the terminal shows all that the log file holds.
    """
    about = {**note, 'tested_by': _tested_by(cfg)}
    cfg.load_from, cfg.resume = str(Path(cfg.work_dir) / note['checkpoint']), False
    return _test(build_runner(prepare_config(cfg, launcher, amp), verbose), about)


def _test(runner: Runner, about: dict[str, Any]) -> dict[str, Any]:
    """Test what a Runner has, on its validation set where there is no test set; write the note."""
    metrics: dict[str, float] = {}
    if runner.cfg.get('test_dataloader'):
        metrics = runner.test()
    elif runner.cfg.get('val_dataloader'):
        metrics = runner.val()
    note = {**about, 'metrics': {key: float(value) for key, value in metrics.items()}}
    if is_main_process():
        write_note(Path(runner.work_dir), note)
    return note


def train_members(
    configs: Sequence[Config], launcher: str = 'none', amp: bool = False, verbose: bool = True
) -> list[dict[str, Any]]:
    """Train the members that are not finished, one after the other; return the notes of all.

    All folders are looked at before the first training.

    Args:
        configs: As :func:`member_config` returns them; the others as of :func:`train_member`.
        launcher: As of :func:`train_member`.
        amp: Mixed precision.
        verbose: Whether the terminal shows all that the log file holds.

    Raises:
        FileNotFoundError: A member cannot go on: its last checkpoint is gone.
        SystemExit: As of :func:`read_member`.
    """
    found = _read_members(configs, amp)
    notes = []
    for number, (cfg, note) in enumerate(zip(configs, found, strict=True), 1):
        tested = note is not None and note.get('tested_by') == _tested_by(cfg)
        if is_main_process():
            state = _STATES[note is not None, tested]
            said = f'member {number} of {len(configs)}: {cfg.work_dir} {state}'
            print(said, file=sys.stderr, flush=True)
        if note is None:
            note = train_member(cfg, launcher, amp, verbose)
        elif not tested:
            note = retest_member(cfg, note, launcher, amp, verbose)
        notes.append(note)
    return notes


def _read_members(configs: Sequence[Config], amp: bool) -> list[dict[str, Any] | None]:
    """Return the notes of all members, None of those to be trained; refuse what cannot go on."""
    notes = []
    for cfg in configs:
        notes.append(read_member(cfg, amp))
        if notes[-1] is None:
            latest_checkpoint(cfg.work_dir)  # it refuses a note that names no file
    return notes


def table_members(
    seeds: Sequence[int], members: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the members' metrics, and of their mean where all have the same.

    >>> notes = [dict(metrics=dict(abs_rel=0.187)), dict(metrics=dict(abs_rel=0.191))]
    >>> table_members([0, 1], notes)
    (['seed', 'abs_rel'], [['0', '0.187'], ['1', '0.191'], ['mean ± sd', '0.189 ± 0.003']])
    """
    metrics = [member['metrics'] for member in members]
    columns: dict[str, list[float]] = {}
    for key in dict.fromkeys(chain.from_iterable(metrics)):
        columns[key] = [found[key] for found in metrics if key in found]
    keys, places = list(columns), {key: digits(values) for key, values in columns.items()}
    rows = []
    for seed, found in zip(seeds, metrics, strict=True):
        told = (f'{found[key]:.{places[key]}f}' if key in found else '–' for key in keys)
        rows.append([str(seed), *told])
    if len(members) > 1 and all(set(found) == set(keys) for found in metrics):
        rows.append(['mean ± sd', *(spread(columns[key], places[key]) for key in keys)])
    return ['seed', *keys], rows


def as_teachers(configs: Sequence[Config], members: Sequence[dict[str, Any]]) -> str:
    """Return the members as a Distiller's config has them: ``teachers=dict(t0=dict(…), …)``."""
    lines = []
    for i, (cfg, member) in enumerate(zip(configs, members, strict=True)):
        folder = Path(cfg.work_dir)
        config, checkpoint = folder / Path(cfg.filename).name, folder / member['checkpoint']
        lines.append(f'    t{i}=dict(cfg={str(config)!r}, checkpoint={str(checkpoint)!r})')
    return 'teachers=dict(\n' + ',\n'.join(lines) + ')'


def _length(cfg: Config) -> dict[str, int]:
    """Return how long a training is, as its config says."""
    return {key: cfg.train_cfg[key] for key in UNITS if cfg.train_cfg.get(key)}


def _told(length: dict[str, int]) -> str:
    """Return a length in words.

    >>> _told(dict(max_iters=4000))
    '4000 iterations'
    """
    return ' and '.join(f'{value} {UNITS[key]}' for key, value in length.items())


def _recipe(cfg: Config, amp: bool) -> str:
    """Return a digest of what decides on the weights but the length, with which schedules end."""
    settings = {key: cfg.get(key) for key in _RECIPE}
    loader = cfg.get('train_dataloader') or {}
    settings['train_dataloader'] = {key: loader[key] for key in LOADER if key in loader}
    settings['train_cfg'] = _but(cfg.train_cfg, (*UNITS, *_VALIDATES))
    settings['param_scheduler'] = _without(cfg.get('param_scheduler'), set(_length(cfg).values()))
    settings['default_hooks'] = _but(cfg.get('default_hooks') or {}, _TELLS)
    settings['randomness'] = _but(cfg.get('randomness') or {}, ('seed',))
    begins = digest_of_file(str(cfg.load_from)) if cfg.get('load_from') else None
    return digest_of(dict(settings, load_from=begins, amp=amp))


def _but(settings: Mapping[str, Any], left_out: Container[str]) -> dict[str, Any]:
    return {key: one for key, one in settings.items() if key not in left_out}


def _tested_by(cfg: Config) -> str:
    """Return a digest of what decides on the metrics of given weights."""
    mode = 'test' if cfg.get('test_dataloader') else 'val'
    keys = (*_TESTED_BY, *(f'{mode}_{part}' for part in ('dataloader', 'evaluator', 'cfg')))
    return digest_of({key: cfg.get(key) for key in keys})


def _schedules_end(cfg: Config) -> bool:
    """Return whether schedules end with the run: mmengine resumes them with the end they had."""
    own = cfg.get('param_scheduler')
    return _without(own, set(_length(cfg).values())) != own


def _begin(cfg: Config, amp: bool) -> str:
    """Return by what a member begins: its recipe, and the length where schedules end with it."""
    recipe = _recipe(cfg, amp)
    ends = _schedules_end(cfg)
    return digest_of(dict(recipe=recipe, length=_length(cfg))) if ends else recipe


def _without(node: Any, lengths: set[int]) -> Any:
    """Return schedules without what says where the run ends.

    >>> _without([dict(type='LinearLR', end=50), dict(type='PolyLR', begin=50, end=900)], {900})
    [{'type': 'LinearLR', 'end': 50}, {'type': 'PolyLR', 'begin': 50}]
    """
    if isinstance(node, list | tuple):
        return [_without(one, lengths) for one in node]
    if not isinstance(node, dict):
        return node
    ends = {key for key, value in node.items() if key in LENGTHS and value in lengths}
    return {key: _without(value, lengths) for key, value in node.items() if key not in ends}
