"""Processes of tests as forks, which pay for no imports: an interpreter that imports mmkd takes
five seconds, as long as a whole training here.
"""

import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

HOLD = "import sys; from mmkd.utils.work_dir import hold; hold(sys.argv[1]); print('held'); input()"


@contextmanager
def held_by_another(folder: Path) -> Iterator[int]:
    """Have another process hold a folder, as a run does; yield its number."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, '-c', HOLD, folder], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == 'held\n'
        yield other.pid
        other.communicate('\n')


def _as_a_program(work: Callable[[], Any]) -> int:
    """Return the exit code that Python would end with, after it has said what Python would say."""
    try:
        work()
    except SystemExit as stopped:
        if not isinstance(stopped.code, str):
            return stopped.code or 0
        print(stopped.code, file=sys.stderr)
        return 1
    except BaseException:  # the parent is told by the exit code
        traceback.print_exc()
        return 1
    return 0


def start(work: Callable[[], Any], said: Path | None = None) -> int:
    """Run in a fork; return its process id.

    Args:
        work: What the child does.
        said: A file for all that it prints; nothing of it is kept without one.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        gc.freeze()  # else each collection walks, and copies, all that the parent holds
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
        file = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.stdout, sys.stderr = (
            os.fdopen(1, 'w', 1),
            os.fdopen(2, 'w', 1),
        )  # pytest's lie elsewhere
        code = _as_a_program(work)
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    """Wait for a child; return its exit code, minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ends_of(children: list[int], patience: float = 200.0) -> list[int]:
    """Wait for several that wait for each other: where one fails, or time is up, end all."""
    codes: dict[int, int] = {}
    limit = time.monotonic() + patience
    while len(codes) < len(children):
        for child in (child for child in children if child not in codes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif any(codes.values()) or time.monotonic() > limit:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]


def forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """Run in a fork and wait for its end, or kill it; return the exit code, minus the signal."""
    child = start(work)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return end_of(child)


def as_main(path: Path, *arguments: Any, cwd: Path, **environment: str) -> Callable[[], Any]:
    """Return what runs a Python file as a program, in another folder."""

    def run() -> None:
        os.chdir(cwd)
        os.environ.update(environment)
        sys.argv = [str(path), *map(str, arguments)]
        runpy.run_path(str(path), run_name='__main__')

    return run


def program(path: Path, *arguments: Any, cwd: Path) -> tuple[int, str]:
    """Run a Python file as from a shell in another folder; return exit code and print-out."""
    said = cwd / f'said_{time.monotonic_ns()}.txt'
    code = end_of(start(as_main(path, *arguments, cwd=cwd), said))
    text = said.read_text()
    said.unlink()
    return code, text


def shell(path: Path, *arguments: Any, cwd: Path) -> str:
    """Run a Python file as from a shell in another folder; return what it printed."""
    code, text = program(path, *arguments, cwd=cwd)
    assert code == 0, text[-6000:]
    return text


def torchrun(path: Path, *arguments: Any, cwd: Path, number: int = 2) -> str:
    """Run a Python file in so many processes, with the variables that torchrun sets."""
    common = dict(WORLD_SIZE=str(number), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    files = [cwd / f'said_{rank}.txt' for rank in range(number)]
    children = [
        start(as_main(path, *arguments, cwd=cwd, **common, RANK=rank, LOCAL_RANK=rank), file)
        for rank, file in ((str(rank), file) for rank, file in enumerate(files))
    ]
    codes = ends_of(children)
    text = '\n'.join(file.read_text() for file in files)
    assert codes == [0] * number, text[-6000:]
    return text


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def ranks(work: Callable[..., None], folder: Path, *arguments: Any, number: int = 2) -> None:
    """Run ``work(rank, folder, *arguments)`` in so many processes at once, one thread each.

    They meet by ``torch.distributed`` over the file ``meet`` in ``folder``.
    """

    def one(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number))
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=number
        )
        work(rank, folder, *arguments)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    files = [folder / f'said_{rank}.txt' for rank in range(number)]
    children = [start(partial(one, rank), file) for rank, file in enumerate(files)]
    codes = ends_of(children)
    assert codes == [0] * number, '\n'.join(file.read_text()[-3000:] for file in files)
