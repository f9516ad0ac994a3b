"""Write pickles opcode by opcode, and the archives around them, so that a test can lie anywhere."""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

TOKEN = 'hostile_ran'  # what payloads touch, open or print: who meets it has run something
MODULE = 'hostile_import'  # a module that must never be imported


ANY: dict[str, Tensor] = {}  # for what nobody can tell from another honest file


@dataclass
class Case:
    """One file, and what may come of it.

    Args:
        name: the file's stem.
        data: the file's bytes.
        refuse: it must be refused, even where the honest weights come back.
        accept: the weights that may come back instead of a refusal; the honest ones unless given;
            ``ANY``: all plain ones.
    """

    name: str
    data: bytes
    refuse: bool = False
    accept: Mapping[str, Tensor] | None = None


# --- values ---------------------------------------------------------------------------------------

NONE, TRUE, FALSE, EMPTY = b'N', b'\x88', b'\x89', b')'


def text(value: str) -> bytes:
    content = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(content)) + content


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b'K' + bytes([value])
    if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
    content = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    if len(content) < 256:
        return b'\x8a' + bytes([len(content)]) + content
    return b'\x8b' + struct.pack('<i', len(content)) + content


def real(value: float) -> bytes:
    return b'G' + struct.pack('>d', value)


def name(module: str, attribute: str) -> bytes:
    return b'c' + f'{module}\n{attribute}\n'.encode()


def many(*items: bytes) -> bytes:
    return b'(' + b''.join(items) + b't'


def numbers(*values: int) -> bytes:
    return many(*map(number, values))


def listed(*items: bytes) -> bytes:
    return b'](' + b''.join(items) + b'e'


def _pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b'(' + b''.join(key + value for key, value in pairs) + b'u'


def mapped(*pairs: tuple[bytes, bytes]) -> bytes:
    return b'}' + _pairs(pairs)


def ordered(*pairs: tuple[bytes, bytes]) -> bytes:
    return call(name('collections', 'OrderedDict')) + (_pairs(pairs) if pairs else b'')


def keyed(**items: bytes) -> bytes:
    return mapped(*((text(key), value) for key, value in items.items()))


def call(function: bytes, *args: bytes) -> bytes:
    return function + many(*args) + b'R'


def new(cls: bytes, *args: bytes) -> bytes:
    return cls + many(*args) + b'\x81'


def build(instance: bytes, state: bytes) -> bytes:
    return instance + state + b'b'


def put(index: int, item: bytes) -> bytes:
    return item + b'r' + struct.pack('<I', index)


def get(index: int) -> bytes:
    return b'j' + struct.pack('<I', index)


def raw(content: bytes) -> bytes:
    """Bytes as protocol 2 writes them."""
    return call(name('_codecs', 'encode'), text(content.decode('latin1')), text('latin1'))


def finish(body: bytes, protocol: int = 2) -> bytes:
    return (b'\x80' + bytes([protocol]) if protocol > 1 else b'') + body + b'.'


# --- tensors --------------------------------------------------------------------------------------

FLOAT, LONG, BRAIN = 'FloatStorage', 'LongStorage', 'BFloat16Storage'


def storage(
    key: bytes | str = '0',
    numel: int | bytes = 108,
    kind: bytes | str = FLOAT,
    location: bytes | str = 'cpu',
    *more: bytes,
) -> bytes:
    cls = name('torch', kind) if isinstance(kind, str) else kind
    return (
        many(
            text('storage'),
            cls,
            text(key) if isinstance(key, str) else key,
            text(location) if isinstance(location, str) else location,
            number(numel) if isinstance(numel, int) else numel,
            *more,
        )
        + b'Q'
    )


def tensor(
    of: bytes,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int = 0,
    grad: bytes = FALSE,
    hooks: bytes | None = None,
    *more: bytes,
) -> bytes:
    return call(
        name('torch._utils', '_rebuild_tensor_v2'),
        of,
        number(offset),
        numbers(*size),
        numbers(*stride),
        grad,
        ordered() if hooks is None else hooks,
        *more,
    )


def _honest() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        'conv.weight': torch.randn(4, 3, 3, 3, generator=generator),
        'conv.bias': torch.randn(4, generator=generator),
        'norm.num_batches_tracked': torch.tensor(7),
        'head.weight': torch.randn(5, 4, generator=generator).bfloat16(),
    }


HONEST = _honest()
WEIGHTS = {
    'conv.weight': tensor(storage('0', 108), (4, 3, 3, 3), (27, 9, 3, 1)),
    'conv.bias': tensor(storage('1', 4), (4,), (1,)),
    'norm.num_batches_tracked': tensor(storage('2', 1, LONG), (), ()),
    'head.weight': tensor(storage('3', 20, BRAIN), (5, 4), (4, 1)),
}
RECORDS = {
    str(index): value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    for index, value in enumerate(HONEST.values())
}


