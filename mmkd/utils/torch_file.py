"""Read what ``torch.save`` wrote as data: nothing runs, nothing takes more memory than it holds.

A PyTorch file is a pickle beside the bytes of its tensors, and a pickle is a program. Here it is
read by an unpickler that knows some forty names, each bound to a function of this module that makes
plain data of plain data. Tensors and arrays are first described and then made, once their sizes
were found to fit into the bytes that are there; these are read by the same open file and checked
against its CRC-32.
"""

import _compat_pickle
import math
import os
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, ClassVar, NoReturn

import numpy as np
import torch

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files from before torch 1.6
_MAX_DEPTH = 64  # of containers in containers; checkpoints of mmengine have about ten
_MAX_ENTRIES = 10_000_000  # of all containers, counted as often as they are referred to
_MAX_SIZE = 2**48  # of one axis
_MAX_RECORDS = 16_384  # one a tensor
_MAX_BITS = 1024  # of one whole number
# what a byte of a pickle asks for costs a hundred; a big run has 30,000
_MAX_MARKS, _MAX_MEMO = 1000, 300_000
_FREE, _PER_BYTE = 2**23, 8  # bytes that a pickle may make, and how many more for each of its own
# bytes that are charged for what a call makes, and for a container
_CALL, _CONTAINER, _SET = 500, 64, 216
_MAX_RECORD_NAME = 256  # of the list of records, each: name and notes
# other keys than texts and small numbers: of one hash, they take time by the square
_MAX_ODD_KEYS = 1000
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size, slice)


class UnknownNameError(TypeError):
    """A file names a class or function that is not known to be harmless."""


class BrokenFileError(ValueError):
    """A file is not what it says."""


def read_torch_file(file: BinaryIO) -> Any:
    """Return the content of an open file of ``torch.save``, zipped or older; tensors on the CPU.

    Args:
        file: Open for reading bytes, at its beginning; one that can seek.

    Raises:
        UnknownNameError: It needs a class or function that is not known to be harmless.
        BrokenFileError: It is damaged, cut short, compressed, or lies about sizes.

    >>> file = BytesIO()
    >>> torch.save({'w': torch.tensor([1., 2.]), 'lr': 0.1}, file)
    >>> _ = file.seek(0)
    >>> read_torch_file(file)
    {'w': tensor([1., 2.]), 'lr': 0.1}
    """
    beginning = file.read(4)
    file.seek(0)
    if not beginning.startswith((b'PK\x03\x04', b'\x80')):
        raise BrokenFileError('it does not begin like a file of torch.save')
    try:
        return _read_zip(file) if beginning == b'PK\x03\x04' else _read_legacy(file)
    except (UnknownNameError, BrokenFileError):
        raise
    except RecursionError as error:
        raise BrokenFileError('it is nested too deep') from error
    except Exception as error:  # a pickle that is not one fails in twenty ways
        raise BrokenFileError(f'{type(error).__name__}: {error}') from error


