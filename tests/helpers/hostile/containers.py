"""Archives that lie about what is in them, and files that were hurt."""

import bz2
import functools
import io
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from helpers.hostile.assembler import (
    ANY,
    BRAIN,
    HONEST,
    RECORDS,
    Case,
    Entry,
    archive,
    call,
    changed,
    checkpoint,
    entries,
    finish,
    keyed,
    name,
    storage,
    tensor,
    text,
    weights,
    zip_bytes,
)

FIRE = call(name('os', 'system'), text('touch hostile_ran'))
GOOD = checkpoint()


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _packed(part: Entry, method: int, packed: bytes) -> Entry:
    return replace(part, method=method, packed=packed, size=len(part.data), stored=len(packed))


def compressed() -> Iterator[Case]:
    """Compressed records, honest ones and bombs."""
    parts = entries(GOOD)
    for title, method, pack in (
        ('deflate', 8, _deflated),
        ('bzip2', 12, bz2.compress),
        ('lzma', 14, lzma.compress),
    ):
        yield Case(
            f'{title}_all',
            zip_bytes([_packed(part, method, pack(part.data)) for part in parts]),
            refuse=True,
        )
        one = [
            _packed(part, method, pack(part.data)) if part.name.endswith('/0') else part
            for part in parts
        ]
        yield Case(f'{title}_one_record', zip_bytes(one), refuse=True)
        pickle = [
            _packed(part, method, pack(part.data)) if part.name.endswith('.pkl') else part
            for part in parts
        ]
        yield Case(f'{title}_pickle', zip_bytes(pickle), refuse=True)
    bomb = _deflated(bytes(400 * 2**20))
    giant = weights(conv_weight=tensor(storage('0', 100 * 2**20), (100 * 2**20,), (1,)))
    zeros = replace(
        parts[2], packed=bomb, method=8, size=400 * 2**20, crc=zlib.crc32(bytes(400 * 2**20))
    )
    lying = replace(parts[2], packed=bomb, method=8, size=432, crc=zlib.crc32(parts[2].data))
    beside = Entry('archive/data/99', b'', packed=bomb, method=8, size=400 * 2**20, crc=zeros.crc)
    by_pickle = entries(checkpoint(state=giant))
    yield Case('bomb_of_a_weight', zip_bytes([*by_pickle[:2], zeros, *by_pickle[3:]]))
    yield Case('bomb_of_a_weight_that_says_less', zip_bytes([*parts[:2], lying, *parts[3:]]))
    yield Case('bomb_beside', zip_bytes([*parts, beside]))
    yield Case(
        'bomb_of_the_pickle',
        zip_bytes(
            [replace(parts[0], packed=bomb, method=8, size=400 * 2**20, crc=zeros.crc), *parts[1:]]
        ),
    )
    yield Case(
        'bomb_of_the_version',
        zip_bytes(
            [
                *parts[:-1],
                replace(parts[-1], packed=bomb, method=8, size=400 * 2**20, crc=zeros.crc),
            ]
        ),
    )
    yield Case(
        'bomb_of_the_byteorder',
        zip_bytes(
            [
                parts[0],
                replace(parts[1], packed=bomb, method=8, size=400 * 2**20, crc=zeros.crc),
                *parts[2:],
            ]
        ),
    )
    yield Case(
        'bomb_one_level_down', zip_bytes([*parts, Entry('archive/x.zip', zip_bytes([beside]))])
    )
    yield Case('method_unknown', zip_bytes(changed(parts, 'data/0', method=77)))
    yield Case('method_differs', zip_bytes(changed(parts, 'data/0', central_method=8)))
    yield Case('gzip', b'\x1f\x8b\x08' + zip_bytes(parts))


