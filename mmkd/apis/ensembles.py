"""Members of an ensemble: one config, several seeds, one after the other."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmkd.apis.launch import build_runner, load_config, train
from mmkd.apis.length import follow_length
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.apis.runs import NOTE, digest_of, read_note, write_note
from mmkd.utils.averages import spread
from mmkd.utils.checkpoints import latest_checkpoint

# what decides on a member's weights
_RECIPE = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg')


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
    cfg.work_dir = str(Path(cfg.work_dir) / f'seed_{seed}')
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    # Loggers, message hubs and visualizers are shared by name in a process: members must not share
    # them.
    cfg.experiment_name = f'{Path(cfg.filename).stem}_seed_{seed}'
    (cfg.get('visualizer') or {}).pop('name', None)
    return cfg


def read_member(cfg: Config) -> dict[str, Any] | None:
    """Return what a finished member's note says; None where it is to be trained, or for longer.

    Raises:
        SystemExit: It was trained by another recipe, or the note is broken.
    """
    folder = Path(cfg.work_dir)
    note = read_note(folder, ('checkpoint', 'length', 'recipe', 'metrics'), 'member')
    if note is None:
        return None
    note['checkpoint'] = Path(note['checkpoint']).name  # of this folder, whatever the note says
    if note['length'] != _length(cfg) or not (folder / note['checkpoint']).is_file():
        return None
    if note['recipe'] != _recipe(cfg):
        raise SystemExit(
            f'{folder} holds a member of another model, data, optimizer or schedule than the '
            'config has now. Mend: another --work-dir, or remove that folder'
        )
    return note


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
        The note: its checkpoint, metrics, length and recipe.
    """
    folder, about = Path(cfg.work_dir), dict(length=_length(cfg), recipe=_recipe(cfg))
    cfg.resume = (folder / 'last_checkpoint').is_file()
    if cfg.resume:
        cfg.load_from = None  # mmengine would resume from there instead
    runner = build_runner(prepare_config(cfg, launcher, amp), verbose)
    if is_main_process():
        (folder / NOTE).unlink(missing_ok=True)  # of a shorter training, or one that is gone
    train(runner)
    metrics: dict[str, float] = {}
    if cfg.get('test_dataloader'):
        metrics = runner.test()
    elif cfg.get('val_dataloader'):
        metrics = runner.val()
    note = dict(
        **about,
        checkpoint=Path(latest_checkpoint(folder) or '').name,
        metrics={key: float(value) for key, value in metrics.items()},
    )
    if is_main_process():
        write_note(folder, note)
    return note


def train_members(
    configs: Sequence[Config], launcher: str = 'none', amp: bool = False, verbose: bool = True
) -> list[dict[str, Any]]:
    """Train the members that are not finished, one after the other; return the notes of all.

    Args:
        configs: As :func:`member_config` returns them; the others as of :func:`train_member`.
        launcher: As of :func:`train_member`.
        amp: Mixed precision.
        verbose: Whether the terminal shows all that the log file holds.
    """
    notes = []
    for number, cfg in enumerate(configs, 1):
        note = read_member(cfg)
        if is_main_process():
            state = 'is finished already' if note else 'is trained'
            said = f'member {number} of {len(configs)}: {cfg.work_dir} {state}'
            print(said, file=sys.stderr, flush=True)
        notes.append(note or train_member(cfg, launcher, amp, verbose))
    return notes


def table_members(
    seeds: Sequence[int], members: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the members' metrics, and of their mean where all have the same.

    >>> notes = [dict(metrics=dict(mIoU=40.0)), dict(metrics=dict(mIoU=42.0))]
    >>> table_members([0, 1], notes)
    (['seed', 'mIoU'], [['0', '40.00'], ['1', '42.00'], ['mean ± sd', '41.00 ± 1.41']])
    """
    metrics = [member['metrics'] for member in members]
    keys = list(metrics[0])
    rows = []
    for seed, found in zip(seeds, metrics, strict=True):
        rows.append([str(seed), *(f'{found.get(key, float("nan")):.2f}' for key in keys)])
    if len(members) > 1 and all(set(found) == set(keys) for found in metrics):
        columns = zip(*(map(found.get, keys) for found in metrics), strict=True)
        rows.append(['mean ± sd', *map(spread, columns)])
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
    keys = ('max_iters', 'max_epochs')
    return {key: cfg.train_cfg[key] for key in keys if cfg.train_cfg.get(key)}


def _recipe(cfg: Config) -> str:
    """Return a digest of what decides on the weights: another network or rate, another member."""
    return digest_of({key: cfg.get(key) for key in _RECIPE})