# --- the two formats ------------------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> Any:
    file.seek(-22, os.SEEK_END)
    signature, *_, number, _, _, comment = struct.unpack('<4sHHHHIIH', file.read(22))
    if signature != b'PK\x05\x06' or comment or number > _MAX_RECORDS:
        raise BrokenFileError(
            f'it does not end as archives of torch.save do, or has more than {_MAX_RECORDS} records'
        )
    listed = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not listed or listed[zipfile._ECD_SIZE] > number * (46 + _MAX_RECORD_NAME):  # type: ignore[attr-defined]
        raise BrokenFileError(f'its list of records is longer than {number} of them take')
    with zipfile.ZipFile(file) as archive:
        records = _records(archive, file.seek(0, os.SEEK_END))
        roots = [
            name.removesuffix('data.pkl')
            for name in records
            if re.fullmatch(r'[^/]*/data\.pkl', name)
        ]
        if len(roots) != 1 or f'{roots[0]}constants.pkl' in records:
            raise BrokenFileError(
                'it is an archive, but not one of torch.save (of TorchScript, perhaps)'
            )
        order = records.get(f'{roots[0]}byteorder')
        if order is not None and archive.read(order) != b'little':
            raise BrokenFileError('its byte order is not little-endian')

        declared: dict[str, _Storage] = {}

        def check(storage: '_Storage') -> None:
            if declared.setdefault(storage.key, storage) != storage:
                raise BrokenFileError(f'the storage {storage.key!r} is of two sizes or types')
            record = records.get(f'{roots[0]}data/{storage.key}')
            if record is None or record.file_size != storage.nbytes:
                raise BrokenFileError(
                    f'the storage {storage.key!r} should hold {storage.nbytes} bytes, the file has '
                    f'{"none of it" if record is None else record.file_size}'
                )

        def fetch(key: str) -> bytearray:
            with archive.open(records[f'{roots[0]}data/{key}']) as record:
                return _read_into(record, records[f'{roots[0]}data/{key}'].file_size)

        pickled = records[f'{roots[0]}data.pkl']
        content = _DataUnpickler(BytesIO(archive.read(pickled)), check, pickled.file_size).load()
        finish = _Finish(fetch)
        content = finish(content)
        for name, record in records.items():  # what nothing refers to may be damaged too
            if name.removeprefix(f'{roots[0]}data/') not in finish.bytes_of:
                with archive.open(record) as rest:
                    while rest.read(2**20):
                        pass
        return content


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the records by name; refuse what makes more of them than the file has bytes."""
    records: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise BrokenFileError(
                'its records are compressed, which torch.save never does. Mend: unpack and pack it '
                'without compression, or save it again'
            )
        if info.filename in records or info.flag_bits & 1:
            raise BrokenFileError('a record of it is there twice, or is encrypted')
        records[info.filename] = info
    if sum(info.file_size for info in records.values()) > size:
        raise BrokenFileError('its records overlap')
    return records


def _read_into(source: Any, size: int) -> bytearray:
    """Read ``size`` bytes without a second copy; at a record's end zipfile compares its CRC."""
    buffer, done = bytearray(size), 0
    view = memoryview(buffer)
    while done < size:
        chunk = source.read(min(size - done, 2**20))
        if not chunk:
            raise BrokenFileError('it is cut short')
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return buffer


class _Bounded:
    """An open file of which no read asks for more than is left: pickles name lengths at will."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, length: int) -> bytes:
        return self.file.read(min(length, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline()


def _read_legacy(file: BinaryIO) -> Any:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    bounded = _Bounded(file, size)
    magic, protocol, system = (_DataUnpickler(bounded, _refuse_storage, 0).load() for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not system.get('little_endian'):
        raise BrokenFileError('it does not begin like a file of torch.save')
    declared: dict[str, _Storage] = {}
    total = 0

    def check(storage: '_Storage') -> None:
        nonlocal total
        if storage.key not in declared:
            declared[storage.key] = storage
            total += storage.nbytes
        if declared[storage.key] != storage:
            raise BrokenFileError(f'the storage {storage.key!r} is of two sizes or types')
        if total > size:
            raise BrokenFileError('its tensors are larger than the file')

    content = _DataUnpickler(bounded, check, size).load()
    keys = _DataUnpickler(bounded, _refuse_storage, size).load()
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or set(keys) != set(declared)
        or len(keys) != len(declared)
    ):
        raise BrokenFileError('its storages are not those that its tensors need')
    bytes_of = {}
    for key in keys:
        (number,) = struct.unpack('<q', file.read(8))
        if number != declared[key].number:
            raise BrokenFileError(
                f'the storage {key!r} has {number} elements, its tensors say {declared[key].number}'
            )
        bytes_of[key] = _read_into(file, declared[key].nbytes)
    return _Finish(bytes_of.__getitem__)(content)


def _refuse_storage(storage: '_Storage') -> NoReturn:
    raise BrokenFileError('a tensor stands where none can be')


# --- what the pickle describes --------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    """The bytes of tensors, which are not read yet."""

    key: str
    dtype: torch.dtype | None  # None where they have no type of their own
    number: int

    @property
    def nbytes(self) -> int:
        return self.number * (1 if self.dtype is None else self.dtype.itemsize)


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype | None


@dataclass(frozen=True)
class _Tensor:
    """A tensor to be made, of sizes that were found to fit."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Built:
    """What the pickle makes in two steps: by a call, and by a state that follows."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


class _Dtype(_Built):
    """numpy's dtype, of plain numbers alone."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if not isinstance(kind, str) or not re.fullmatch(
            r'[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)', kind
        ):
            raise BrokenFileError(
                f'an array of numpy is of the type {kind!r:.40}, which is no plain number'
            )
        self.dtype = np.dtype(kind)

    def build(self, state: Any) -> None:
        if not (
            isinstance(state, tuple)
            and len(state) in (8, 9)
            and state[1] in ('<', '>', '|', '=')
            and state[2:5] == (None, None, None)
        ):
            raise BrokenFileError('a type of numpy is forged')
        self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, content: Any, shape: tuple[int, ...], order: str = 'C') -> np.ndarray:
        number = _number(shape, 'an array of numpy')
        if (
            not isinstance(content, bytes | bytearray)
            or len(content) != number * self.dtype.itemsize
        ):
            raise BrokenFileError(
                f'an array of numpy of {number} numbers does not have the bytes for them'
            )
        if self.dtype.kind == 'b' and content and max(content) > 1:
            raise BrokenFileError('an array of bool holds other numbers than 0 and 1')
        return np.frombuffer(bytes(content), self.dtype).reshape(shape, order=order).copy()  # type: ignore[call-overload]


