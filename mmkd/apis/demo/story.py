"""The trainings of the demo: a teacher, a student alone, and the same student taught by it."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmkd.apis.launch import build_runner, load_config
from mmkd.apis.prepare import prepare_config
from mmkd.apis.runs import NOTE, digest_of, read_note, write_note
from mmkd.utils.averages import spread

MARK = 'of_mmkd_demo'  # a file in each of its folders
ROWS = dict(teacher='teacher', student='student alone', distill='student + KD')
Rows = dict[str, list[dict[str, Any]]]  # of each row its runs, one for each seed


@dataclass(frozen=True)
class Story:
    """What one demo is.

    Args:
        configs: Folder of ``teacher.py``, ``student.py`` and ``distill.py``.
        work_dir: Folder that everything is written into.
        seeds: Of the students; the teacher's is 0.
        iters: Iterations of each training; None: those of the configs.
        verbose: Whether the terminal shows what mmengine prints.
    """

    configs: Path
    work_dir: Path
    seeds: Sequence[int] = (0,)
    iters: int | None = None
    verbose: bool = False

    def config(self, row: str, seed: int) -> Config:
        """Read a row's config.

        Every row of one story has the same length, the same data and, but the teacher, the seed.
        """
        name = row if row == 'teacher' else f'{row}_seed{seed}'
        cfg = load_config(str(self.configs / f'{row}.py'), work_dir=str(self.work_dir / name))
        cfg.randomness.seed = seed
        cfg.overwrite = True  # a demo begins anew each time
        # one visualizer a name in a process: the second run would log into the first's folder
        cfg.visualizer.pop('name')
        if self.iters:
            _set_length(cfg, self.iters)
        if row == 'distill':
            cfg.model.teacher.checkpoint = str(last_checkpoint(self.config('teacher', 0)))
        return cfg

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Send what mmengine prints to a file, but for verbose ones; logs lie beside each run."""
        if self.verbose:
            yield
            return
        path = self.work_dir / 'terminal.log'
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a') as file, redirect_stdout(file), redirect_stderr(file):
            yield