def lies() -> Iterator[Case]:
    """Headers that disagree with each other or with the bytes."""
    parts = entries(GOOD)
    evil = finish(checkpoint(FIRE))
    crc = zlib.crc32(RECORDS['0'])
    for record in ('data.pkl', 'data/0', 'data/3', 'version', 'byteorder'):
        title = record.replace('/', '_')
        yield Case(
            f'crc_of_{title}', zip_bytes(changed(parts, record, crc=crc ^ 0x55)), refuse=True
        )
        yield Case(
            f'central_crc_of_{title}',
            zip_bytes(changed(parts, record, central_crc=crc ^ 0x55)),
            refuse=True,
        )
    zero = RECORDS['0'][:200] + b'\x00' + RECORDS['0'][201:]
    yield Case('one_byte_of_a_weight', zip_bytes(changed(parts, 'data/0', packed=zero)))
    for title, change in {
        'size_larger': dict(size=2**20, stored=2**20),
        'size_smaller': dict(size=4, stored=4),
        'central_size_larger': dict(central_size=500, central_stored=500),
        'size_4g': dict(size=2**32 - 1, stored=2**32 - 1),
        'central_size_smaller': dict(central_size=40, central_stored=40),
        'size_and_stored_differ': dict(size=10),
        'central_size_and_stored_differ': dict(central_size=2**30),
        'central_size_zero': dict(central_size=0, central_stored=0),
        'offset_beyond': dict(offset=2**31),
        'offset_of_another': dict(offset=0),
        'offset_negative': dict(offset=-1),
        'encrypted': dict(flags=0x801),
        'strongly_encrypted': dict(flags=0x841),
        'patched': dict(flags=0x820),
        'sizes_behind': dict(flags=0x808, size=0, stored=0, central_size=432, central_stored=432),
        'other_disk': dict(central_disk=3),
        'local_only': dict(hidden=True),
        'central_only': dict(absent=True),
        'other_name': dict(central_name='archive/data/7'),
        'other_local_name': dict(name='x', central_name='archive/data/0'),
        'extra_too_long': dict(extra=b'\x01\x00\xff\xff'),
        'central_extra_too_long': dict(central_extra=b'\x01\x00\xff\xffxx'),
        'zip64_size': dict(
            central_size=2**32 - 1,
            central_stored=2**32 - 1,
            central_extra=struct.pack('<HHQQ', 1, 16, 2**40, 2**40),
        ),
        'zip64_size_wraps': dict(
            central_size=2**32 - 1,
            central_stored=2**32 - 1,
            central_extra=struct.pack('<HHQQ', 1, 16, 2**64 - 1, 2**64 - 1),
        ),
        'zip64_missing': dict(central_size=2**32 - 1, central_stored=2**32 - 1),
        'zip64_offset': dict(offset=2**32 - 1, central_extra=struct.pack('<HHQ', 1, 8, 2**63)),
    }.items():
        yield Case(title, zip_bytes(changed(parts, 'data/0', **change)))
        pickle = changed(
            parts,
            'data.pkl',
            **{**change, 'central_name': 'archive/x.pkl'} if 'name' in title else change,
        )
        yield Case(f'{title}_pickle', zip_bytes(pickle))
    yield Case(
        'local_name_hides_another_pickle',
        zip_bytes([Entry('archive/data.pkl', evil, central_name='archive/other'), *parts]),
    )
    yield Case(
        'unicode_path_extra',
        zip_bytes(
            changed(
                parts,
                'data/0',
                central_extra=struct.pack('<HHBI', 0x7075, 13, 1, zlib.crc32(b'archive/data/0'))
                + b'x/data/9',
            )
        ),
    )
    for title, lie in {
        'count_0': dict(count=0),
        'count_more': dict(count=99),
        'count_65535': dict(count=65535),
        'count_less': dict(count=2),
        'directory_offset_0': dict(directory_offset=0),
        'directory_offset_beyond': dict(directory_offset=2**31),
        'disk': dict(disk=3),
        'directory_offset_all_ones': dict(directory_offset=2**32 - 1),
        'directory_size_0': dict(directory_size=0),
        'directory_size_huge': dict(directory_size=2**31),
    }.items():
        yield Case(title, zip_bytes(parts, **lie))
    locator = struct.pack('<IIQI', 0x07064B50, 0, 0, 1)
    yield Case(
        'zip64_locator_to_the_start', zip_bytes(parts, middle=locator, directory_offset=2**32 - 1)
    )
    yield Case(
        'zip64_locator_beyond',
        zip_bytes(parts, middle=struct.pack('<IIQI', 0x07064B50, 0, 2**63, 1)),
    )
    end64 = struct.pack('<IQHHIIQQQQ', 0x06064B50, 44, 45, 45, 0, 0, 2**40, 2**40, 2**40, 2**40)
    at = len(zip_bytes(parts)) - 22
    yield Case(
        'zip64_end_of_a_trillion_records',
        zip_bytes(
            parts,
            middle=end64 + struct.pack('<IIQI', 0x07064B50, 0, at, 1),
            count=65535,
            directory_offset=2**32 - 1,
        ),
    )
    yield Case(
        'extra_field_over_the_pickle', zip_bytes(changed(parts, 'data.pkl', extra=bytes(65535)))
    )


