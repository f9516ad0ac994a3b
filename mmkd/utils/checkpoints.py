"""Read weights from any checkpoint safely, and load them strictly."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.utils.checks import nearest, printable
from mmkd.utils.download import fetch
from mmkd.utils.torch_file import BrokenFileError, UnknownNameError, read_torch_file

_trusted = False
_handed_over: dict[str, Any] = {}


def trust_checkpoints() -> None:
    """Let every checkpoint of this process run the code that it holds: ``--trust-checkpoint``."""
    global _trusted
    _trusted = True


def trusts_checkpoints() -> bool:
    """Return whether that was asked for."""
    return _trusted


def load_checkpoint_file(path: str | Path) -> Any:
    """Read all of a checkpoint as data: nothing of it runs, see :mod:`mmkd.utils.torch_file`.

    Args:
        path: a file, or an http(s) URL, kept in torch.hub's cache; where its name ends in ``-<8 hex
            digits>.pth`` these must be the beginning of the file's SHA-256. What is broken in the
            cache is fetched once more.

    Raises:
        FileNotFoundError: no such file; names the nearest ones in that folder.
        ConnectionError: the URL cannot be reached; says which file to put where.
        RuntimeError: the file is truncated or damaged, is no checkpoint, or does not match its
            hash.
        TypeError: the file needs a class that is not known to be harmless.
    """
    name = str(path)
    if name in _handed_over:
        return _handed_over.pop(name)
    if name.startswith(('http://', 'https://')):
        return fetch(name, _read)
    if '://' in name:
        raise FileNotFoundError(
            f'{name}: only files and http(s) URLs are loaded; give the URL this name stands for'
        )
    return _read(existing_file(Path(path)))


def hand_over(path: str | Path, content: Any) -> None:
    """Let the next one who reads ``path`` have this content: what was checked is what is loaded."""
    _handed_over[str(path)] = content


def load_for_mmengine(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    """Stand in for mmengine's loader, which reads without care what the careful way refuses.

    Args:
        file: A path, a URL or an open file.
        map_location: Left alone: tensors are on the CPU, and who loads them copies them to where
            they belong.
        weights_only: Left alone.
    """
    content = (
        _read_open(file, 'the checkpoint') if hasattr(file, 'read') else load_checkpoint_file(file)
    )
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)  # a string that Runner.resume would execute
    return content


def latest_checkpoint(folder: str | Path) -> str | None:
    """Return the checkpoint that ``last_checkpoint`` names; None where none was written yet.

    It lies beside that note. Only the name is taken of what the file says: a folder may be moved or
    copied, and no file leads out of it.

    Raises:
        FileNotFoundError: There is no such file in that folder.
    """
    note = Path(folder) / 'last_checkpoint'
    if not note.is_file():
        return None
    with open(note, encoding='utf-8', errors='replace') as file:
        text = file.read(4096).strip()
    name = re.split(r'[/\\]', text)[-1]
    # is_file() alone dies of a long name
    if name in os.listdir(note.parent) and (note.parent / name).is_file():
        return str(note.parent / name)
    files = sorted(other.name for other in note.parent.glob('*.pth'))
    raise FileNotFoundError(
        f'{note} names {printable(text)!r}, but no such file lies beside it (checkpoints there: '
        f'{listed(files) or "none"}). Mend: write the name of one of them into it, or delete it; a '
        'checkpoint of elsewhere is resumed by --resume --cfg-options load_from=PATH'
    )


def load_state_dict_file(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, safely.

    Accepts a bare state dict, ``{'state_dict': …}`` (mmengine, mmcv) and ``{'model': …}``
    (detectron2, timm), files of numpy 1 and 2, arrays in place of tensors, and a common ``module.``
    prefix, which is taken off.

    Args:
        path: a file or an http(s) URL, as for :func:`load_checkpoint_file`, whose errors are raised
            here too.

    Returns:
        The tensors by name, on the CPU, module versions (``_metadata``) kept.

    Raises:
        TypeError: the file holds no state dict.
    """
    weights = state_dict_in(load_checkpoint_file(path), path)
    return (
        _strip(weights, 'module.') if all(key.startswith('module.') for key in weights) else weights
    )


def select_prefix(
    state_dict: Mapping[str, Tensor], prefixes: str | Sequence[str]
) -> dict[str, Tensor]:
    """Take what lies under a prefix in a state dict, prefix taken off: one member, one backbone.

    Args:
        state_dict: names and tensors.
        prefixes: the first one that any key begins with is taken; a missing final dot is added.

    Raises:
        KeyError: no key begins with any of them; names those that exist.

    >>> state = {'students.student.w': torch.zeros(1), 'objectives.x': torch.ones(1)}
    >>> dict(select_prefix(state, 'students.student'))
    {'w': tensor([0.])}
    """
    wanted = [prefixes] if isinstance(prefixes, str) else list(prefixes)
    wanted = [prefix if prefix.endswith('.') else f'{prefix}.' for prefix in wanted]
    for prefix in wanted:
        if any(key.startswith(prefix) for key in state_dict):
            return _strip(state_dict, prefix)
    depth = max(prefix.count('.') for prefix in wanted)
    present = sorted({'.'.join(key.split('.')[:depth]) + '.' for key in state_dict})
    raise KeyError(
        f'no key begins with {" or ".join(map(repr, wanted))}{nearest(wanted[0], present)} (the '
        f'{len(state_dict)} keys begin with: {listed(present)})'
    )


