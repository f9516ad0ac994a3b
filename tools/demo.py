"""The whole story on the built-in data set: a teacher, a student alone, and the same student taught by the teacher."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.apis import init_model
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmkd.apis import cli
from mmkd.apis.launch import build_runner, load_config, prepare_config
from mmkd.datasets import DigitScenes
from mmkd.registry import DATASETS
from mmkd.utils.tables import make_console, print_table

matplotlib.use('Agg')
from matplotlib import pyplot as plt

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'demo'
ROWS = dict(teacher='teacher', student='student alone', distill='student + KD')


class Follow(Hook):
    """Tells how far a training is, and the last mIoU on the validation scenes."""

    def __init__(self, tell: Callable[..., Any], name: str) -> None:
        self.tell, self.name = tell, name

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the bar by one iteration."""
        self.tell(advance=1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the validation's mIoU beside the name."""
        if metrics:
            self.tell(description=f'{self.name}  val mIoU {metrics["mIoU"]:.1f}')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='seeds of the students; several give ±'
    )
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything is written'
    )
    parser.add_argument(
        '--iters', type=int, help="iterations of each training (default: the configs' own)"
    )
    args = cli.common_flags(parser).parse_args(argv)
    if args.iters is not None and args.iters < 6:
        parser.error(f'--iters must be at least 6 (there are six validations), got {args.iters}')
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        parser.error(f'--seeds must be different whole numbers of at least 0, got {args.seeds}')
    return args


