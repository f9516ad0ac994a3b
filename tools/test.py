"""Test a checkpoint by a config; an ensemble by its config alone."""

import argparse

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.config import Config

from mmkd.apis.cli import run
from mmkd.apis.launch import build_runner, leave_process_group, load_config, parse_run, run_parser
from mmkd.apis.prepare import is_ensemble, prepare_config
from mmkd.apis.starting_weights import check_checkpoint, check_tested


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser('Test a checkpoint by a config')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file; none for an mmkd.Ensemble, whose members name theirs',
    )
    parser.add_argument('--show-dir', help='save pictures of the predictions there')
    return parse_run(parser)


def main() -> None:
    """Build the Runner and test."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    _check_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.show_dir is not None:
        _draw_into(cfg, args.show_dir)
    runner = build_runner(prepare_config(cfg, args.launcher), args.verbose)
    check_tested(runner)
    runner.test()
    leave_process_group()


def _check_checkpoint(cfg: Config, checkpoint: str | None) -> None:
    if is_ensemble(cfg) != (checkpoint is None):
        raise SystemExit(
            'test.py needs a checkpoint, tools/test.py CONFIG CHECKPOINT'
            if checkpoint is None
            else "an mmkd.Ensemble's members name their own checkpoints. Mend: leave out "
            f'{checkpoint}'
        )
    if checkpoint is not None:
        check_checkpoint(cfg, checkpoint)


def _draw_into(cfg: Config, folder: str) -> None:
    if 'visualization' not in cfg.default_hooks:
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


if __name__ == '__main__':
    run(main)
