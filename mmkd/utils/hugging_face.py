"""The optional library of Hugging Face, and the folders that its models lie in."""

import importlib
from pathlib import Path
from typing import Any

from mmengine.utils import get_installed_path, is_installed

from mmkd.utils.checks import nearest


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


def read_settings(library: Any, config: str | dict, options: dict, example: str) -> Any:
    """Return a model's config of the library: of a folder, or of a dictionary with its type.

    Args:
        library: What :func:`transformers` returned.
        config: Folder with ``config.json``, ``package::path``, or a dictionary with a
            ``model_type``.
        options: Entries that replace those of the config.
        example: A ``model_type``, for the error.

    Raises:
        FileNotFoundError: The folder is not there.
        KeyError: No ``model_type``; an option that the config does not have, with its nearest
            match.
        ValueError: A ``model_type`` that the library does not know.
    """
    if isinstance(config, str):
        settings = library.AutoConfig.from_pretrained(resolve_folder(config), local_files_only=True)
    else:
        config = dict(config)
        if 'model_type' not in config:
            raise KeyError(
                f'config needs a model_type, got {sorted(config)}. Mend: '
                f"dict(model_type='{example}', …)"
            )
        kind, options = config.pop('model_type'), config | options
        _check_options(library.AutoConfig.for_model(kind), options)
        # made anew: what a config derives from its entries follows them
        return library.AutoConfig.for_model(kind, **options)
    _check_options(settings, options)
    for key, value in options.items():
        # the config's own name of it is private
        setattr(settings, f'_{key}' if key == 'attn_implementation' else key, value)
    return settings


def _check_options(settings: Any, options: dict) -> None:
    for key in options:
        if key != 'attn_implementation' and not hasattr(settings, key):
            raise KeyError(
                f'options name {key!r}, which the config of a {settings.model_type} does not '
                f'have{nearest(key, settings.to_dict())}'
            )


def pretrained_folder(library: Any, kind: Any, path: str, settings: Any) -> Any:
    """Return a model with the weights of a folder.

    Args:
        library: What :func:`transformers` returned.
        kind: Class of the model, or one of the library's ``Auto…``.
        path: The folder, or ``package::path``.
        settings: The model's config.

    Raises:
        FileNotFoundError: The folder is not there.
        ValueError: It lacks weights of the model, which would be random.
    """
    library.logging.set_verbosity_error()
    model, found = kind.from_pretrained(
        resolve_folder(path), config=settings, local_files_only=True, output_loading_info=True
    )
    lost = sorted(key for key in found['missing_keys'] if 'pooler' not in key)
    other = [entry[0] for entry in found.get('mismatched_keys') or ()]
    if lost or other:
        raise ValueError(
            f'pretrained={path!r} lacks {len(lost) + len(other)} weights of its '
            f'{type(model).__name__}, such as {[*lost, *other][:3]}: they would be random. Mend: a '
            'folder as model.save_pretrained writes it, with its own config'
        )
    return model
