"""Comparisons of the small pair, their processes as forks, and what they leave behind."""

import json
import os
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from helpers.processes import start as fork
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS
from mmengine.visualization import Visualizer
from rich.console import Console

from mmkd.__main__ import main
from mmkd.apis.compare import Comparison, compare
from mmkd.apis.compare.specs import read_specs
from mmkd.utils.config_file import read_config

PAIRS = Path(__file__).resolve().parents[2] / 'configs' / 'pairs'
PAIR = str(PAIRS / 'kd_unet_digit-scenes.py')
ALONE = str(PAIRS / 'baseline_unet_digit-scenes.py')
TEACHER = str(PAIRS / 'teacher_unet_digit-scenes.py')
ITERS = 4


def forget_runs() -> None:
    """Forget loggers, message hubs and visualizers of earlier runs, as a new interpreter would."""
    for kind in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


class Forks:
    """Stands in for new interpreters: each command runs in a fork, which has imported everything.

    Args:
        dies: Says of a command whether it dies in place of running.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.dies: Callable[[list[str]], bool] = lambda command: False

    def __call__(self, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> Any:
        command = list(arguments)
        self.commands.append(command)

        def work() -> None:
            os.setsid()
            torch.set_num_threads(1)
            forget_runs()
            if self.dies(command):
                print('the reason why')
                raise SystemExit(3)
            raise SystemExit(main(command))

        return Fork(fork(work, log))

    def of(self, kind: str) -> list[str]:
        """Return the configs of the commands of a kind, as folder and name."""
        paths = [Path(command[1]) for command in self.commands if command[0] == kind]
        return [f'{path.parent.name}/{path.stem}' for path in paths]


class Fork:
    """What is asked of a process."""

    def __init__(self, pid: int) -> None:
        self.pid, self.code = pid, None

    def poll(self) -> int | None:
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def wait(self, timeout: float | None = None) -> int | None:
        while self.poll() is None:
            time.sleep(0.01)
        return self.code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def untrained_teacher(folder: Path) -> str:
    """Return weights of a teacher that has learned nothing."""
    cfg = read_config(TEACHER)
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model.to_dict(), '_scope_': 'mmseg'})
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


def options(teacher: str) -> dict[str, Any]:
    return {
        'model.teacher.checkpoint': teacher,
        'train_dataloader.dataset.num_scenes': 16,
        'train_dataloader.batch_size': 2,
        'val_dataloader.dataset.num_scenes': 3,
        'test_dataloader.dataset.num_scenes': 4,
        'train_cfg.max_iters': 8,
        'train_cfg.val_interval': 4,
        'param_scheduler.0.end': 4,
        'param_scheduler.1.begin': 4,
    }


def comparison(teacher: str, folder: Path, *methods: str, **changes: Any) -> Comparison:
    given: dict[str, Any] = dict(
        pair=PAIR,
        specs=read_specs(methods or ('alone', 'kd')),
        seeds=(0,),
        work_dir=folder,
        iters=ITERS,
        options=options(teacher),
    )
    return Comparison(**{**given, **changes})


def told(comparison: Comparison, **given: Any) -> tuple[bool, str]:
    """Compare; return whether all went well, and what was said."""
    said = StringIO()
    done = compare(comparison, Console(file=said, width=200), **given)
    return done, said.getvalue()


def of_logs(folder: Path) -> tuple[float, float]:
    """Return the mIoU of a run's test and of its last validation, from mmengine's own files."""
    tests = [p for p in (folder / 'test').glob('*/*.json') if p.stem == p.parent.name]
    return json.loads(max(tests).read_text())['mIoU'], validations(folder)[-1]


def validations(folder: Path) -> list[float]:
    scalars = next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [json.loads(line)['mIoU'] for line in scalars if '"mIoU"' in line]
