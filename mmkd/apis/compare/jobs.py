"""Runs as processes: so many at a time, each trained, tested, and put on record."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.config import Config

from mmkd.apis.compare.records import (
    RESULT,
    TRAINED,
    config_path,
    read_note,
    read_test,
    read_training,
    tested_checkpoint,
    write_config,
    write_note,
)
from mmkd.apis.prepare import has_gpu
from mmkd.utils.checkpoints import trusts_checkpoints
from mmkd.utils.work_dir import hold, newest_of_run, release

PAUSE = 0.2  # seconds between two looks at the processes
PATIENCE = 15.0  # seconds that a process has to end
TOLD = 6  # last lines of the log of one that died
PEAK = re.compile(r'^VmHWM:\s*(\d+) kB', re.MULTILINE)
THREADS = re.compile(r', (\d+) threads')


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        name: How it is told.
        folder: Its work dir.
        cfg: Its config.
        digest: Of its settings.
        about: What its record says besides: method, seed, factor.
        trains: Whether it is trained; a teacher is tested alone.
        tests: Whether it is tested; while weights are tuned nothing is.
        checkpoint: What is tested where nothing is trained.
    """

    name: str
    folder: Path
    cfg: Config
    digest: str
    about: dict[str, Any] = field(default_factory=dict)
    trains: bool = True
    tests: bool = True
    checkpoint: str | None = None

    @property
    def record(self) -> Path:
        """What lies there once it is done."""
        return self.folder / (RESULT if self.tests else TRAINED)


@dataclass
class Ended:
    """A job that is over: its record, or why there is none."""

    job: Job
    record: dict[str, Any] | None = None
    problem: str = ''


class Slots:
    """Where runs go: one thread each on a processor that they share, a device each on GPUs."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        number = torch.cuda.device_count() if has_gpu() else 0
        self.devices = visible.split(',') if number and visible else list(map(str, range(number)))

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment of a process."""
        environment = dict(os.environ, PYTHONUNBUFFERED='1')
        root = Path(__file__).resolve().parents[3]
        if root.name not in ('site-packages', 'dist-packages'):  # a checkout: the same mmkd
            paths = [str(root), environment.get('PYTHONPATH', '')]
            environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
        if self.devices:
            environment['CUDA_VISIBLE_DEVICES'] = self.devices[slot % len(self.devices)]
        elif self.jobs > 1:
            environment.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
        return environment


def run_jobs(jobs: Sequence[Job], slots: Slots) -> Generator[Ended, None, None]:
    """Run what has no record yet, and yield each that is over, as it ends.

    Where this is left early, by Ctrl-C or an error, the processes are ended first; each goes on
    from its last checkpoint the next time.
    """
    waiting = list(jobs)
    running: dict[int, _Process] = {}
    with _terminated_as_interrupted():
        try:
            while waiting or running:
                free = [slot for slot in range(slots.jobs) if slot not in running]
                for slot in free[: len(waiting)]:
                    # known before it begins, so that whatever interrupts this finds it
                    running[slot] = _Process(waiting.pop(0), slots.environment(slot))
                    running[slot].begin()
                over = [slot for slot, one in running.items() if one.is_over()]
                for slot in over:
                    yield running.pop(slot).ended(slots.jobs)
                if not over:
                    time.sleep(PAUSE)
        finally:
            _end([one.process for one in running.values() if one.process is not None])


