"""A run's folder: which run holds it, what files of it lie there, what is left half written."""

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from mmkd.utils.atomic import PART
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.checks import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = 'run.lock'
NOTES = 'last_checkpoint', 'run.json', 'done.json'
BEGUN = 'begun.json'  # by which settings a run began; goes where another one begins
# of some network file systems
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# whatever stands in the file
_NO_OWNER = (ValueError, KeyError, TypeError, RecursionError, OverflowError)
_held: dict[Path, tuple[int, int]] = {}


def hold(folder: str | Path) -> None:
    """Hold a folder for this process, until :func:`release` or its end, whatever ends it.

    ``run.lock`` in it says host and process. The lock itself is the kernel's, of the process and
    not of its forks: it is gone with ``kill -9``, while data loader workers may live on for
    seconds. Where the file system knows no locks, what the file says is believed as long as that
    process lives.

    Raises:
        RuntimeError: A run that lives holds it; says which.
    """
    path = Path(folder).absolute() / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    if _held.get(path, (0, 0))[0] == os.getpid():
        return
    handle = _lock(path)
    before = os.pread(handle, 4096, 0)
    if before:
        print_log(
            f'{path} was left by a run that is over ({_owner(before)}); it is taken over',
            logger='current',
        )
    mine = dict(
        host=socket.gethostname(), pid=os.getpid(), since=time.strftime('%Y-%m-%d %H:%M:%S')
    )
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(mine).encode(), 0)
    _held[path] = os.getpid(), handle


def release(folder: str | Path) -> None:
    """Let go of a folder that this process holds; the lock file goes too."""
    path = Path(folder).absolute() / LOCK
    pid, handle = _held.pop(path, (0, 0))
    if pid == os.getpid():
        path.unlink(missing_ok=True)
        os.close(handle)


def on_main_process(take: Callable[[], None]) -> None:
    """Do something on the main process, and raise on every one the error that it ended by.

    Else the others would go on without it, or wait for it.
    """
    failure: list[Any] = [None]
    if is_main_process():
        try:
            take()
        except (OSError, RuntimeError) as error:
            failure = [error]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def _lock(path: Path) -> int:
    """Return an open, locked file at ``path``."""
    while True:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise RuntimeError(
                f'{path} is a link or no file, and would be written over. Mend: delete it'
            )
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0), 0o644)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, 'no locks here')
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            content = os.pread(handle, 4096, 0)
            if error.errno in _NO_LOCKS and not _lives(content):
                return handle
            os.close(handle)
            raise RuntimeError(
                f'{path.parent} is in use by another run ({_owner(content)}): two runs in one '
                'folder would overwrite the files of each other. Mend: another --work-dir, or wait '
                f'until it ends; where it is known to be over, delete {path}'
            ) from error
        try:
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its last owner deleted it between the two lines


def _owner(content: bytes) -> str:
    try:
        said = json.loads(content)
        return printable(f'process {said["pid"]} on {said["host"]}, since {said["since"]}')
    except _NO_OWNER:
        return f'{LOCK} says: {printable(content.decode(errors="replace"), 80)!r}'


def _lives(content: bytes) -> bool:
    """Return whether the process of a lock file may live; one of another host cannot be asked."""
    try:
        said = json.loads(content)
        pid = int(said['pid'])
        if said['host'] == socket.gethostname():
            os.kill(pid, 0)
    except (*_NO_OWNER, ProcessLookupError):
        return False
    except OSError:  # it is another user's
        return True
    return pid != os.getpid()


def is_checkpoint_name(name: str, template: str) -> bool:
    """Return whether a file is called as a checkpoint hook calls its own.

    >>> names = 'iter_4.pth', 'best_mIoU_iter_4.pth', '../iter_4.pth'
    >>> [is_checkpoint_name(name, 'iter_{}.pth') for name in names]
    [True, True, False]
    """
    return re.fullmatch(rf'(best_[^/\\]+_)?{_numbered(template)}', name) is not None


def _numbered(template: str) -> str:
    """Return the pattern of what a template such as ``iter_{:06d}.pth`` makes of whole numbers."""
    return r'(\d+)'.join(map(re.escape, re.split(r'\{[^{}]*\}', template)))


def newest_checkpoint(checkpoints: Path, template: str) -> str | None:
    """Return the checkpoint of the highest number, best ones aside; None where there is none."""
    pattern = re.compile(_numbered(template))
    found = ((pattern.fullmatch(file.name), file) for file in checkpoints.glob('*.pth'))
    numbered = [(int(match[1]), str(file)) for match, file in found if match and match.groups()]
    return max(numbered)[1] if numbered else None


def newest_of_run(folder: str | Path) -> str | None:
    """Return the checkpoint that a run would go on from; None where it has written none.

    The one that ``last_checkpoint`` names; where nothing is noted, that of the highest iteration or
    else epoch.

    Raises:
        FileNotFoundError: The note names a file that is not there.
    """
    templates = 'iter_{}.pth', 'epoch_{}.pth'
    found = (newest_checkpoint(Path(folder), template) for template in templates)
    return latest_checkpoint(folder) or next(filter(None, found), None)


def files_of_run(work_dir: Path, checkpoints: Path, template: str) -> Iterator[Path]:
    """Yield what a run wrote but logs: checkpoints, students, and its notes."""
    for file in sorted(checkpoints.glob('*.pth')):
        if is_checkpoint_name(file.name, template):
            yield file
    for file in sorted(_students(work_dir, '*')):
        if re.fullmatch(r'(iter|epoch)_\d+\.pth|config\.py', file.name):
            yield file
    for folder in dict.fromkeys((work_dir, checkpoints)):
        notes = [folder / name for name in NOTES]
        yield from (file for file in notes if file.is_file())


def _students(work_dir: Path, pattern: str) -> Iterator[Path]:
    """Yield files of the students' folder, but not of a link, which may lead to another run."""
    folder = work_dir / 'student'
    return iter(()) if folder.is_symlink() else folder.rglob(pattern)


def sweep(*folders: Path) -> None:
    """Delete what killed runs left half written in these folders, ``<name>.<pid>.part``."""
    for folder in folders:
        for file in [*folder.glob(f'*{PART}'), *_students(folder, f'*{PART}')]:
            if re.search(rf'\.\d+{re.escape(PART)}$', file.name) and file.is_file():
                file.unlink(missing_ok=True)