def _two_directories(told: list[Entry], told_by_64: list[Entry]) -> bytes:
    """Two directories: the old end record shows the first, the 64-bit one the second."""
    both = [replace(told[0], hidden=True), *told_by_64[:1], *told[1:]]
    other = [told[0], replace(told_by_64[0], hidden=True), *told[1:]]
    second, first = zip_bytes(both), zip_bytes(other)
    directory = first.index(b'PK\x01\x02')
    size = len(first) - 22 - directory
    at = directory + size
    end = struct.pack('<IQHHIIQQQQ', 0x06064B50, 44, 45, 45, 0, 0, len(told), len(told), size, at)
    locator = struct.pack('<IIQI', 0x07064B50, 0, at + size, 1)
    return first[:at] + second[directory : directory + size] + end + locator + first[-22:]


def words() -> Iterator[Case]:
    """The small records that say how the others are to be read."""
    for title, record, content in (
        ('version_empty', 'version', b''),
        ('version_huge', 'version', b'9' * 5000),
        ('version_next', 'version', b'99\n'),
        ('version_negative', 'version', b'-3\n'),
        ('version_no_number', 'version', b'os.system\n'),
        ('version_binary', 'version', b'\xff\x00'),
        ('byteorder_empty', 'byteorder', b''),
        ('byteorder_of_two_lines', 'byteorder', b'a\nb'),
        ('byteorder_long', 'byteorder', b'x' * 10**6),
    ):
        yield Case(title, zip_bytes(changed(entries(GOOD), record, data=content)))
    for title, record, content in (
        ('alignment_no_number', '.storage_alignment', b'x'),
        ('alignment_zero', '.storage_alignment', b'0'),
        ('alignment_huge', '.storage_alignment', b'9' * 5000),
        ('format_next', '.format_version', b'99'),
        ('format_binary', '.format_version', b'\xff'),
        ('identity_long', '.data/serialization_id', b'x' * 10**6),
        ('identity_binary', '.data/serialization_id', b'\xff\n\x00'),
    ):
        yield Case(title, zip_bytes([*entries(GOOD), Entry(f'archive/{record}', content)]))


