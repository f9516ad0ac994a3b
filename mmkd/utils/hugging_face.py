"""The optional library of Hugging Face, and the folders that its models lie in."""

import importlib
from pathlib import Path
from typing import Any

from mmengine.utils import get_installed_path, is_installed


def transformers(what: str) -> Any:
    """Import the optional library.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module('transformers')
    except ImportError as error:
        raise ImportError(
            f'{what} needs the library transformers, which is not installed. Mend: pip install '
            "'mmkd[text]'"
        ) from error


def resolve_folder(path: str) -> str:
    """Return a folder, given as a path or as ``package::path`` inside an installed package.

    Raises:
        FileNotFoundError: It is not there.
    """
    package, found, rest = path.partition('::')
    if found and not is_installed(package):
        raise FileNotFoundError(
            f'{path!r}: the package {package!r} is not installed. Mend: pip install '
            f'{package.replace("_", "-")}, or a folder'
        )
    folder = Path(get_installed_path(package), rest) if found else Path(path)
    if not folder.exists():
        raise FileNotFoundError(
            f'{path!r} is not there ({folder}). Mend: a folder with config.json, as '
            "model.save_pretrained writes it, or 'package::path'"
        )
    return str(folder)
