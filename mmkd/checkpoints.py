"""Read weights from any checkpoint safely, and load them strictly."""
import hashlib
import http.client
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.checks import nearest

_HASH = re.compile(r'-(?!20\d\d[01]\d[0-3]\d\.)([0-9a-f]{8})\.pth$')  # eight digits may be a date


class _Ignored:
    """Stands for a class whose objects lie beside the weights and are thrown away; its code never runs."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Ignored':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _known_globals() -> list:
    """Return what checkpoints of mmengine, mmcv and numpy users hold, as (stand-in or the thing itself, its name).

    Arrays are rebuilt by numpy itself, under the names of numpy 1 and 2; everything else gets an inert stand-in:
    ``getattr`` above all, which mmengine's HistoryBuffer asks for and which would otherwise open any door.
    """
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    known: list = [(part, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
                   for name, part in (('_reconstruct', multiarray._reconstruct), ('scalar', multiarray.scalar))]
    known += [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in np.sctypeDict.values()}]
    known += [(_Ignored, name) for name in (
        'builtins.getattr', 'builtins.slice', 'mmengine.logging.history_buffer.HistoryBuffer',
        'pathlib.PosixPath', 'pathlib.WindowsPath', 'pathlib._local.PosixPath', 'pathlib._local.WindowsPath')]
    known += [(dict, name) for name in (
        'mmengine.config.config.ConfigDict', 'mmcv.utils.config.ConfigDict', 'addict.addict.Dict')]
    return known


def load_checkpoint_file(path: str | Path) -> Any:
    """Read all of a checkpoint without running any code that it may hold; log histories come back empty.

    Args:
        path: a file, or an http(s) URL, kept in torch.hub's cache; where its name ends in ``-<8 hex digits>.pth``
            these must be the beginning of the file's SHA-256.

    Raises:
        FileNotFoundError: no such file; names the nearest ones in that folder.
        ConnectionError: the URL cannot be reached; says which file to put where.
        RuntimeError: the file is truncated, is no checkpoint, or does not match its hash.
        TypeError: the file needs a class that is not known to be harmless.
    """
    name = str(path)
    if name.startswith(('http://', 'https://')):
        return _read(_download(name))
    if '://' in name:
        raise FileNotFoundError(f'{name}: only files and http(s) URLs are loaded; give the URL this name stands for')
    return _read(_existing(Path(path)))


def load_state_dict_file(path: str | Path, float32: bool = False) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, safely.

    Accepts a bare state dict, ``{'state_dict': …}`` (mmengine, mmcv) and ``{'model': …}`` (detectron2, timm), files of
    numpy 1 and 2, arrays in place of tensors, and a common ``module.`` prefix, which is taken off.

    Args:
        path: a file or an http(s) URL, as for :func:`load_checkpoint_file`, whose errors are raised here too.
        float32: turn float16 and bfloat16 weights into float32.

    Returns:
        The tensors by name, on the CPU, module versions (``_metadata``) kept.

    Raises:
        TypeError: the file holds no state dict.
    """
    weights = _state_dict_in(load_checkpoint_file(path), path)
    if all(key.startswith('module.') for key in weights):
        weights = _strip(weights, 'module.')
    if float32:
        for key, value in weights.items():
            if value.dtype in (torch.float16, torch.bfloat16):
                weights[key] = value.float()
    return weights


def select_prefix(state_dict: Mapping[str, Tensor], prefixes: str | Sequence[str]) -> dict[str, Tensor]:
    """Take the part of a state dict under a prefix, prefix taken off: one member of an mmkd run, one backbone.

    Args:
        state_dict: names and tensors.
        prefixes: the first one that any key begins with is taken; a missing final dot is added.

    Raises:
        KeyError: no key begins with any of them; names those that exist.

    >>> dict(select_prefix({'students.student.w': torch.zeros(1), 'objectives.x': torch.ones(1)}, 'students.student'))
    {'w': tensor([0.])}
    """
    wanted = [prefixes] if isinstance(prefixes, str) else list(prefixes)
    wanted = [prefix if prefix.endswith('.') else f'{prefix}.' for prefix in wanted]
    for prefix in wanted:
        if any(key.startswith(prefix) for key in state_dict):
            return _strip(state_dict, prefix)
    depth = max(prefix.count('.') for prefix in wanted)
    present = sorted({'.'.join(key.split('.')[:depth]) + '.' for key in state_dict})
    raise KeyError(f'no key begins with {" or ".join(map(repr, wanted))}{nearest(wanted[0], present)} '
                   f'(the {len(state_dict)} keys begin with: {_first(present)})')


