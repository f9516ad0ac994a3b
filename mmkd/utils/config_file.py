"""Config files, read so that what is wrong in one is told with its file and line."""

import os
import traceback
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.utils import apply_to, get_installed_path, is_installed

from mmkd.utils.checks import nearest_file
from mmkd.utils.explain import explain
from mmkd.utils.libraries import mend_of, missing_library
from mmkd.utils.plain_values import with_plain_values

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def read_config(path: str) -> Config:
    """Read a config file or ``pkg::path``; one of the new style with names in place of classes.

    Raises:
        FileNotFoundError: It is not there; names the nearest one.
        ValueError: It is no config, or running it fails; names the file, the line and the reason.
    """
    package, _, relative = path.rpartition('::')
    if not package and not os.path.isfile(path):
        kind = (
            'is a folder, not a file'
            if os.path.isdir(path)
            else f'is not there{nearest_file(Path(path))}'
        )
        raise FileNotFoundError(
            f'the config {path!r} {kind} (relative paths start at {os.getcwd()})'
        )
    if not path.endswith(SUFFIXES):
        raise ValueError(f'the config {path!r} must be a file that ends in one of {SUFFIXES}')
    folder = (
        Path(get_installed_path(package)) / '.mim/configs'
        if package and is_installed(package)
        else None
    )
    if package and (folder is None or not (folder / relative).is_file()):
        hint = (
            ': no such package is installed' if folder is None else _nearest(folder, Path(relative))
        )
        raise FileNotFoundError(f'the config {path!r} is not there{hint}')
    try:
        return with_plain_values(get_config(path) if package else Config.fromfile(path))
    except Exception as error:
        raise ValueError(f'{_place(error, path)}: {_reason(error)}') from error


def readable_text(cfg: Config) -> str:
    """Return a config as the text of a file that can be read again, numbers that are none too.

    >>> "float('inf')" in readable_text(Config(dict(norm_type=float('inf'))))
    True
    """
    return Config(apply_to(cfg.to_dict(), _is_no_number, _NoNumber)).pretty_text


class _NoNumber(float):
    """An infinite number or NaN, which Python reads as it is written."""

    def __repr__(self) -> str:
        return f"float('{float(self)!r}')"

    __str__ = __repr__


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _nearest(folder: Path, relative: Path) -> str:
    """Return the nearest file of a package's configs; the nearest folder where that is misspelt."""
    if not folder.is_dir():
        return ': the package brings no configs'
    while not (folder / relative).parent.is_dir():
        relative = relative.parent
    return nearest_file(folder / relative)


def _place(error: Exception, path: str) -> str:
    """Return the file, of the config and its bases, that mmengine was reading, and the line."""
    file, line, told = path, getattr(error, 'lineno', None), f'the config {path!r}'
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == '_file2dict':
            file = str(frame.f_locals.get('filename', file))
        if frame.f_code.co_filename == file:
            line = number
    if file != path and not path.endswith(file):
        told += f', by {file!r} among its _base_'
    return told + (f', line {line}' if line else '')


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return 'its _base_ files name each other in a circle. Mend: take one of them out'
    library = missing_library(error)
    if library:
        return f'it uses {library}, which does not import here. Mend: {mend_of(library)}'
    if isinstance(error, FileNotFoundError):
        missing = Path(str(error.filename or ''))
        if '.mim' in missing.parts:  # where an installed package has its configs
            package = missing.parts[missing.parts.index('.mim') - 1]
            return (
                f'configs of {package!r} are found where it is installed, and it is not. Mend: pip '
                f'install {package}, in a checkout pip install -e .; or the path of the file'
            )
        return (
            f'{explain(error)}{nearest_file(missing)}. Mend: paths of _base_ start at the file '
            'that names them'
        )
    text = explain(error).split(', the current sys.path')[0]
    if isinstance(error, ImportError) and 'custom modules' in text:
        return (
            f'{type(error).__name__}: {text}. Mend: modules of your own are looked for where '
            'Python looks; in the folder that holds them: PYTHONPATH=. mmkd …, or python -m mmkd …'
        )
    return (
        f'{type(error).__name__}: {text}. Mend: a config is a Python file that runs by itself, of '
        'assignments'
    )
