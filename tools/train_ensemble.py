"""Train the members of an ensemble: one config, several seeds, one after the other."""

import argparse
import hashlib
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console

from mmkd.apis.cli import run
from mmkd.apis.launch import (
    build_runner,
    is_distiller,
    leave_process_group,
    load_config,
    log_batch_size,
    parse_run,
    prepare_config,
    run_parser,
)
from mmkd.apis.norms import check_last_batch
from mmkd.apis.starting_weights import check_start
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.tables import make_console, print_table

NOTE = 'done.json'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser(
        'Train the members of an ensemble by one config: each in <work dir>/seed_<n>. Members that '
        'are finished are skipped, those that were interrupted go on.'
    )
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help='one member a seed (default: 0 1 2)'
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')
    args = parse_run(parser)
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        parser.error(f'--seeds must be different whole numbers of at least 0, got {args.seeds}')
    return args


def member_config(args: argparse.Namespace, seed: int) -> Config:
    """Return the config of one member, in its own folder and under its own names.

    Raises:
        SystemExit: The config is a Distiller's.
    """
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if is_distiller(cfg):
        raise SystemExit(
            f"{args.config} is a Distiller's; members are plain models. Mend: give the config of "
            f'the '
            'model alone'
        )
    cfg.work_dir = str(Path(cfg.work_dir) / f'seed_{seed}')
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    # Loggers, message hubs and visualizers are shared by name in a process: members must not share
    # them.
    cfg.experiment_name = f'{Path(cfg.filename).stem}_seed_{seed}'
    (cfg.get('visualizer') or {}).pop('name', None)
    return cfg


def length(cfg: Config) -> dict[str, int]:
    """Return how long a training is, as its config says."""
    if cfg.get('train_cfg') is None:
        raise SystemExit(f'{cfg.filename} has no train_cfg, so nothing can be trained')
    return {
        key: cfg.train_cfg[key] for key in ('max_iters', 'max_epochs') if cfg.train_cfg.get(key)
    }


def recipe(cfg: Config) -> str:
    """Return a digest of what decides on a member's weights: another network, rate or data set is another member."""
    keys = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg')
    parts = {key: cfg.get(key) for key in keys}
    return hashlib.sha256(repr(Config(parts).to_dict()).encode()).hexdigest()


def read_member(cfg: Config) -> dict[str, Any] | None:
    """Return what a finished member's note says; None where it is not finished, or is trained for longer now.

    Raises:
        SystemExit: It was trained by another recipe, or the note is broken.
    """
    folder = Path(cfg.work_dir)
    if not (folder / NOTE).is_file():
        return None
    try:
        note = json.loads((folder / NOTE).read_text())
        if not {'checkpoint', 'length', 'recipe', 'metrics'} <= set(note):
            raise ValueError('it is no note of a member')
    except (ValueError, TypeError) as error:
        raise SystemExit(
            f'{folder / NOTE} cannot be read ({error}). Mend: remove it, and the member is '
            f'trained again '
            'or goes on'
        ) from error
    note['checkpoint'] = Path(note['checkpoint']).name  # of this folder, whatever the note says
    if note['length'] != length(cfg) or not (folder / note['checkpoint']).is_file():
        return None
    if note['recipe'] != recipe(cfg):
        raise SystemExit(
            f'{folder} holds a member of another model, data, optimizer or schedule than the '
            f'config has '
            'now. Mend: another --work-dir, or remove that folder'
        )
    return note


def train_member(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Train one member, or the rest of it; test its last weights; note that it is finished."""
    folder, note = Path(cfg.work_dir), dict(length=length(cfg), recipe=recipe(cfg))
    cfg.resume = (folder / 'last_checkpoint').is_file()
    if cfg.resume:
        cfg.load_from = None  # mmengine would resume from there instead
    runner = build_runner(prepare_config(cfg, args.launcher, args.amp), args.verbose)
    check_start(runner)
    log_batch_size(runner)
    check_last_batch(runner)
    runner.train()
    metrics = (
        runner.test()
        if cfg.get('test_dataloader')
        else runner.val()
        if cfg.get('val_dataloader')
        else {}
    )
    note.update(
        checkpoint=Path(latest_checkpoint(folder) or '').name,
        metrics={key: float(value) for key, value in metrics.items()},
    )
    if is_main_process():
        write_atomically(json.dumps(note).encode(), folder / NOTE)
    return note


def report(
    console: Console, args: argparse.Namespace, configs: list[Config], members: list[dict[str, Any]]
) -> None:
    """Print the members' metrics, and how to write them as teachers."""
    keys = list(members[0]['metrics'])
    rows = [
        [str(seed), *(f'{member["metrics"].get(key, float("nan")):.2f}' for key in keys)]
        for seed, member in zip(args.seeds, members, strict=True)
    ]
    if len(members) > 1 and all(set(member['metrics']) == set(keys) for member in members):
        columns = [[member['metrics'][key] for member in members] for key in keys]
        rows.append(
            ['mean ± sd', *(f'{mean(values):.2f} ± {stdev(values):.2f}' for values in columns)]
        )
    print_table(console, f'{len(members)} members of {args.config}', ['seed', *keys], rows)
    lines = [
        f'    t{i}=dict(cfg={str(Path(cfg.work_dir) / Path(cfg.filename).name)!r}, '
        f'checkpoint={str(Path(cfg.work_dir) / member["checkpoint"])!r}),'
        for i, (cfg, member) in enumerate(zip(configs, members, strict=True))
    ]
    print(
        "For an mmkd.Distiller, read by teachers='t*.logits'; as members=dict(…) also for an "
        'mmkd.Ensemble:'
    )
    print('\n'.join(['teachers=dict(', *lines])[:-1] + ')')


def main() -> None:
    """Train every member that is not finished, and report on all."""
    args = parse_args()
    configs = [member_config(args, seed) for seed in args.seeds]
    members = [read_member(cfg) or train_member(cfg, args) for cfg in configs]
    if is_main_process():
        report(make_console(), args, configs, members)
    leave_process_group()


if __name__ == '__main__':
    run(main)