class _Array(_Built):
    """An array of numpy; its content comes with the state."""

    value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise BrokenFileError('an array of numpy is forged')
        _, shape, dtype, fortran, content = state
        self.value = dtype.array(content, shape, 'F' if fortran else 'C')


class _History(_Built):
    """mmengine's HistoryBuffer."""

    state: Any = None

    def build(self, state: Any) -> None:
        self.state = state


class _Dict(OrderedDict):
    """An OrderedDict, or what stands for one."""

    def build(self, state: Any) -> None:
        """Keep the versions of modules, which torch attaches to a state dict, and nothing else."""
        if isinstance(state, dict) and isinstance(state.get('_metadata'), dict):
            self._metadata = state['_metadata']


class _Counter(_Dict):
    """A Counter, in which mmengine's schedulers keep their milestones."""


class _Name:
    """A name in the pickle, bound to what makes data of its arguments."""

    __slots__ = ('make', 'name')

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def _cost(args: tuple) -> int:
    """Return how many bytes a call may make of its arguments, which a pickle repeats at no cost."""
    made = 0
    for part in args:
        if isinstance(part, str | bytes | bytearray):
            made += 2 * len(part)
        elif isinstance(part, list | tuple | set | frozenset | dict):
            made += 100 * len(part)
    return made


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _number(shape: Any, what: str) -> int:
    """Return how many elements a shape has."""
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(map(_is_size, shape)):
        raise BrokenFileError(f'the shape of {what} is none')
    return math.prod(shape)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    dtype: Any = None,
) -> _Tensor:
    if not isinstance(storage, _Storage) or not _is_size(offset):
        raise BrokenFileError('a tensor has no storage')
    dtype = storage.dtype if storage.dtype is not None else dtype
    if not isinstance(dtype, torch.dtype) or (
        grad and not (dtype.is_floating_point or dtype.is_complex)
    ):
        raise BrokenFileError('a tensor has no type, or one that no gradient has')
    if dtype in _QUANTISED:  # torch looks for the scale that belongs to it, and dies
        raise BrokenFileError(
            f'a tensor is of the type {dtype}, but has no scale. Mend: .int_repr() before it is '
            'saved'
        )
    if hooks or metadata:
        raise BrokenFileError(
            'a tensor has hooks, or a sign that it is conjugate or negative. Mend: '
            '.detach().clone() before it is saved'
        )
    number, size, stride = _number(size, 'a tensor'), tuple(size), tuple(stride)
    _number(stride, 'the strides of a tensor')
    held, left = divmod(storage.nbytes, dtype.itemsize)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if left or number > held or (number and last >= held):
        raise BrokenFileError(
            f'a tensor of shape {size} lies upon a storage of {held} elements. Mend, where it was '
            'expanded: .contiguous() before it is saved'
        )
    return _Tensor(storage, dtype, offset, size, stride)