def weights(prefix: str = '', **changes: bytes) -> bytes:
    """The honest state dict; ``conv_bias=…`` puts something else at 'conv.bias'."""
    entries = {key: changes.pop(key.replace('.', '_'), value) for key, value in WEIGHTS.items()}
    assert not changes, changes
    return ordered(*((text(prefix + key), value) for key, value in entries.items()))


def checkpoint(meta: bytes = b'}', state: bytes | None = None) -> bytes:
    """A checkpoint whose weights are honest unless given, with ``meta`` read after them."""
    return keyed(state_dict=weights() if state is None else state, meta=meta)


# --- archives -------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One record; what is None is told truly. Fields named ``central_…`` are said there alone."""

    name: str | bytes
    data: bytes
    method: int = 0
    flags: int = 0x800
    crc: int | None = None
    packed: bytes | None = None
    size: int | None = None
    stored: int | None = None
    extra: bytes = b''
    central_name: str | bytes | None = None
    central_crc: int | None = None
    central_size: int | None = None
    central_stored: int | None = None
    central_extra: bytes = b''
    central_method: int | None = None
    central_disk: int = 0
    offset: int | None = None
    hidden: bool = False  # no central entry
    absent: bool = False  # no local entry


def _either(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def zip_bytes(entries: Sequence[Entry], comment: bytes = b'', **lies: Any) -> bytes:
    """Write a zip file, lies and all.

    Args:
        entries: the records.
        comment: stands at the very end.
        lies: ``count``, ``directory_size``, ``directory_offset``, ``disk``, and ``middle``, bytes
            before the end record.
    """
    out, directory = bytearray(), bytearray()
    for entry in entries:
        packed = _either(entry.packed, entry.data)
        crc, size = _either(entry.crc, zlib.crc32(entry.data)), _either(entry.size, len(entry.data))
        stored = _either(entry.stored, len(packed))
        title, at = _bytes(entry.name), _either(entry.offset, len(out))
        if not entry.absent:
            out += struct.pack(
                '<IHHHHHIIIHH',
                0x04034B50,
                20,
                entry.flags,
                entry.method,
                0,
                33,
                crc,
                stored & 0xFFFFFFFF,
                size & 0xFFFFFFFF,
                len(title),
                len(entry.extra),
            )
            out += title + entry.extra + packed
        if entry.hidden:
            continue
        title = _bytes(_either(entry.central_name, entry.name))
        directory += (
            struct.pack(
                '<IHHHHHHIIIHHHHHII',
                0x02014B50,
                20,
                20,
                entry.flags,
                _either(entry.central_method, entry.method),
                0,
                33,
                _either(entry.central_crc, crc),
                _either(entry.central_stored, stored) & 0xFFFFFFFF,
                _either(entry.central_size, size) & 0xFFFFFFFF,
                len(title),
                len(entry.central_extra),
                0,
                entry.central_disk,
                0,
                0,
                at & 0xFFFFFFFF,
            )
            + title
            + entry.central_extra
        )
    count = lies.get('count', sum(not entry.hidden for entry in entries))
    end = struct.pack(
        '<IHHHHIIH',
        0x06054B50,
        lies.get('disk', 0),
        lies.get('disk', 0),
        count & 0xFFFF,
        count & 0xFFFF,
        lies.get('directory_size', len(directory)) & 0xFFFFFFFF,
        lies.get('directory_offset', len(out)) & 0xFFFFFFFF,
        len(comment),
    )
    return bytes(out + directory + lies.get('middle', b'') + end + comment)


def entries(
    body: bytes,
    records: Mapping[str, bytes] | None = None,
    folder: str = 'archive',
    protocol: int = 2,
) -> list[Entry]:
    """The records of a checkpoint as torch writes them; ``body`` is the pickle's inside."""
    records = RECORDS if records is None else records
    return [
        Entry(f'{folder}/data.pkl', finish(body, protocol)),
        Entry(f'{folder}/byteorder', b'little'),
        *(Entry(f'{folder}/data/{key}', content) for key, content in records.items()),
        Entry(f'{folder}/version', b'3\n'),
    ]


def archive(body: bytes, records: Mapping[str, bytes] | None = None, protocol: int = 2) -> bytes:
    return zip_bytes(entries(body, records, protocol=protocol))


def changed(parts: Sequence[Entry], record: str, **changes: Any) -> list[Entry]:
    """The same records but for one, found by the end of its name."""
    assert any(str(part.name).endswith(record) for part in parts), record
    return [replace(part, **changes) if str(part.name).endswith(record) else part for part in parts]
