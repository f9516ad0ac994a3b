"""Files in the formats before the zip archive: pickles with raw storages behind, and tar."""

import io
import pickle
import struct
import tarfile
from collections.abc import Iterator, Mapping

from helpers.hostile.assembler import (
    ANY,
    BRAIN,
    FLOAT,
    HONEST,
    LONG,
    NONE,
    RECORDS,
    Case,
    call,
    checkpoint,
    finish,
    listed,
    many,
    name,
    number,
    ordered,
    storage,
    tensor,
    text,
)

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
KINDS = {'0': (108, FLOAT), '1': (4, FLOAT), '2': (1, LONG), '3': (20, BRAIN)}


def legacy(
    body: bytes,
    storages: Mapping[str, bytes],
    magic: int = MAGIC,
    protocol: int = PROTOCOL,
    keys: bytes | None = None,
    numels: Mapping[str, int] | None = None,
) -> bytes:
    """Write the old format; ``body`` is a whole pickle, ``numels`` what is said of the storages."""
    sizes = {
        key: len(content) // (2 if key == '3' else 8 if key == '2' else 4)
        for key, content in storages.items()
    }
    sizes |= numels or {}
    out = pickle.dumps(magic, 2) + pickle.dumps(protocol, 2)
    out += pickle.dumps(
        dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4)), 2
    )
    out += body + (finish(listed(*map(text, storages))) if keys is None else keys)
    return out + b''.join(
        struct.pack('<q', sizes[key]) + content for key, content in storages.items()
    )


def old_storage(key: str, numel: int, kind: str, view: bytes = NONE) -> bytes:
    return storage(key, numel, kind, 'cpu', view)


def old_weights(**changes: bytes) -> bytes:
    """The honest weights in the old format's words."""
    out = []
    for (key, (numel, kind)), (title, value) in zip(KINDS.items(), HONEST.items(), strict=True):
        whole = tensor(old_storage(key, numel, kind), value.shape, value.stride())
        out.append((text(title), changes.get(title.replace('.', '_'), whole)))
    return ordered(*out)


def _old(meta: bytes = b'}', **changes: bytes) -> bytes:
    return finish(checkpoint(meta, old_weights(**changes)))