def _set_length(cfg: Config, iters: int) -> None:
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = max(1, iters // 20)
    cfg.train_cfg.max_iters = iters  # the decay ends there, and checkpoints follow
    cfg.train_cfg.val_interval = max(1, iters // 6)
    cfg.default_hooks.logger.interval = max(1, min(50, iters // 6))


def last_checkpoint(cfg: Config) -> Path:
    """Return where the last checkpoint of a training lies."""
    return Path(cfg.work_dir) / f'iter_{cfg.train_cfg.max_iters}.pth'


class Follow(Hook):
    """Tells how far a training is, and the last mIoU on the validation scenes."""

    def __init__(self, tell: Callable[..., Any], name: str) -> None:
        self.tell, self.name = tell, name

    def before_train(self, runner: Runner) -> None:
        """Mark the folder as the demo's, which a later one may begin anew."""
        Path(runner.work_dir, MARK).touch()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the bar by one iteration."""
        self.tell(advance=1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the validation's mIoU beside the name."""
        if metrics:
            self.tell(description=f'{self.name}  val mIoU {metrics["mIoU"]:.1f}')


def train(cfg: Config, follow: Follow, verbose: bool = False) -> None:
    """Train and test by mmengine's Runner, and note beside the logs that the run is complete."""
    settings = digest_of(cfg)
    runner = build_runner(prepare_config(copy.deepcopy(cfg)), verbose)
    runner.register_hook(follow)
    runner.train()
    metrics = runner.test()
    model = runner.model.student if hasattr(runner.model, 'students') else runner.model
    note = dict(
        settings=settings,
        logs=Path(runner.log_dir).name,
        iters=runner.max_iters,
        test_mIoU=float(metrics['mIoU']),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    write_note(cfg.work_dir, note)


def read_run(cfg: Config) -> dict[str, Any] | None:
    """Return a complete run's numbers, those over time from mmengine's logs; None without one.

    Raises:
        SystemExit: Its note is broken.
    """
    run = read_note(cfg.work_dir, ('logs', 'iters', 'test_mIoU', 'parameters'))
    complete = run is not None and last_checkpoint(cfg).is_file()
    if run is None or not complete or run.get('settings') != digest_of(cfg):
        return None
    log = Path(cfg.work_dir) / Path(run['logs']).name / 'vis_data' / 'scalars.json'
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if 'decode.loss_ce' in line]
    run['val'] = [(line['step'], line['mIoU']) for line in lines if 'mIoU' in line]
    run['loss'] = [(line['step'], line['decode.loss_ce']) for line in steps]
    run['step_ms'] = 1000 * median(line['time'] - line['data_time'] for line in steps)
    return run


def run_all(story: Story, console: Console) -> Rows:
    """Train what is needed under one progress bar; return each row's runs, one for each seed."""
    jobs = [
        ('teacher', 0),
        *((row, seed) for seed in story.seeds for row in ('student', 'distill')),
    ]
    configs = {job: story.config(*job) for job in jobs}
    for cfg in configs.values():
        _refuse_foreign(Path(cfg.work_dir))
    todo = [job for job in jobs if job[0] != 'teacher' or read_run(configs[job]) is None]
    if ('teacher', 0) not in todo:
        console.print(f'The teacher is loaded: {last_checkpoint(configs["teacher", 0])}')
    with story.quiet(), _progress(console) as progress:
        task = progress.add_task('', total=sum(configs[job].train_cfg.max_iters for job in todo))

        def tell(**changes: Any) -> None:
            progress.update(task, **changes)

        for row, seed in todo:
            several = len(story.seeds) > 1 and row != 'teacher'
            name = ROWS[row] + (f', seed {seed}' if several else '')
            tell(description=name)
            train(configs[row, seed], Follow(tell, name), story.verbose)
    rows: Rows = {row: [] for row in ROWS}
    for job in jobs:
        run = read_run(configs[job])
        assert run is not None, f'{configs[job].work_dir} was trained a moment ago'
        rows[job[0]].append(run)
    return rows


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder of another run, whose checkpoints would be deleted."""
    known = any((folder / name).is_file() for name in (MARK, NOTE))
    found = next(folder.glob('*.pth'), None)
    if found is not None and not known:
        raise FileExistsError(
            f'{folder} holds a run that is none of the demo ({found.name}), and would be written '
            'over. Mend: another --work-dir'
        )


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn('{task.description:<42}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)


def table(rows: Rows) -> list[tuple[str, str, str, str]]:
    """Return the table's lines: name, test mIoU, parameters, time of a training step.

    >>> runs = [dict(test_mIoU=miou, parameters=64847, step_ms=20.0) for miou in (40.0, 42.0)]
    >>> table(dict(student=runs))
    [('student alone', '41.00 ± 1.41', '64,847', '20 ms')]
    """
    lines = []
    for row, runs in rows.items():
        mious = [run['test_mIoU'] for run in runs]
        step_ms = median(run['step_ms'] for run in runs)
        lines.append((ROWS[row], spread(mious), f'{runs[0]["parameters"]:,}', f'{step_ms:.0f} ms'))
    return lines


def verdict(rows: Rows) -> str:
    """Return one sentence on the gain, seed by seed.

    >>> print(verdict(dict(student=[dict(test_mIoU=40.0)], distill=[dict(test_mIoU=41.5)])))
    The teacher gives the student 1.50 points of mIoU on scenes of digits that nobody trained on.
    """
    pairs = zip(rows['student'], rows['distill'], strict=True)
    gains = [taught['test_mIoU'] - alone['test_mIoU'] for alone, taught in pairs]
    return (
        f'The teacher gives the student {spread(gains)} points of mIoU on scenes of digits that '
        'nobody trained on.'
    )
