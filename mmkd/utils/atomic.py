"""Files that are written as a whole or not at all."""

import errno
import os
from pathlib import Path

PART = '.part'


def write_atomically(data: bytes, path: str | Path) -> None:
    """Write ``data`` to ``path``, which holds the old content or the new one, never a part.

    The bytes go to ``<path>.<process>.part`` in the same folder, are synced to the disk and renamed
    over ``path``. Whatever stops it (a full disk, Ctrl-C), the temporary file is removed and
    ``path`` is what it was.

    Args:
        data: the whole content.
        path: a local file; missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}{PART}')
    try:
        with open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # KeyboardInterrupt too
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; only POSIX systems can open a folder."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some sync no folders
                raise
        finally:
            os.close(handle)