def old_format() -> Iterator[Case]:
    """Lies in the old format."""
    good, far = _old(), 2**40
    yield Case('wrong_magic', legacy(good, RECORDS, magic=1))
    yield Case('wrong_protocol', legacy(good, RECORDS, protocol=7))
    evil = finish(call(name('os', 'system'), text('touch hostile_ran')))
    yield Case('magic_is_a_call', evil + legacy(good, RECORDS))
    yield Case('numel_of_the_storage_larger', legacy(good, RECORDS, numels={'0': far}))
    yield Case('numel_of_the_storage_smaller', legacy(good, RECORDS, numels={'0': 1}))
    yield Case('numel_of_the_storage_negative', legacy(good, RECORDS, numels={'0': -1}))
    for numel in (far, 2**62, 2**63 - 1, -1, 2**28, 2**70):
        forged = tensor(old_storage('0', numel, FLOAT), (4, 3, 3, 3), (27, 9, 3, 1))
        yield Case(f'declared_numel_{numel}', legacy(_old(conv_weight=forged), RECORDS))
    forged = tensor(old_storage('0', 2**29, FLOAT), (2**29,), (1,))
    yield Case(
        'two_gigabytes_in_a_few_bytes',
        legacy(_old(conv_weight=forged), RECORDS, numels={'0': 2**29}),
    )
    forged = tensor(old_storage('9', 2**28, FLOAT), (2**28,), (1,))
    yield Case('storage_that_is_never_filled', legacy(_old(forged), RECORDS))
    forged = tensor(old_storage('9', 4, FLOAT), (4,), (1,))
    yield Case('weight_that_is_never_filled', legacy(_old(conv_bias=forged), RECORDS))
    yield Case('keys_unknown', legacy(good, RECORDS, keys=finish(listed(text('nine')))))
    yield Case('keys_empty', legacy(good, RECORDS, keys=finish(b']')))
    yield Case('keys_no_list', legacy(good, RECORDS, keys=finish(number(3))))
    yield Case('keys_call', legacy(good, RECORDS, keys=evil))
    yield Case(
        'keys_twice', legacy(good, RECORDS, keys=finish(listed(*map(text, [*RECORDS, '0']))))
    )
    for title, view in {'beyond': (100, 50), 'negative': (-4, 108), 'giant': (0, far)}.items():
        part = many(text('v'), number(view[0]), number(view[1]))
        forged = tensor(old_storage('0', 108, FLOAT, part), (4, 3, 3, 3), (27, 9, 3, 1))
        yield Case(f'view_{title}', legacy(_old(conv_weight=forged), RECORDS))
    forged = tensor(old_storage('0', 27, 'DoubleStorage'), (27,), (1,))
    yield Case('one_storage_two_types', legacy(_old(forged), RECORDS))
    module = (
        many(
            text('module'),
            name('helpers.hostile.canary', 'Canary'),
            text('/etc/hostname'),
            text('x'),
        )
        + b'Q'
    )
    yield Case('persistent_module', legacy(_old(module), RECORDS))
    yield Case('storage_of_five', legacy(_old(storage('0', 108)), RECORDS))
    whole = legacy(good, RECORDS)
    for part in range(1, 12):
        yield Case(f'cut_at_{part}_of_12', whole[: len(whole) * part // 12])
    yield Case('bytes_behind', whole + b'junk' * 100)
    for at in range(30, len(whole), len(whole) // 12):
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        if at < len(whole) - sum(map(len, RECORDS.values())) - 32:  # storages have no checksum here
            yield Case(f'flipped_{at}', bytes(flipped), accept=ANY)


def old_lengths() -> Iterator[Case]:
    """Giant length prefixes and many storages, read straight from the file."""
    for title, opcode, code, length in (
        ('text', b'X', '<I', 2**31 - 1),
        ('text_8', b'\x8d', '<Q', 2**31),
        ('bytes', b'B', '<I', 2**31 - 1),
        ('bytes_8', b'\x8e', '<Q', 2**31),
        ('byte_array', b'\x96', '<Q', 2**31),
        ('long', b'\x8b', '<i', 2**31 - 1),
        ('string', b'T', '<i', 2**31 - 1),
        ('frame', b'\x95', '<Q', 2**31),
        ('frame_more', b'\x95', '<Q', 2**40),
    ):
        lie = opcode + struct.pack(code, length) + b'x'
        yield Case(title, legacy(finish(checkpoint(lie, old_weights()), 4), RECORDS))
        yield Case(f'{title}_bare', finish(lie, 4))
    many_storages = [old_storage(f's{index}', 0, FLOAT) for index in range(10_000)]
    keys = {f's{index}': b'' for index in range(10_000)}
    yield Case('ten_thousand_storages', legacy(_old(listed(*many_storages)), RECORDS | keys))
    yield Case('magic_of_a_megabyte', pickle.dumps(1 << 8_000_000, 2))
    yield Case('magic_of_marks', b'\x80\x02' + b'(' * 10**6)


def tars() -> Iterator[Case]:
    """The oldest format, which a safe reader does not read."""
    evil = finish(call(name('os', 'system'), text('touch hostile_ran')))
    for title, members in {
        'payload': dict(storages=evil, tensors=evil, pickle=evil),
        'only_a_pickle': dict(pickle=evil),
        'empty': {},
        'upwards': {'../hostile_ran': b'x', 'storages': evil},
        'absolute': {'/tmp/hostile_ran': b'x', 'storages': evil},
    }.items():
        yield Case(title, _tar(members))
    yield Case('link', _tar(dict(pickle=evil), link='storages'))
    yield Case('giant_size', _tar(dict(storages=b'x'), size=2**33))
    yield Case('cut', _tar(dict(storages=evil, tensors=evil, pickle=evil))[:700])


def _tar(members: Mapping[str, bytes], link: str = '', size: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as tar:
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
            tar.addfile(info)
        for title, content in members.items():
            info = tarfile.TarInfo(title)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = out.getvalue()
    if size:  # the header's octal size and its checksum
        head = bytearray(content[:512])
        head[124:136] = b'%011o\x00' % size
        head[148:156] = b' ' * 8
        head[148:156] = b'%06o\x00 ' % sum(head)
        content = bytes(head) + content[512:]
    return content
