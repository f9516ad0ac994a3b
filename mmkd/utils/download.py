"""Weights from URLs, kept in torch.hub's cache; what is broken there is dropped."""

import hashlib
import http.client
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

_WEIGHTS = ('.pth', '.pt', '.pkl', '.bin', '.ckpt', '.tar', '.pyth')
_HASH = re.compile(r'-(?!20\d\d[01]\d[0-3]\d\.)([0-9a-f]{8})\.pth$')  # eight digits may be a date


def fetch(url: str, read: Callable[[Path], Any]) -> Any:
    """Return what ``read`` makes of a URL's file, which is downloaded unless the cache has it.

    A file of the cache that is cut short, is a web page, or does not match the hash in its name is
    dropped and fetched anew, once; what is broken as it arrives is not kept.

    Args:
        url: http or https; where its name ends in ``-<8 hex digits>.pth`` these must begin the
            file's SHA-256.
        read: Reads a file; RuntimeError where it is broken.

    Raises:
        ConnectionError: The URL cannot be reached; says which file to put where.
        RuntimeError: What was downloaded a moment ago is broken.
    """
    file, digits = _cached(url)
    if file.is_file():
        try:
            return _read_checked(file, digits, read)
        except (RuntimeError, FileNotFoundError):  # another process dropped it just now
            file.unlink(missing_ok=True)
    _download(url, file)
    try:
        return _read_checked(file, digits, read)
    except RuntimeError as error:
        file.unlink(missing_ok=True)
        raise RuntimeError(
            f'{error}. It came from {url} a moment ago and was deleted again. Mend: is the URL '
            'that of a file, not of a page? Else fetch it by hand and give its local path as '
            'checkpoint'
        ) from error


def _cached(url: str) -> tuple[Path, str | None]:
    """Return where a URL's file is kept, and how its SHA-256 begins, where its name says that."""
    parts = urlparse(url)
    name = os.path.basename(parts.path)
    expected = _HASH.search(name)
    if not expected:  # …/run1/best.pth and …/run2/best.pth are two files
        place = f'{parts.scheme}://{parts.netloc}{parts.path}'
        # …/download?id=1 and …/download?id=2 are two files, a token makes no other
        if not name.endswith(_WEIGHTS):
            place += f'?{parts.query}'
        name = f'{hashlib.sha256(place.encode()).hexdigest()[:8]}_{name}'
    return Path(torch.hub.get_dir()) / 'checkpoints' / name, expected[1] if expected else None


def _download(url: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), progress=False)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ConnectionError(
            f'cannot download {url} ({error}). Without a network: fetch it elsewhere and put it at '
            f'{file}, or give the local path as checkpoint'
        ) from error


def _read_checked(file: Path, digits: str | None, read: Callable[[Path], Any]) -> Any:
    if digits is not None:
        with open(file, 'rb') as content:
            if hasattr(hashlib, 'file_digest'):
                actual = hashlib.file_digest(content, 'sha256').hexdigest()
            else:  # Python 3.10
                actual = hashlib.sha256(content.read()).hexdigest()
        if not actual.startswith(digits):
            raise RuntimeError(
                f'{file} has the SHA-256 {actual[:8]}… and its name says {digits}: it is '
                'incomplete or another file'
            )
    return read(file)