def select_member(state_dict: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """Take the weights of one network: of a run of several its own, all of any other file.

    Args:
        state_dict: names and tensors.
        name: of the network; where the run has no student of that name, the one called student.

    Raises:
        KeyError: it is a run of other networks.

    >>> state = {'students.student.w': torch.zeros(1), 'objectives.x': torch.ones(1)}
    >>> dict(select_member(state, 'teacher')), dict(select_member({'w': torch.ones(1)}, 'teacher'))
    ({'w': tensor([0.])}, {'w': tensor([1.])})
    """
    of_run = any(key.startswith(('students.', 'objectives.')) for key in state_dict)
    prefixes = [f'students.{name}.', 'students.student.']
    return select_prefix(state_dict, prefixes) if of_run else state_dict


def load_strict(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Load every weight of a model, or raise one error that lists what does not fit.

    BatchNorm's ``num_batches_tracked``, which old checkpoints lack and evaluation never reads, may
    be missing. Names, shapes and kinds of numbers are compared before a single value is converted.

    Args:
        model: receives the weights; after an error it must not be used.
        state_dict: its names must be the model's.
        where: how the error calls the checkpoint, e.g. ``"teacher 'teacher' from best.pth"``.

    Raises:
        RuntimeError: missing, unexpected or mis-shaped keys.
        TypeError: complex or whole numbers where the model has real ones.
        FloatingPointError: weights that are not finite in the model's precision, negative
            variances.
    """
    own = model.state_dict()
    both = [
        (key, value, state_dict[key])
        for key, value in own.items()
        if isinstance(value, Tensor) and key in state_dict
    ]
    wrong = [
        f'{key} {tuple(given.shape)}, the model has {tuple(value.shape)}'
        for key, value, given in both
        if given.shape != value.shape
    ]
    other = [
        f'{key} {_dtype(given)}, the model has {_dtype(value)}'
        for key, value, given in both
        if not _same_kind(value, given)
    ]
    if other and not wrong:  # torch would convert them in silence
        raise TypeError(
            f'{where} holds another kind of numbers than {type(model).__name__}: {listed(other)}. '
            'Mend: save real weights, model.float().state_dict(), before a model is quantised'
        )
    if wrong:  # torch would stop at these without a word about the others
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
    else:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    if not (wrong or missing or unexpected):
        refuse_spoilt(model, where)
        return
    found = [
        f'{len(keys)} {kind}: {listed(keys)}'
        for kind, keys in (
            ('missing', missing),
            ('unexpected', unexpected),
            ('of another shape', wrong),
        )
        if keys
    ]
    raise RuntimeError(
        '\n  '.join(
            [
                f'{where} does not fit {type(model).__name__} ({len(own)} entries):',
                *found,
                _guess(missing, unexpected),
            ]
        )
    )


def refuse_spoilt(model: nn.Module, where: str) -> None:
    """Refuse a model that can only compute NaN or Inf.

    A buffer may hold Inf on purpose (an attention mask), never NaN.

    Args:
        model: The model with its weights.
        where: How the error calls it.

    Raises:
        FloatingPointError: Weights that are not finite, or negative running variances; names the
            first keys.

    >>> model = nn.BatchNorm1d(1)
    >>> refuse_spoilt(model, 'teacher')
    >>> refuse_spoilt(model.half().apply(lambda m: m.weight.data.mul_(1e6)), 'teacher')
    Traceback (most recent call last):
    FloatingPointError: teacher has weights that are NaN or Inf: weight. Mend: a checkpoint of ...
    """
    bad = spoilt(model)
    if bad:
        raise FloatingPointError(
            f'{where} has weights that are NaN or Inf: {listed(bad)}. Mend: a checkpoint of before '
            'they became so (a training that diverged writes such ones); of float64, weights that '
            'float32 can hold'
        )
    negative = [
        key
        for key, value in model.state_dict().items()
        if key.endswith('running_var') and isinstance(value, Tensor) and (value < 0).any()
    ]
    if negative:
        raise FloatingPointError(
            f'{where} has negative running variances, of which BatchNorm takes the root: '
            f'{listed(negative)}. Mend: a checkpoint as it was written; sums and differences of '
            'state dicts must leave variances alone'
        )


def spoilt(model: nn.Module) -> list[str]:
    """Return the names of parameters that are not finite, and of saved buffers that hold NaN.

    >>> spoilt(nn.Linear(1, 1).apply(lambda m: m.bias.data.fill_(float('nan'))))
    ['bias']
    """
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
        and not (value.isfinite() if name in learned else ~value.isnan()).all()
    ]


def _same_kind(value: Tensor, given: Tensor) -> bool:
    """Whether a copy keeps what ``given`` means: no part is lost, no code taken for a number."""
    if given.is_complex() or value.is_complex():
        return given.is_complex() == value.is_complex()
    return given.is_floating_point() or not value.is_floating_point()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


def _guess(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return the mend: the prefix to select, where that explains everything."""
    for key in missing[:1]:
        prefixes = {other[: -len(key)] for other in unexpected if other.endswith(f'.{key}')}
        for prefix in prefixes:
            if {prefix + name for name in missing} <= set(unexpected):
                return (
                    f'Mend: these weights lie under {prefix!r}: take select_prefix(state_dict, '
                    f'{prefix!r}).'
                )
    return 'Mend: is this the checkpoint of another architecture, or of another number of classes?'


def listed(names: Iterable[str], count: int = 10) -> str:
    """Return the first of many names as errors list them, and how many more there are.

    >>> listed(['a', 'b', 'c'], 2)
    'a, b, … (1 more)'
    """
    names = list(names)
    more = f', … ({len(names) - count} more)' if len(names) > count else ''
    return ', '.join(printable(name, 100) for name in names[:count]) + more


def _strip(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Keep what lies under a prefix, of names and of the module versions that torch keeps."""
    part = OrderedDict(
        (key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix)
    )
    versions = getattr(state_dict, '_metadata', None)
    if versions is not None:
        # without its version a module takes the weights for those of its oldest release and renames
        # them
        part._metadata = OrderedDict(  # type: ignore[attr-defined]
            (key[len(prefix) :], value)
            for key, value in versions.items()
            if f'{key}.'.startswith(prefix)
        )
    return part


def state_dict_in(content: Any, file: str | Path) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, arrays turned into tensors.

    Raises:
        TypeError: There is none.
    """
    weights = content
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise TypeError(
            f'{file} holds no state dict but {type(weights).__name__}; write it with '
            'torch.save(model.state_dict(), path)'
        )
    tensors = OrderedDict((key, _as_tensor(value)) for key, value in weights.items())
    unnamed = [f'{key!r:.40}' for key in tensors if not isinstance(key, str)]
    if unnamed:
        raise TypeError(
            f'{file} holds no state dict: its keys are {listed(unnamed)}, but weights go by names. '
            'Write it with torch.save(model.state_dict(), path)'
        )
    other = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if other:
        raise TypeError(
            f'{file} holds no state dict: neither "state_dict" nor "model" is a key of it, and '
            f'these entries are no tensors: {listed(other)}. Write it with '
            'torch.save(model.state_dict(), path)'
        )
    if hasattr(weights, '_metadata'):
        tensors._metadata = weights._metadata  # type: ignore[attr-defined]
    return tensors


def _as_tensor(value: Any) -> Any:
    """Return an array as a tensor, whatever its byte order; other things as they are."""
    if not isinstance(value, np.ndarray):
        return value
    return torch.from_numpy(value.astype(value.dtype.newbyteorder('=')))


def _read(file: Path) -> Any:
    with open(file, 'rb') as opened:  # once: what is checked is what is loaded
        return _read_open(opened, str(file))


def _read_open(file: Any, name: str) -> Any:
    if _trusted:
        return torch.load(file, map_location='cpu', weights_only=False)
    try:
        return read_torch_file(file)
    except UnknownNameError as error:
        raise TypeError(
            f'{name} needs {printable(error)}, which mmkd does not know to be harmless, so it was '
            'not loaded. Mend: where you trust the file, load it once yourself and keep only the '
            "weights: torch.save(torch.load(path, weights_only=False)['state_dict'], new_path); or "
            '--trust-checkpoint, which lets it run its code'
        ) from error
    except BrokenFileError as error:
        raise RuntimeError(
            f'{name} ({file.seek(0, os.SEEK_END)} bytes) is truncated or is no PyTorch checkpoint; '
            f'copy or download it again ({printable(error)})'
        ) from error


def existing_file(file: Path) -> Path:
    """Return the path of a checkpoint that is there.

    Raises:
        FileNotFoundError: It is not; names the nearest ones in its folder.
    """
    if file.is_file():
        return file
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f'checkpoint {file} does not exist, nor does its folder {file.parent.absolute()}'
        )
    kind = 'is a folder, not a file' if file.is_dir() else 'does not exist'
    folder = file if file.is_dir() else file.parent
    files = sorted(name for name in os.listdir(folder) if (folder / name).is_file())
    raise FileNotFoundError(
        f'checkpoint {file} {kind}{nearest(file.name, files)} (files in {folder.absolute()}: '
        f'{listed(files) or "none"})'
    )