def _tensor_of(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> _Tensor:
    return _tensor(storage, offset, size, stride, grad, hooks, metadata, dtype)


def _parameter(data: Any, *rest: Any) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise BrokenFileError('a parameter is no tensor')
    return data


def _encode(text: Any, encoding: Any = 'utf-8') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise BrokenFileError('bytes are written in an unusual way')
    return text.encode('latin1')


def _bytearray(content: Any = b'', *encoding: Any) -> bytes:
    if isinstance(content, bytes | bytearray) and not encoding:
        return bytes(content)
    return _encode(content, *encoding)


def _dict(items: Any = (), *rest: Any) -> _Dict:
    if isinstance(items, _Name):  # the factory of a defaultdict
        items = rest[0] if rest else ()
    found = _Dict()
    for pair in items.items() if isinstance(items, dict) else items:
        _check_key(found, pair[0])
        found[pair[0]] = pair[1]
    return found


def _counter(items: Any = ()) -> _Counter:
    return _Counter(_dict(items))


def _check_key(owner: Any, key: Any) -> None:
    """Refuse a key, or an entry of a set, that takes long to compare or to hash."""
    if isinstance(key, str) or (type(key) is int and key.bit_length() <= 32):
        return
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    slow = any(type(part) is int and part.bit_length() > _MAX_BITS for part in parts)
    if slow or not all(isinstance(part, _PLAIN) for part in parts) or len(owner) > _MAX_ODD_KEYS:
        raise BrokenFileError(
            'a key is no plain value, or one of very many that are neither text nor small numbers'
        )


def _set(items: Any) -> set:
    found: set = set()
    for item in items:
        _check_key(found, item)
        found.add(item)
    return found


def _getattr(owner: Any, name: Any) -> str:
    """Stand for a statistic of HistoryBuffer: all that checkpoints ask for by ``getattr``."""
    if getattr(owner, 'name', None) != _HISTORY or name not in ('min', 'max', 'current', 'mean'):
        raise UnknownNameError('builtins.getattr')
    return name


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise BrokenFileError('a path is forged')
    return '/'.join(parts)


def _reconstruct(owner: Any, *rest: Any) -> _Array:
    if getattr(owner, 'name', None) != 'numpy.ndarray':
        raise BrokenFileError('an array of numpy is of an unknown class')
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _plain_dtype(dtype).array(content, shape, 'F' if order == 'F' else 'C')


def _scalar(dtype: Any, content: Any = None) -> Any:
    return _plain_dtype(dtype).array(content, ())[()]


def _plain_dtype(dtype: Any) -> _Dtype:
    if not isinstance(dtype, _Dtype):
        raise BrokenFileError('a number of numpy has no type')
    return dtype


def _collect(kind: type) -> Callable[..., Any]:
    """Return what makes a builtin container of another; none of numbers (``bytearray(10**9)``)."""

    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            raise BrokenFileError(f'a {kind.__name__} is made of a {type(items).__name__}')
        return kind(_set(items)) if kind in (set, frozenset) else kind(items)

    return make


def _slice(*bounds: Any) -> slice:
    if not all(bound is None or type(bound) is int for bound in bounds):
        raise BrokenFileError('a slice is forged')
    return slice(*bounds)


def _size(items: Any = ()) -> torch.Size:
    _number(tuple(items) if isinstance(items, list) else items, 'a torch.Size')
    return torch.Size(items)


def _complex(*parts: Any) -> complex:
    return complex(*map(float, parts))


def _never(*_: Any) -> NoReturn:
    raise BrokenFileError('it calls what is only a name in honest files')


_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_STORAGES = dict(
    Float=torch.float32,
    Double=torch.float64,
    Half=torch.float16,
    BFloat16=torch.bfloat16,
    Long=torch.int64,
    Int=torch.int32,
    Short=torch.int16,
    Char=torch.int8,
    Byte=torch.uint8,
    Bool=torch.bool,
    ComplexFloat=torch.complex64,
    ComplexDouble=torch.complex128,
)
_MAKERS: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _dict,
    'collections.defaultdict': _dict,
    'collections.Counter': _counter,
    'mmengine.config.config.ConfigDict': _dict,
    'mmcv.utils.config.ConfigDict': _dict,
    'addict.addict.Dict': _dict,
    'builtins.dict': _dict,
    'builtins.list': _collect(list),
    'builtins.tuple': _collect(tuple),
    'builtins.set': _collect(set),
    'builtins.frozenset': _collect(frozenset),
    'builtins.slice': _slice,
    'builtins.complex': _complex,
    'builtins.bytearray': _bytearray,
    'builtins.bytes': _bytearray,
    'builtins.getattr': _getattr,
    'builtins.int': _never,
    'builtins.float': _never,
    'builtins.str': _never,
    '_codecs.encode': _encode,
    _HISTORY: lambda *_: _History(),
    'numpy.ndarray': _never,
    'numpy.dtype': _Dtype,
    'torch.Size': _size,
    'torch.device': _path,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
}
for _core in ('core', '_core'):  # numpy 1 and 2
    _MAKERS[f'numpy.{_core}.multiarray._reconstruct'] = _reconstruct
    _MAKERS[f'numpy.{_core}.multiarray.scalar'] = _scalar
    _MAKERS[f'numpy.{_core}.numeric._frombuffer'] = _from_buffer
