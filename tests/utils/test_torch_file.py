"""What a file's pickle may cost, and which tensors are made; tests/test_hostile_files.py attacks
the rest.
"""

import struct
import time
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmkd.utils.torch_file import BrokenFileError, read_torch_file

LIST = b'cbuiltins\nlist\nq\x00](' + b'N' * 50_000 + b'e\x85q\x01R'
BYTES = (
    b'c_codecs\nencode\nq\x00X'
    + struct.pack('<I', 10**6)
    + b'a' * 10**6
    + b'X\x06\x00\x00\x00latin1\x86q\x01R'
)
TUPLE = b'cbuiltins\ntuple\nq\x00(' + b'N' * 50_000 + b't\x85q\x01R'


def archive(described: bytes, **storages: bytes) -> BytesIO:
    file = BytesIO()
    with zipfile.ZipFile(file, 'w') as records:
        records.writestr('a/data.pkl', described)
        records.writestr('a/byteorder', 'little')
        for key, content in storages.items():
            records.writestr(f'a/data/{key}', content)
    file.seek(0)
    return file


def tensor(
    kind: bytes, number: int, shape: int, version: bytes = b'2', dtype: bytes = b''
) -> bytes:
    """The call that makes a tensor of the storage ``x``; its function is q0, its arguments q1."""
    return (
        b'ctorch._utils\n_rebuild_tensor_v'
        + version
        + b'\nq\x00((X\x07\x00\x00\x00storage'
        + kind
        + b'X\x01\x00\x00\x00xX\x03\x00\x00\x00cpuJ'
        + struct.pack('<i', number)
        + b'tQK\x00J'
        + struct.pack('<i', shape)
        + b'\x85K\x01\x85\x89ccollections\nOrderedDict\n)R'
        + dtype
        + b'tq\x01R'
    )


def saved(content: object, **how: object) -> BytesIO:
    file = BytesIO()
    torch.save(content, file, **how)  # type: ignore[arg-type]
    file.seek(0)
    return file


@pytest.mark.hostile_file
@pytest.mark.parametrize('once', [LIST, BYTES, TUPLE], ids=['list', 'bytes', 'tuple'])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_copy_of_a_copy_costs_no_memory(once: bytes, zipped: bool) -> None:
    """A call is two bytes, and what it copies may be named as often as one likes."""
    described = b'\x80\x02](' + once + b'h\x00h\x01R' * 2000 + b'e.'
    if zipped:
        file = archive(described)
    else:
        start = saved({}, _use_new_zipfile_serialization=False).getvalue()
        file = BytesIO(start[: start.index(b'\x80\x02}q\x00.')] + described)
    tracemalloc.start()
    with pytest.raises(BrokenFileError, match=r'it makes more than its size allows'):
        read_torch_file(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20, 'of 100 MB and more'


@pytest.mark.hostile_file
def test_histories_that_share_an_array() -> None:
    """Each HistoryBuffer copies its own."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    twin = HistoryBuffer([1.0], [1])
    read = read_torch_file(saved(dict(a=history, b=twin, c=history)))
    assert read['a'] is read['c']
    assert read['b'].data[0].tolist() == [1.0]
    twin._log_history = history._log_history
    twin._count_history = np.array([1, 1])
    with pytest.raises(BrokenFileError, match='two HistoryBuffers of mmengine share an array'):
        read_torch_file(saved([history, twin]))


@pytest.mark.hostile_file
def test_many_views_of_one_storage_of_bool_are_looked_at_once() -> None:
    size = 4_000_000
    described = (
        b'\x80\x02](' + tensor(b'ctorch\nBoolStorage\n', size, size) + b'h\x00h\x01R' * 2000 + b'e.'
    )
    begin = time.process_time()
    views = read_torch_file(archive(described, x=bytes(size)))
    assert time.process_time() - begin < 5, 'of minutes'
    assert (len(views), views[0].dtype, views[0].any().item()) == (2001, torch.bool, False)
    with pytest.raises(BrokenFileError, match='a tensor of bool holds other numbers'):
        read_torch_file(archive(described, x=bytes(size - 1) + b'\x02'))


@pytest.mark.hostile_file
@pytest.mark.parametrize('name', ['qint8', 'quint8', 'qint32', 'quint4x2', 'quint2x4'])
def test_quantised_numbers_without_a_scale(name: str) -> None:
    """torch ends the process where it looks for the scale."""
    described = (
        b'\x80\x02'
        + tensor(
            b'ctorch.storage\nUntypedStorage\n', 64, 2, b'3', b'ctorch\n' + name.encode() + b'\n'
        )
        + b'.'
    )
    with pytest.raises(
        BrokenFileError, match=rf'of the type torch\.{name}, but has no scale\. Mend: \.int_repr'
    ):
        read_torch_file(archive(described, x=bytes(64)))
    assert read_torch_file(saved(dict(a=getattr(torch, name)))) == dict(a=getattr(torch, name)), (
        'a name is none'
    )


@pytest.mark.hostile_file
def test_a_list_of_records_that_is_longer_than_it_says() -> None:
    """zipfile reads all of it, whatever the number of records is."""
    content = archive(b'\x80\x02N.').getvalue()
    (start,) = struct.unpack('<I', content[-6:-2])
    entries = content[start:-22] * 20_000
    end = struct.pack('<4sHHHHIIH', b'PK\x05\x06', 0, 0, 2, 2, len(entries), start, 0)
    begin = time.process_time()
    with pytest.raises(BrokenFileError, match='its list of records is longer than 2 of them take'):
        read_torch_file(BytesIO(content[:start] + entries + end))
    assert time.process_time() - begin < 0.2


def test_honest_files_of_many_small_and_few_big_parts() -> None:
    whole = dict(
        text='a' * 10**5,
        lists=[[k] for k in range(1000)],
        bytes=b'\xff' * 10**6,
        arrays=[np.arange(10**5), np.float32(1.5), *(np.arange(3) for _ in range(300))],
        tensors=[torch.ones(1, 2, k) for k in range(300)],
        set={*range(1000)},
        key=range(0).start,
    )
    for zipped in (True, False):
        read = read_torch_file(saved(whole, _use_new_zipfile_serialization=zipped))
        assert all(read[key] == whole[key] for key in ('text', 'lists', 'bytes', 'set'))
        assert all(
            np.array_equal(a, b) for a, b in zip(read['arrays'], whole['arrays'], strict=True)
        )
        assert all(
            torch.equal(a, b) for a, b in zip(read['tensors'], whole['tensors'], strict=True)
        )