def make_config(row: str, seed: int, args: argparse.Namespace) -> Config:
    """Read a row's config; every row of one demo has the same length, the same data and, but the teacher, the seed."""
    folder = args.work_dir / row if row == 'teacher' else args.work_dir / f'{row}_seed{seed}'
    cfg = load_config(str(CONFIGS / f'{row}.py'), work_dir=str(folder))
    cfg.randomness.seed = seed
    cfg.overwrite = True  # a demo begins anew each time
    cfg.visualizer.pop(
        'name'
    )  # one visualizer a name in a process: the second run would log into the first's folder
    if args.iters:
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = max(1, args.iters // 20)
        cfg.param_scheduler[1].end = cfg.train_cfg.max_iters = (
            cfg.default_hooks.checkpoint.interval
        ) = args.iters
        cfg.train_cfg.val_interval = max(1, args.iters // 6)
        cfg.default_hooks.logger.interval = max(1, min(50, args.iters // 6))
    if row == 'distill':
        cfg.model.teacher.checkpoint = str(checkpoint(make_config('teacher', 0, args)))
    return cfg


def checkpoint(cfg: Config) -> Path:
    """Return where the last checkpoint of a training lies."""
    return Path(cfg.work_dir) / f'iter_{cfg.train_cfg.max_iters}.pth'


def train(cfg: Config, tell: Callable[..., Any], name: str, verbose: bool = False) -> None:
    """Train and test by mmengine's Runner, and note beside the logs that the run is complete."""
    runner = build_runner(prepare_config(cfg), verbose)
    runner.register_hook(Follow(tell, name))
    runner.train()
    metrics = runner.test()
    model = runner.model.student if hasattr(runner.model, 'students') else runner.model
    note = dict(
        logs=Path(runner.log_dir).name,
        iters=runner.max_iters,
        test_mIoU=float(metrics['mIoU']),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    (Path(cfg.work_dir) / 'done.json').write_text(json.dumps(note))


def read_run(cfg: Config) -> dict[str, Any] | None:
    """Return a complete run's numbers, those over time from mmengine's logs; None if there is no such run."""
    note = Path(cfg.work_dir) / 'done.json'
    if not note.is_file() or not checkpoint(cfg).is_file():
        return None
    run = json.loads(note.read_text())
    if run['iters'] != cfg.train_cfg.max_iters:
        return None
    log = Path(cfg.work_dir) / Path(run['logs']).name / 'vis_data' / 'scalars.json'
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    run['val'] = [(line['step'], line['mIoU']) for line in lines if 'mIoU' in line]
    run['loss'] = [
        (line['step'], line['decode.loss_ce']) for line in lines if 'decode.loss_ce' in line
    ]
    run['step_ms'] = 1000 * median(
        line['time'] - line['data_time'] for line in lines if 'decode.loss_ce' in line
    )
    return run


def run_all(args: argparse.Namespace, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Train what is needed under one progress bar; return each row's runs, one for each seed."""
    jobs = [('teacher', 0)] + [(row, seed) for seed in args.seeds for row in ('student', 'distill')]
    configs = {(row, seed): make_config(row, seed, args) for row, seed in jobs}
    todo = [job for job in jobs if job[0] != 'teacher' or read_run(configs[job]) is None]
    if ('teacher', 0) not in todo:
        console.print(f'The teacher is loaded: {checkpoint(configs["teacher", 0])}')
    columns = (
        TextColumn('{task.description:<42}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        quiet(args),
        Progress(
            *columns, console=console, redirect_stdout=False, redirect_stderr=False
        ) as progress,
    ):
        task = progress.add_task('', total=sum(configs[job].train_cfg.max_iters for job in todo))
        for row, seed in todo:
            name = ROWS[row] + (
                f', seed {seed}' if len(args.seeds) > 1 and row != 'teacher' else ''
            )
            progress.update(task, description=name)
            train(
                configs[row, seed],
                lambda **changes: progress.update(task, **changes),
                name,
                args.verbose,
            )
    rows: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for job in jobs:
        run = read_run(configs[job])
        assert run is not None, f'{configs[job].work_dir} was trained a moment ago'
        rows[job[0]].append(run)
    return rows


@contextmanager
def quiet(args: argparse.Namespace) -> Iterator[None]:
    """Send what mmengine prints to a file, but for --verbose; its logs lie beside each run as well."""
    if args.verbose:
        yield
        return
    path = args.work_dir / 'terminal.log'
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file, redirect_stdout(file), redirect_stderr(file):
        yield


def spread(values: list[float], digits: int = 2) -> str:
    """Return the mean, with ± the standard deviation where there are several values.

    >>> spread([40.0, 42.0]), spread([40.0])
    ('41.00 ± 1.41', '40.00')
    """
    text = f'{mean(values):.{digits}f}'
    return f'{text} ± {stdev(values):.{digits}f}' if len(values) > 1 else text


def table(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, str, str]]:
    """Return the table's lines: name, test mIoU, parameters, time of a training step."""
    return [
        (
            ROWS[row],
            spread([run['test_mIoU'] for run in runs]),
            f'{runs[0]["parameters"]:,}',
            f'{median(run["step_ms"] for run in runs):.0f} ms',
        )
        for row, runs in rows.items()
    ]


def verdict(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Return one sentence on the gain, seed by seed."""
    pairs = zip(rows['student'], rows['distill'], strict=True)
    gains = [taught['test_mIoU'] - alone['test_mIoU'] for alone, taught in pairs]
    return (
        f'The teacher gives the student {spread(gains)} points of mIoU on scenes of digits '
        f'that nobody trained on.'
    )


@torch.no_grad()
def draw_scenes(args: argparse.Namespace, path: Path, scenes: int = 6) -> None:
    """Draw image, ground truth and the three predictions side by side for the first test scenes."""
    seed = args.seeds[0]
    configs = {row: make_config(row, 0 if row == 'teacher' else seed, args) for row in ROWS}
    # The distilled student is a plain mmseg model with a config of its own, beside the checkpoints.
    folder = Path(configs['distill'].work_dir) / 'student'
    files = {row: (cfg, checkpoint(cfg)) for row, cfg in configs.items() if row != 'distill'}
    files['distill'] = (
        Config.fromfile(folder / 'config.py'),
        folder / checkpoint(configs['distill']).name,
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset: DigitScenes = DATASETS.build(configs['teacher'].test_dataloader.dataset)
        samples = [dataset[i] for i in range(scenes)]
        data = {key: [sample[key] for sample in samples] for key in samples[0]}
        columns = [
            [dataset.scene(i)[0] for i in range(scenes)],
            [dataset.scene(i)[1] for i in range(scenes)],
        ]
        for row in ROWS:
            model = init_model(files[row][0], str(files[row][1]), device='cpu')
            columns.append([p.pred_sem_seg.data[0].numpy() for p in model.test_step(data)])
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    figure, axes = plt.subplots(scenes, 5, figsize=(8, 1.65 * scenes), layout='constrained')
    for column, (title, maps) in enumerate(
        zip(['image', 'ground truth', *ROWS.values()], columns, strict=True)
    ):
        axes[0, column].set_title(title)
        for scene, values in enumerate(maps):
            axes[scene, column].imshow(
                values[..., ::-1] if column == 0 else palette[values], interpolation='nearest'
            )
            axes[scene, column].set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_curves(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw validation mIoU and task loss over the iterations, a line for each run."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for (row, runs), colour in zip(
        rows.items(), ('tab:gray', 'tab:orange', 'tab:blue'), strict=True
    ):
        for number, run in enumerate(runs):
            for axis, key in zip(axes, ('val', 'loss'), strict=True):
                axis.plot(
                    *zip(*run[key], strict=True),
                    color=colour,
                    label=ROWS[row] if number == 0 else None,
                    linestyle='--' if row == 'teacher' else '-',
                    marker='.' if key == 'val' else None,
                )
    for axis, title in zip(
        axes, ('mIoU on the validation scenes', 'cross-entropy on the training scenes'), strict=True
    ):
        axis.set(title=title, xlabel='iteration')
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, save the picture and the curves."""
    args = parse_args(argv)
    torch.set_num_threads(
        1
    )  # nets this small gain little from a second thread, and numbers stay the same everywhere
    console = make_console()
    console.file = sys.stdout  # else the bar would follow the redirection of what mmengine prints
    rows = run_all(args, console)
    print_table(
        console,
        'Structured KD on DigitScenes, test scenes',
        ('', 'mIoU', 'parameters', 'training step'),
        table(rows),
    )
    console.print(verdict(rows))
    with quiet(args):
        draw_scenes(args, args.work_dir / 'scenes.png')
        draw_curves(rows, args.work_dir / 'curves.png')
    (args.work_dir / 'results.json').write_text(json.dumps(rows, indent=1))
    console.print(
        f'Pictures, numbers and logs: {args.work_dir}/scenes.png, curves.png, results.json, */'
    )


if __name__ == '__main__':
    cli.run(main)