for _module in ('pathlib', 'pathlib._local'):
    for _flavour in ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath'):
        _MAKERS[f'{_module}.{_flavour}'] = _path
_VALUES: dict[str, Any] = {
    f'torch.{name}': value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
for _kind, _dtype in _STORAGES.items():
    _VALUES |= {
        f'torch.{_kind}Storage': _StorageType(_dtype),
        f'torch.cuda.{_kind}Storage': _StorageType(_dtype),
    }
_VALUES['torch.storage.UntypedStorage'] = _StorageType(None)
_QUANTISED = {
    value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and name.startswith(('qint', 'quint'))
}


class _DataUnpickler(pickle._Unpickler):
    """Python's own unpickler; every way to call something ends in a function of this module."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    metastack: list[Any]
    memo: dict[int, Any]
    pop_mark: Callable[[], list]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: Any, check: Callable[[_Storage], None], size: int) -> None:
        super().__init__(file, encoding='utf-8', errors='strict')
        self.check = check
        self.left = _FREE + _PER_BYTE * size

    def _charge(self, made: int) -> None:
        """Count what was made: a few bytes of a pickle can make much, over and over."""
        self.left -= made
        if self.left < 0:
            raise BrokenFileError('it makes more than its size allows')

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get(
            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
        )
        path = f'{module}.{name}'
        if path in _VALUES:
            return _VALUES[path]
        if path not in _MAKERS:
            raise UnknownNameError(path)
        return _Name(path, _MAKERS[path])

    def get_extension(self, code: int) -> NoReturn:
        raise UnknownNameError(f'the extension {code} of copyreg')

    def persistent_load(self, pid: Any) -> _Storage:
        if not (
            isinstance(pid, tuple)
            and len(pid) in (5, 6)
            and pid[0] == 'storage'
            and not any(pid[5:])
            and isinstance(pid[1], _StorageType)
            and isinstance(pid[2], str)
            and _is_size(pid[4])
        ):
            raise BrokenFileError('a storage is forged')
        storage = _Storage(pid[2], pid[1].dtype, pid[4])
        self.check(storage)
        return storage

    def _call(self, name: Any, args: Any) -> Any:
        if not isinstance(name, _Name) or not isinstance(args, tuple):
            raise BrokenFileError(f'it calls a {type(name).__name__}')
        self._charge(_CALL + _cost(args))
        return name.make(*args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise BrokenFileError('it makes an object by keywords')
        self.load_newobj()

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def _instantiate(self, name: Any, args: Any) -> None:  # INST and OBJ of protocol 0 and 1
        self.append(self._call(name, tuple(args)))

    def load_build(self) -> None:
        state = self.stack.pop()
        owner = self.stack[-1]
        if not isinstance(owner, _Built | _Dict):
            raise BrokenFileError(f'it changes the state of a {type(owner).__name__}')
        self._charge(_cost(state if isinstance(state, tuple) else (state,)))
        owner.build(state)

    def _contain(self, load: Callable[[Any], None], made: int) -> None:
        self._charge(made)
        load(self)

    def load_mark(self) -> None:
        if len(self.metastack) > _MAX_MARKS:
            raise BrokenFileError(f'it is nested more than {_MAX_MARKS} deep')
        super().load_mark()  # type: ignore[misc]

    def _memoize(self, load: Callable[[Any], None]) -> None:
        if len(self.memo) > _MAX_MEMO:
            raise BrokenFileError(f'it names more than {_MAX_MEMO} objects')
        load(self)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def _set_items(self, owner: Any, items: list) -> None:
        if not isinstance(owner, dict) or len(items) % 2:
            raise BrokenFileError(f'it sets an item of a {type(owner).__name__}')
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(owner, key)
            owner[key] = value

    def load_additems(self) -> None:
        items, owner = self.pop_mark(), self.stack[-1]
        if not isinstance(owner, set):
            raise BrokenFileError(f'it adds to a {type(owner).__name__}')
        for item in items:
            _check_key(owner, item)
            owner.add(item)

    def load_frozenset(self) -> None:
        self.append(frozenset(_set(self.pop_mark())))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(self.stack[-1], items)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack('<Q', self.read(8))
        self.append(self.read(size))  # pickle's own takes the memory before it looks for the bytes


def _override() -> None:
    """Put the methods above into the table of opcodes, which holds functions and not names."""
    dispatch = _DataUnpickler.dispatch
    for name in (
        'reduce',
        'newobj',
        'newobj_ex',
        'build',
        'mark',
        'setitem',
        'setitems',
        'additems',
        'frozenset',
        'dict',
        'bytearray8',
    ):
        dispatch[getattr(pickle, name.upper())[0]] = getattr(_DataUnpickler, f'load_{name}')
    for name in ('put', 'binput', 'long_binput', 'memoize'):
        code = getattr(pickle, name.upper())[0]
        dispatch[code] = partial(_DataUnpickler._memoize, load=dispatch[code])
    for name in (
        'empty_dict',
        'empty_list',
        'empty_set',
        'tuple',
        'tuple1',
        'tuple2',
        'tuple3',
        'list',
    ):
        code = getattr(pickle, name.upper())[0]
        made = _SET if name == 'empty_set' else _CONTAINER
        dispatch[code] = partial(_DataUnpickler._contain, load=dispatch[code], made=made)


_override()


# --- data, made of what was described -------------------------------------------------------------


class _Finish:
    """Turns descriptions into tensors and arrays, and stand-ins into what they stand for."""

    def __init__(self, fetch: Callable[[str], bytearray]) -> None:
        self.fetch = fetch
        self.bytes_of: dict[str, bytearray] = {}
        self.done: dict[
            int, tuple[Any, int, Any]
        ] = {}  # the third keeps the first's id from being used again
        self.open: set[int] = set()
        self.sound: set[str] = set()  # storages of bool that were looked at
        self.in_history: set[int] = set()

    def __call__(self, value: Any) -> Any:
        return self._visit(value)[0]

    def _visit(self, value: Any) -> tuple[Any, int]:
        """Return the finished value, and how many entries it holds, named twice counted twice."""
        if isinstance(value, _PLAIN):
            if type(value) is int and value.bit_length() > _MAX_BITS:
                raise BrokenFileError(f'a number has more than {_MAX_BITS} bits')
            return value, 1
        if id(value) in self.done:
            return self.done[id(value)][:2]
        if id(value) in self.open or len(self.open) >= _MAX_DEPTH:
            raise BrokenFileError(f'it holds itself, or is nested more than {_MAX_DEPTH} deep')
        self.open.add(id(value))
        finished, entries = self._make(value)
        self.open.discard(id(value))
        if entries > _MAX_ENTRIES:
            raise BrokenFileError(f'it holds more than {_MAX_ENTRIES} entries')
        self.done[id(value)] = finished, entries, value
        return finished, entries

    def _make(self, value: Any) -> tuple[Any, int]:
        if isinstance(value, dict):
            return self._make_dict(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self._make_sequence(value)
        if isinstance(value, _Tensor):
            return self._make_tensor(value), 1
        if isinstance(value, _Array | _Dtype | np.ndarray | np.generic | bytearray):
            return self._make_array(value), 1
        if isinstance(value, _History):
            return self._make_history(value), 1
        raise BrokenFileError(f'a {type(value).__name__} lies where data should be')

    def _make_sequence(self, value: Any) -> tuple[Any, int]:
        items, entries = [], 1
        for item in value:
            finished, number = self._visit(item)
            items.append(finished)
            entries += number
        return type(value)(items), entries

    def _make_dict(self, value: dict) -> tuple[dict, int]:
        kinds = ((_Counter, Counter), (OrderedDict, OrderedDict), (dict, dict))
        found: dict = next(made for kind, made in kinds if isinstance(value, kind))()
        entries = 1
        for key, item in value.items():
            self._visit(key)
            found[key], number = self._visit(item)
            entries += number
        if hasattr(value, '_metadata'):
            found._metadata, number = self._visit(value._metadata)  # type: ignore[attr-defined]
            entries += number
        return found, entries

    def _make_tensor(self, plan: _Tensor) -> torch.Tensor:
        if not math.prod(plan.size):
            return torch.empty(plan.size, dtype=plan.dtype)
        key = plan.storage.key
        if key not in self.bytes_of:
            self.bytes_of[key] = self.fetch(key)
        if plan.dtype == torch.bool and key not in self.sound:
            if np.frombuffer(self.bytes_of[key], np.uint8).max() > 1:
                raise BrokenFileError('a tensor of bool holds other numbers than 0 and 1')
            self.sound.add(key)
        flat = torch.frombuffer(self.bytes_of[key], dtype=plan.dtype)
        return flat.as_strided(plan.size, plan.stride, plan.offset)

    def _make_array(self, value: Any) -> Any:
        found = (
            value.value
            if isinstance(value, _Array)
            else value.dtype
            if isinstance(value, _Dtype)
            else bytes(value)
            if isinstance(value, bytearray)
            else value
        )
        if found is None:
            raise BrokenFileError('an array of numpy has no content')
        return found

    def _make_history(self, value: _History) -> Any:
        from mmengine.logging import HistoryBuffer

        state = value.state if isinstance(value.state, dict) else {}
        log, count = (self(state.get(name)) for name in ('_log_history', '_count_history'))
        longest = state.get('max_length')
        if (
            not all(isinstance(x, np.ndarray) and x.ndim == 1 for x in (log, count))
            or len(log) != len(count)
            or type(longest) is not int
            or longest < max(1, len(log))
        ):
            raise BrokenFileError('a HistoryBuffer of mmengine is forged')
        if not self.in_history.isdisjoint((id(log), id(count))):  # each is copied
            raise BrokenFileError('two HistoryBuffers of mmengine share an array')
        self.in_history |= {id(log), id(count)}
        return HistoryBuffer(log, count, longest)