def load_strict(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Load every weight of a model, or raise one error that lists what does not fit.

    BatchNorm's ``num_batches_tracked``, which old checkpoints lack and evaluation never reads, may be
    missing. Names, shapes and kinds of numbers are compared before a single value is converted.

    Args:
        model: receives the weights; after an error it must not be used.
        state_dict: its names must be the model's.
        where: how the error calls the checkpoint, e.g. ``"teacher 'teacher' from best.pth"``.

    Raises:
        RuntimeError: missing, unexpected or mis-shaped keys.
        TypeError: complex or whole numbers where the model has real ones.
        FloatingPointError: weights that are not finite in the model's precision, negative variances.
    """
    own = model.state_dict()
    both = [(key, value, state_dict[key]) for key, value in own.items()
            if isinstance(value, Tensor) and key in state_dict]
    wrong = [f'{key} {tuple(given.shape)}, the model has {tuple(value.shape)}'
             for key, value, given in both if given.shape != value.shape]
    other = [f'{key} {_dtype(given)}, the model has {_dtype(value)}'
             for key, value, given in both if not _same_kind(value, given)]
    if other and not wrong:  # torch would convert them in silence
        raise TypeError(f'{where} holds another kind of numbers than {type(model).__name__}: '
                        f'{_first(other)}. Mend: save real weights, model.float().state_dict(), before '
                        'a model is quantised')
    if wrong:  # torch would stop at these without a word about the others
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
    else:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    if not (wrong or missing or unexpected):
        refuse_spoilt(model, where)
        return
    found = [f'{len(keys)} {kind}: {_first(keys)}' for kind, keys in
             (('missing', missing), ('unexpected', unexpected), ('of another shape', wrong)) if keys]
    raise RuntimeError('\n  '.join([f'{where} does not fit {type(model).__name__} ({len(own)} entries):', *found,
                                    _guess(missing, unexpected)]))


def refuse_spoilt(model: nn.Module, where: str) -> None:
    """Refuse a model that can only compute NaN or Inf.

    A buffer may hold Inf on purpose (an attention mask), never NaN.

    Args:
        model: The model with its weights.
        where: How the error calls it.

    Raises:
        FloatingPointError: Weights that are not finite, or negative running variances; names the first
            keys.

    >>> model = nn.BatchNorm1d(1)
    >>> refuse_spoilt(model, 'teacher')
    >>> refuse_spoilt(model.half().apply(lambda m: m.weight.data.mul_(1e6)), 'teacher')
    Traceback (most recent call last):
    FloatingPointError: teacher has weights that are NaN or Inf: weight. Mend: a checkpoint of ...
    """
    bad = spoilt(model)
    if bad:
        raise FloatingPointError(f'{where} has weights that are NaN or Inf: {_first(bad)}. Mend: a '
                                 'checkpoint of before they became so (a training that diverged writes '
                                 'such ones); of float64, weights that float32 can hold')
    negative = [key for key, value in model.state_dict().items()
                if key.endswith('running_var') and isinstance(value, Tensor) and (value < 0).any()]
    if negative:
        raise FloatingPointError(f'{where} has negative running variances, of which BatchNorm takes '
                                 f'the root: {_first(negative)}. Mend: a checkpoint as it was written; '
                                 'sums and differences of state dicts must leave variances alone')


def spoilt(model: nn.Module) -> list[str]:
    """Return the names of parameters that are not finite, and of saved buffers that hold NaN.

    >>> spoilt(nn.Linear(1, 1).apply(lambda m: m.bias.data.fill_(float('nan'))))
    ['bias']
    """
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [name for name, value in model.state_dict().items() if isinstance(value, Tensor)
            and not (value.isfinite() if name in learned else ~value.isnan()).all()]


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
        prefixes = {other[:-len(key)] for other in unexpected if other.endswith(f'.{key}')}
        for prefix in prefixes:
            if {prefix + name for name in missing} <= set(unexpected):
                return f'Mend: these weights lie under {prefix!r}: take select_prefix(state_dict, {prefix!r}).'
    return 'Mend: is this the checkpoint of another architecture, or of another number of classes?'


def _first(names: Iterable[str], count: int = 10) -> str:
    names = list(names)
    return ', '.join(names[:count]) + (f', … ({len(names) - count} more)' if len(names) > count else '')


def _strip(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Keep what lies under a prefix, in names and in the module versions that torch keeps beside them."""
    part = OrderedDict((key[len(prefix):], value) for key, value in state_dict.items() if key.startswith(prefix))
    versions = getattr(state_dict, '_metadata', None)
    if versions is not None:
        # without its version a module takes the weights for those of its oldest release and renames them
        part._metadata = OrderedDict(  # type: ignore[attr-defined]
            (key[len(prefix):], value) for key, value in versions.items() if f'{key}.'.startswith(prefix))
    return part


def _state_dict_in(content: Any, file: str | Path) -> dict[str, Tensor]:
    """Find the state dict in what a file holds, arrays turned into tensors."""
    weights = content
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise TypeError(f'{file} holds no state dict but {type(weights).__name__}; write it with '
                        'torch.save(model.state_dict(), path)')
    tensors = OrderedDict((key, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
                          for key, value in weights.items())
    other = [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]
    if other:
        raise TypeError(f'{file} holds no state dict: neither "state_dict" nor "model" is a key of it, and these '
                        f'entries are no tensors: {_first(other)}. Write it with torch.save(model.state_dict(), path)')
    if hasattr(weights, '_metadata'):
        tensors._metadata = weights._metadata  # type: ignore[attr-defined]
    return tensors


def _read(file: Path) -> Any:
    """torch.load without code: what is not known is an error, never a reason to load the unsafe way."""
    try:
        with torch.serialization.safe_globals(_known_globals()):
            return torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises six kinds of errors for broken files
        unknown = re.search(r'GLOBAL (\S+)', str(error)) if isinstance(error, UnpicklingError) else None
        if unknown:
            raise TypeError(f'{file} needs {unknown[1]}, which mmkd does not know to be harmless, so it was not '
                            'loaded. Mend: where you trust the file, load it once yourself and keep only the weights: '
                            "torch.save(torch.load(path, weights_only=False)['state_dict'], new_path)") from error
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        raise RuntimeError(f'{file} ({file.stat().st_size} bytes) is truncated or is no PyTorch checkpoint; copy or '
                           f'download it again ({reason})') from error


def _existing(file: Path) -> Path:
    if file.is_file():
        return file
    if not file.parent.is_dir():
        raise FileNotFoundError(f'checkpoint {file} does not exist, nor does its folder {file.parent.absolute()}')
    kind = 'is a folder, not a file' if file.is_dir() else 'does not exist'
    folder = file if file.is_dir() else file.parent
    files = sorted(name for name in os.listdir(folder) if (folder / name).is_file())
    raise FileNotFoundError(f'checkpoint {file} {kind}{nearest(file.name, files)} '
                            f'(files in {folder.absolute()}: {_first(files) or "none"})')


def _download(url: str) -> Path:
    """Return the cached file of a URL, downloaded if need be and checked against the hash in its name."""
    parts = urlparse(url)
    name = os.path.basename(parts.path)
    expected = _HASH.search(name)
    if not expected:  # …/run1/best.pth and …/run2/best.pth are two files
        place = f'{parts.scheme}://{parts.netloc}{parts.path}'  # without the token of a signed URL
        name = f'{hashlib.sha256(place.encode()).hexdigest()[:8]}_{name}'
    file = Path(torch.hub.get_dir()) / 'checkpoints' / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise ConnectionError(f'cannot download {url} ({error}). Without a network: fetch it elsewhere and put it '
                                  f'at {file}, or give the local path as checkpoint') from error
    if expected:
        digest = hashlib.sha256()
        with open(file, 'rb') as content:
            while chunk := content.read(2 ** 20):
                digest.update(chunk)
        actual = digest.hexdigest()
        if not actual.startswith(expected[1]):
            raise RuntimeError(f'{file} has the SHA-256 {actual[:8]}… and its name says {expected[1]}: it is '
                               'incomplete or another file. Delete it and try again, or give its local path as '
                               'checkpoint to load it unchecked')
    return file