def start(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start a command of mmkd; all that it prints goes to a file."""
    trusted = ['--trust-checkpoint'] * trusts_checkpoints()  # as in this process
    with log.open('wb') as said:
        # a session of its own: Ctrl-C reaches it through this process alone, once
        return subprocess.Popen(
            [sys.executable, '-m', 'mmkd', *arguments, *trusted],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


class _Process:
    """A job at work: its training, then its test."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job, self.environment = job, environment
        self.problem = ''
        self.peak: int | None = None
        self.process: subprocess.Popen | None = None
        job.folder.mkdir(parents=True, exist_ok=True)
        write_config(job.cfg, job.folder, job.digest)
        self.training = job.trains and not (job.folder / TRAINED).is_file()

    def begin(self) -> None:
        """Start the training; the test, where it was trained before."""
        try:
            hold(self.job.folder)  # one that a killed comparison left behind may be at work here
            release(self.job.folder)
            self._start()
        except (OSError, ValueError, RuntimeError) as error:
            self.problem = str(error)

    def _start(self) -> None:
        path = config_path(self.job.folder)
        if self.training:
            arguments = ['train', str(path)]
            if newest_of_run(self.job.folder) is not None:
                arguments.append('--resume')
            elif any(self.job.folder.glob('*.pth')):  # the best so far alone, without an optimizer
                arguments.append('--overwrite')
        else:
            test = str(self.job.folder / 'test')
            arguments = ['test', str(path), self._checkpoint(), '--work-dir', test]
        self.resumed = '--resume' in arguments
        self.started = time.strftime('%Y-%m-%d %H:%M:%S')
        self.log_path = self.job.folder / f'{arguments[0]}.txt'
        self.process = start(arguments, self.log_path, self.environment)

    def _checkpoint(self) -> str:
        if self.job.checkpoint is not None:
            return self.job.checkpoint
        return str(tested_checkpoint(self.job.cfg, self.job.folder)[0])

    def is_over(self) -> bool:
        """Look at the process; go on to the test where the training has ended well."""
        if self.problem or self.process is None:
            return True
        peak = _peak_mib(self.process.pid)
        if self.training and peak is not None:
            self.peak = peak
        code = self.process.poll()
        if code is None:
            return False
        if code:
            self.problem = _told(code, self.log_path)
            return True
        if not self.training:
            return True
        try:
            self._note_training()
            self.training = False
        except (OSError, ValueError, KeyError) as error:
            self.problem = f'{error} (log: {self.log_path})'
            return True
        if self.job.tests:
            self.begin()
        return not self.job.tests

    def _note_training(self) -> None:
        checkpoint, which = tested_checkpoint(self.job.cfg, self.job.folder)
        found = read_training(self.job.folder, checkpoint.name, _tells_epochs(self.job.cfg))
        threads = THREADS.search(found['device'])
        note = dict(
            **self.job.about,
            settings=self.job.digest,
            **found,
            peak_memory_mib=self.peak,
            threads=int(threads[1]) if threads else torch.get_num_threads(),
            started=self.started,
            resumed=self.resumed,
            checkpoint=checkpoint.name,
            tested=which,
        )
        write_note(self.job.folder / TRAINED, note)

    def ended(self, jobs: int) -> Ended:
        """Return the record, written by now, or why there is none."""
        if self.problem:
            return Ended(self.job, problem=self.problem)
        if not self.job.tests:
            return Ended(self.job, read_note(self.job.record))
        trained = read_note(self.job.folder / TRAINED) or dict(
            **self.job.about, settings=self.job.digest
        )
        try:
            metrics = read_test(self.job.folder)
        except (OSError, ValueError) as error:
            return Ended(self.job, problem=f'{error} (log: {self.log_path})')
        write_note(self.job.record, {**trained, 'jobs': jobs, 'test': metrics})
        return Ended(self.job, read_note(self.job.record))


def _tells_epochs(cfg: Config) -> bool:
    """Return whether the log tells at which epoch a validation was, and not at which iteration."""
    logger = (cfg.get('default_hooks') or {}).get('logger') or {}
    return 'max_epochs' in cfg.train_cfg or logger.get('log_metric_by_epoch', True)


def _peak_mib(process: int) -> int | None:
    """Return the most memory that a process has held, where the system tells it."""
    try:
        found = PEAK.search(Path(f'/proc/{process}/status').read_text(encoding='utf-8'))
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def _told(code: int, log: Path) -> str:
    lines = log.read_text(encoding='utf-8', errors='replace').rstrip().splitlines()
    ended = f'signal {-code}' if code < 0 else f'exit code {code}'
    last = ''.join(f'\n    {line}' for line in lines[-TOLD:])
    return f'{ended}; its log is {log}{last}'


# ---------------------------------------------------------------------- how it ends


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, and a terminal that closes, end this process as Ctrl-C does.

    So it leaves no run behind. Under nohup a terminal that closes is nothing to it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # Windows has none
    try:
        before = {number: signal.signal(number, interrupt) for number in numbers}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End processes as Ctrl-C would, and those that do not end at once by force."""
    for process in processes:
        _send(process, signal.SIGINT)
    limit = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)
            process.wait()


def _send(process: subprocess.Popen, number: int) -> None:
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, number)  # its workers too
    except (ProcessLookupError, PermissionError):
        process.send_signal(number)