def doubles() -> Iterator[Case]:
    """Records twice, over each other, in odd places; archives in and after archives."""
    parts, evil = entries(GOOD), entries(checkpoint(FIRE))
    forged = dict(RECORDS, **{'0': bytes(432)})
    other = entries(GOOD, forged)
    good, bad = zip_bytes(parts), zip_bytes(evil)
    zeros = [part for part in other if part.name.endswith('data/0')]
    yield Case('pickle_twice', zip_bytes([*evil[:1], *parts]))
    yield Case('pickle_twice_behind', zip_bytes([*parts, *evil[:1]]))
    yield Case('record_twice', zip_bytes([*zeros, *parts]))
    yield Case('record_twice_behind', zip_bytes([*parts, *zeros]))
    yield Case(
        'record_twice_by_case', zip_bytes([*parts, replace(zeros[0], name='ARCHIVE/DATA/0')])
    )
    yield Case('record_by_backslash', zip_bytes(changed(parts, 'data/0', name='archive\\data\\0')))
    yield Case('record_with_a_dot', zip_bytes(changed(parts, 'data/0', name='archive/./data/0')))
    yield Case('record_by_two_slashes', zip_bytes(changed(parts, 'data/0', name='archive//data/0')))
    yield Case(
        'record_after_null', zip_bytes([*parts, replace(zeros[0], name=b'archive/data/0\x00x')])
    )
    yield Case(
        'record_not_utf8', zip_bytes([*parts, replace(zeros[0], name=b'archive/data/\xff\xfe')])
    )
    yield Case('record_upwards', zip_bytes([*parts, Entry('archive/../../hostile_ran', b'x')]))
    yield Case('record_absolute', zip_bytes([*parts, Entry('/hostile_ran', b'x')]))
    yield Case('record_of_a_long_name', zip_bytes([*parts, Entry('archive/' + 'n' * 60_000, b'x')]))
    yield Case('name_empty', zip_bytes([Entry('', b'x'), *parts]))
    yield Case('two_folders', zip_bytes([*parts, *entries(checkpoint(FIRE), folder='other')]))
    yield Case(
        'two_folders_evil_first', zip_bytes([*entries(checkpoint(FIRE), folder='other'), *parts])
    )
    yield Case(
        'no_folder',
        zip_bytes([replace(part, name=str(part.name).split('/', 1)[1]) for part in parts]),
    )
    yield Case('folder_deep', zip_bytes([replace(part, name=f'a/b/{part.name}') for part in parts]))
    yield Case('pickle_is_a_folder', zip_bytes([Entry('archive/data.pkl/', b''), *parts[1:]]))
    for record in ('data.pkl', 'version', 'byteorder'):
        rest = [part for part in parts if not part.name.endswith(record)]
        if record == 'data.pkl':
            yield Case('without_the_pickle', zip_bytes(rest))
    shared = tensor(storage('5', 108), (4, 3, 3, 3), (27, 9, 3, 1))
    lapped = entries(checkpoint(state=weights(conv_weight=shared)))
    yield Case(
        'records_on_one_place',
        zip_bytes(
            [
                *lapped,
                Entry(
                    'archive/data/5', RECORDS['0'], absent=True, offset=_offset(lapped, 'data/0')
                ),
            ]
        ),
    )
    yield from _overlaps()
    yield Case('two_ends', good + bad[-22:])
    yield Case('two_directories', _two_directories(parts, evil))
    yield Case('two_directories_evil_first', _two_directories([evil[0], *parts[1:]], parts))
    yield Case('two_archives', good + bad)
    yield Case('two_archives_evil_first', bad + good)
    yield Case('archive_in_the_comment', zip_bytes(parts, comment=bad))
    yield Case('archive_in_a_record', zip_bytes([*parts, Entry('archive/x.zip', bad)]))
    yield Case('end_in_the_comment', zip_bytes(parts, comment=b'PK\x05\x06' + bytes(18)))
    yield Case('pickle_before', finish(FIRE) + good)
    yield Case('junk_before', b'\x80\x02' * 500 + good)
    yield Case('junk_behind', good + b'\x80\x02' * 500)
    yield Case('much_junk_behind', good + bytes(100_000))
    many = [Entry(f'archive/data/{index}', b'') for index in range(9, 20_000)]
    yield Case('twenty_thousand_records', zip_bytes([*parts, *many]))
    for title, content in (
        ('empty', b''),
        ('end_alone', zip_bytes([])),
        ('signature_alone', b'PK\x03\x04'),
        ('many_signatures', b'PK\x03\x04' * 9999),
        ('many_ends', b'PK\x05\x06' * 9999),
        ('zeros', bytes(4096)),
        ('script', b'#!/bin/sh\ntouch hostile_ran\n'),
        ('elf', b'\x7fELF' * 99),
        ('html', b'<!DOCTYPE html>\n<script>x</script>'),
        ('numpy', _numpy()),
        ('rar', b'Rar!\x1a\x07' * 9),
        ('safetensors', struct.pack('<Q', 2**60) + b'{"x":{}}'),
        ('hdf5', b'\x89HDF\r\n\x1a\n' * 99),
    ):
        yield Case(f'file_{title}', content)


def _overlaps() -> Iterator[Case]:
    """One record's bytes under 64 names: 64 times the file's size."""
    kernel = bytes(2**20)
    names = [f'archive/data/{index}' for index in range(10, 74)]
    state = weights(**{'conv_bias': tensor(storage('10', 2**19, BRAIN), (2**19,), (1,))})
    parts = entries(checkpoint(state=state))
    at = sum(30 + len(part.name) + len(part.data) for part in parts)
    first = Entry(names[0], kernel)
    again = [Entry(title, kernel, absent=True, offset=at) for title in names[1:]]
    yield Case('one_megabyte_under_64_names', zip_bytes([*parts, first, *again]))
    tensors = [
        (text(f'k{title[13:]}'), tensor(storage(title[13:], 2**18), (2**18,), (1,)))
        for title in names
    ]
    many = b'}(' + b''.join(key + value for key, value in tensors) + b'u'
    lapped = entries(keyed(state_dict=many))
    at = sum(30 + len(part.name) + len(part.data) for part in lapped)
    again = [replace(entry, offset=at) for entry in again]
    yield Case('sixty_four_weights_on_one_megabyte', zip_bytes([*lapped, first, *again]))


def _offset(parts: list[Entry], record: str) -> int:
    at = 0
    for part in parts:
        if str(part.name).endswith(record):
            break
        at += 30 + len(part.name) + len(part.extra) + len(part.data)
    return at


def _numpy() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + finish(FIRE)


@functools.cache  # torch gives every trace another name
def _script() -> bytes:
    layer, out = torch.nn.Linear(2, 2), io.BytesIO()
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.ones_(layer.bias)
    torch.jit.save(torch.jit.trace(layer, torch.zeros(1, 2)), out)
    return out.getvalue()


def scripts() -> Iterator[Case]:
    """TorchScript archives, which hold code by design."""
    whole = _script()
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        parts = [Entry(info.filename, opened.read(info)) for info in opened.infolist()]
    yield Case('script', whole)
    yield Case('script_cut', whole[:-40])
    constants = Entry('archive/constants.pkl', finish(FIRE))
    yield Case('constants_beside', zip_bytes([*entries(GOOD), constants]))
    yield Case(
        'code_beside',
        zip_bytes(
            [
                *entries(GOOD),
                constants,
                Entry('archive/code/__torch__.py', b"import os\nos.system('touch hostile_ran')\n"),
            ]
        ),
    )
    yield Case(
        'script_with_a_payload',
        zip_bytes(
            [
                replace(part, data=finish(FIRE)) if str(part.name).endswith('data.pkl') else part
                for part in parts
            ]
        ),
    )
    yield Case('script_named_data', zip_bytes([Entry('archive/model.json', b'{}'), *entries(GOOD)]))


def _saved() -> bytes:
    out = io.BytesIO()
    torch.save({'state_dict': HONEST, 'meta': {'epoch': 3}}, out)
    return out.getvalue()


def cuts() -> Iterator[Case]:
    """torch's own file, cut short."""
    whole = _saved()
    for part in range(24):
        yield Case(f'at_{part}_of_24', whole[: len(whole) * part // 24])
    for less in (1, 2, 21, 22, 23, 42, 100):
        yield Case(f'without_the_last_{less}', whole[:-less])
    for first in (1, 4, 64, 1000):
        yield Case(f'without_the_first_{first}', whole[first:])
    middle = len(whole) // 2
    yield Case('without_the_middle', whole[: middle - 64] + whole[middle:])
    yield Case('middle_doubled', whole[:middle] + whole[middle - 64 :])
    yield Case('zeros_at_the_end', whole[:middle] + bytes(len(whole) - middle))


def flips() -> Iterator[Case]:
    """torch's own file with one bit or byte changed, at many places of every part."""
    whole, drawn = _saved(), random.Random(1)
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        infos = opened.infolist()
        starts = {info.filename: whole.index(info.filename.encode()) for info in infos}
    places = []
    for info in infos:
        begin = whole.index(opened_bytes(whole, info), starts[info.filename])
        number = 24 if info.filename.endswith('.pkl') else 4 if '/data/' in info.filename else 1
        places += [begin + drawn.randrange(info.file_size) for _ in range(number)]
    directory = whole.rindex(b'PK\x01\x02', 0, len(whole) - 600)
    places += [drawn.randrange(directory, len(whole)) for _ in range(24)]
    places += [drawn.randrange(0, 64) for _ in range(8)]
    for index, place in enumerate(places):
        hurt = bytearray(whole)
        hurt[place] ^= 1 << drawn.randrange(8) if index % 2 else 0xFF
        yield Case(f'{index}_at_{place}', bytes(hurt))
    body = archive(GOOD)
    begin = body.index(b'\x80\x02')
    for index in range(24):  # the checksum made right again: only the pickle's own sense protects
        hurt = bytearray(finish(GOOD))
        at = drawn.randrange(len(hurt))
        hurt[at] ^= 1 << drawn.randrange(8)
        yield Case(
            f'resealed_{index}_at_{begin + at}',
            zip_bytes(changed(entries(GOOD), 'data.pkl', data=bytes(hurt))),
            accept=ANY,
        )


def opened_bytes(whole: bytes, info: zipfile.ZipInfo) -> bytes:
    """A record's bytes as they stand in the file."""
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        return opened.read(info)
