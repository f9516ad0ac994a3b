"""What is stored of teachers: precisions by hand, what decides, shards, broken files."""

import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmkd.datasets.samplers import PositionSampler
from mmkd.utils.seeds import DRAWS, ORDER, SAMPLE, TRAIN_STEP, derive_seed
from mmkd.utils.stored.facts import differences, facts_of_module, facts_of_run, plain
from mmkd.utils.stored.manifest import Manifest, StoredTap, StoredTeacher, read_manifest
from mmkd.utils.stored.precision import Precision, largest, size_of, spread, unpack
from mmkd.utils.stored.shards import (
    Entry,
    Reader,
    Shard,
    Writer,
    look_at,
    read_shard,
    shards_of,
    stored_until,
)

# ---------------------------------------------------------------------- precisions


@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
def test_a_precision_is_torchs_own_cast(dtype: str) -> None:
    x = torch.randn(2, 5, 3, 4)
    kept = Precision(dtype).pack(x, logits=True)
    wanted = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[dtype]
    assert kept.dtype == wanted
    assert torch.equal(unpack(kept, torch.float32), x.to(wanted).float())
    assert size_of(kept) == x.numel() * (4 if dtype == 'fp32' else 2)


def test_layout_is_kept_and_memory_is_its_own() -> None:
    x = torch.randn(2, 8, 3, 4).to(memory_format=torch.channels_last)
    kept = Precision('fp32').pack(x, logits=False)
    assert kept.stride() == x.stride()
    assert kept.data_ptr() != x.data_ptr()
    part = Precision('fp32').pack(x[:, :1], logits=False)
    assert part.untyped_storage().nbytes() == part.numel() * 4  # nothing of the larger one


def test_whole_numbers_stay() -> None:
    x = torch.tensor([2**40, -1])
    assert torch.equal(Precision('bf16').pack(x, logits=False), x)


def test_a_list_is_packed_one_by_one() -> None:
    x = [torch.randn(1, 4), torch.randn(1, 4)]
    found = unpack(Precision('fp32', 2).pack(x, logits=True), torch.float32, 4)
    assert [len(one) for one in found] == [1, 1]


def by_hand(z: list[float], k: int) -> list[float]:
    """Return the spread logits of one place, from the words: k as they are, the rest evenly."""
    order = sorted(range(len(z)), key=lambda c: -z[c])
    mass = sum(math.exp(z[c]) for c in order[k:])
    share = math.log(mass / (len(z) - k))
    return [z[c] if c in order[:k] else share for c in range(len(z))]


def test_the_largest_and_the_rest_equal_a_loop() -> None:
    z = torch.randn(2, 7, 2, 3) * 4
    found = spread(largest(z, 3), 7)
    for n in range(2):
        for y in range(2):
            for x in range(3):
                wanted = torch.tensor(by_hand(z[n, :, y, x].tolist(), 3))
                assert torch.allclose(found[n, :, y, x], wanted, atol=1e-5)


def test_probabilities_of_the_largest_are_exact_and_the_rest_is_even() -> None:
    z = torch.randn(4, 9).double().float() * 3
    kept = largest(z, 4)
    p, q = z.softmax(1), spread(kept, 9).softmax(1)
    top = kept['indices'].long()
    assert torch.allclose(p.gather(1, top), q.gather(1, top), atol=1e-6)
    mask = torch.ones_like(q).scatter(1, top, 0).bool()
    rest = q[mask].view(4, 5)
    assert torch.allclose(rest, rest[:, :1].expand_as(rest), atol=1e-7)
    assert torch.allclose(rest.sum(1), p[mask].view(4, 5).sum(1), atol=1e-6)


def test_all_but_one_class_is_all() -> None:
    z = torch.randn(3, 5, 2, 2)
    assert torch.allclose(spread(largest(z, 4), 5), z, atol=1e-5)


def test_indices_take_as_few_bytes_as_they_can() -> None:
    kinds = {c: largest(torch.randn(1, c), 1)['indices'].dtype for c in (4, 256, 257, 2**15 + 1)}
    assert list(kinds.values()) == [torch.uint8, torch.uint8, torch.int16, torch.int32]
    # of one place: 2 bytes for each class, 2 for its value, 2 for the rest
    kept = Precision('fp16', 10).pack(torch.randn(1, 1000), logits=True)
    assert size_of(kept) == 10 * (2 + 2) + 2


@pytest.mark.parametrize(
    ('call', 'kind', 'text'),
    [
        (lambda: Precision('fp8'), ValueError, "dtype must be one of .*got 'fp8'"),
        (lambda: Precision('bf16', 0), ValueError, 'top_k must be a whole number of at least 1'),
        (
            lambda: Precision('fp16').pack(torch.tensor([7e4]), False),
            FloatingPointError,
            r'up to 7e\+04 are beyond the range of fp16. Mend: --dtype bf16',
        ),
        (
            lambda: Precision('fp32').pack(torch.tensor([math.nan]), False),
            FloatingPointError,
            'NaN or Inf. Mend',
        ),
        (
            lambda: Precision('bf16', 3).pack(torch.zeros(1, 3), True),
            ValueError,
            'the 3 largest of 3 logits are all of them. Mend: --top-k below 3',
        ),
    ],
)
def test_bad_precisions(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


# ---------------------------------------------------------------------- what decides


def test_draws_are_those_of_their_version() -> None:
    """Whoever changes these numbers raises mmkd.utils.seeds.DRAWS."""
    sampler = PositionSampler(5, seed=3)
    stream = iter(sampler)
    found = [next(stream)[0] for _ in range(10)]
    seeds = [derive_seed(3, use, 7) % 10**6 for use in (ORDER, SAMPLE, TRAIN_STEP)]
    assert (DRAWS, found, seeds) == PINNED


PINNED = (1, [3, 2, 0, 4, 1, 2, 0, 4, 1, 3], [711946, 477490, 303898])


def test_a_preprocessor_is_known_by_its_attributes() -> None:
    one = SegDataPreProcessor(mean=[1] * 3, std=[2] * 3, size=(8, 8), bgr_to_rgb=True)
    same = SegDataPreProcessor(
        mean=[1] * 3, std=[2] * 3, size=(8, 8), bgr_to_rgb=True, test_cfg=dict(size=(4, 4))
    )
    assert facts_of_module(one) == facts_of_module(same)
    for other in (dict(size=(8, 4)), dict(mean=[3] * 3), dict(bgr_to_rgb=False)):
        made = dict(mean=[1] * 3, std=[2] * 3, size=(8, 8), bgr_to_rgb=True) | other
        assert facts_of_module(SegDataPreProcessor(**made)) != facts_of_module(one), other


def test_only_what_decides_counts() -> None:
    loader = dict(batch_size=2, num_workers=4, pin_memory=True, dataset=dict(type='A', p=(1, 2)))
    facts = facts_of_run(dict(train_dataloader=loader), nn.Identity(), 0)
    assert facts['train_dataloader'] == dict(batch_size=2, dataset=dict(type='A', p=[1, 2]))
    assert facts['world_size'] == 1
    assert facts['draws'] == DRAWS
    assert facts['by_epoch']


def test_differences_are_told_by_their_place() -> None:
    there = plain(dict(pipeline=[dict(type='Flip', prob=0.5), dict(type='Pack')]))
    here = plain(dict(pipeline=[dict(type='Flip', prob=0.2), dict(type='Pack')]))
    assert list(differences(there, here)) == ['pipeline[0].prob is 0.5 there and 0.2 here']
    assert list(differences(there, there)) == []


# ---------------------------------------------------------------------- files


def entry(number: int) -> Entry:
    taps = dict(teacher=dict(logits=torch.full((2, 3), float(number))))
    return Entry(taps, [f'{number}.png'], torch.full((2, 4), float(number)).double())


def written(folder: Path, number: int = 5, limit: int = 100) -> list[Shard]:
    """Write so many iterations of 24 + 64 bytes each."""
    writer = Writer(folder, 0, limit=limit)
    for each in range(number):
        writer.add(entry(each))
    writer.flush()
    return shards_of(folder, 0)


def test_shards_are_of_bounded_size_and_read_back(tmp_path: Path) -> None:
    shards = written(tmp_path)
    assert [(one.first, one.end) for one in shards] == [(0, 2), (2, 4), (4, 5)]
    reader = Reader(shards, 'teacher', ['logits'])
    for number in (0, 1, 2, 3, 4, 4, 1, 3):  # in order, again, and back
        found = reader.read(number)
        assert found.taps['teacher']['logits'].eq(number).all()
        assert found.names == [f'{number}.png']
    reader.close()


def test_the_next_iteration_is_read_beforehand(tmp_path: Path) -> None:
    reader = Reader(written(tmp_path), 'teacher', ['logits'])
    reader.read(1)
    assert reader._next is not None
    assert reader._next[0] == 2
    assert reader._next[1].result(10).taps['teacher']['logits'].eq(2).all()
    reader.read(4)
    assert reader._next is None  # the last one
    with pytest.raises(IndexError, match='iteration 5 is not stored: there are 5'):
        reader.read(5)
    reader.close()


def test_a_row_of_shards_ends_where_one_is_missing(tmp_path: Path) -> None:
    shards = written(tmp_path)
    (tmp_path / 'rank0' / 'x.pt.12.part').write_bytes(b'')  # of a write that was cut off
    shards[1].path.unlink()
    assert stored_until(shards_of(tmp_path, 0)) == 2
    assert stored_until(shards_of(tmp_path, 1)) == 0


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    shard = written(tmp_path)[0]
    whole = shard.path.read_bytes()
    shard.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r'000000000-000000002.pt cannot be read .*Mend: remove it'
    ):
        read_shard(shard)
    torch.save(dict(first=0, entries=[]), shard.path)
    with pytest.raises(ValueError, match='holds other iterations than its name says'):
        read_shard(shard)
    torch.save(dict(first=0, entries=[dict(taps=dict(teacher=dict(logits='x')))] * 2), shard.path)
    with pytest.raises(ValueError, match='holds a str where tensors are kept'):
        read_shard(shard)


class Evil:
    """Would run code where a file is read without care."""

    def __reduce__(self) -> Any:
        return print, ('run',)


def test_a_shard_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shard = written(tmp_path)[0]
    torch.save(dict(first=0, entries=[Evil()]), shard.path)
    with pytest.raises(ValueError, match='cannot be read'):
        read_shard(shard)
    assert 'run' not in capsys.readouterr().out
    assert zipfile.is_zipfile(shard.path)


def test_other_names_of_a_teacher_are_told(tmp_path: Path) -> None:
    reader = Reader(written(tmp_path), 'other', ['logits'])
    with pytest.raises(ValueError, match="holds nothing of 'other'"):
        reader.read(0)
    reader.close()


def manifest(**changes: Any) -> Manifest:
    tap = StoredTap('auto', 'head.fc', 'bf16', 'float32', [2, 3], True)
    teacher = StoredTeacher(dict(type='Net'), 'mmseg', {}, 'ab' * 32, dict(logits=tap))
    return Manifest(
        **(dict(run=dict(seed=0), teachers=dict(teacher=teacher), dtype='bf16') | changes)
    )


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    assert read_manifest(tmp_path) == manifest()


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('{', 'Expecting'),
        ('[]', 'it is no dictionary'),
        ('{"format": 9}', 'it is of format 9, this mmkd reads 1'),
        ('{"format": 1, "teachers": {}, "run": {}, "dtype": "bf16"}', 'it names no teacher'),
        ('{"format": 1, "teachers": {"a": {}}}', "'taps'"),
    ],
)
def test_a_broken_manifest_is_named(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match=rf'manifest.json cannot be read \(.*{why}.*Mend'):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'there is no manifest.json. Mend: mmkd store'):
        read_manifest(tmp_path)
    (tmp_path / 'stored_cwd').mkdir()
    with pytest.raises(FileNotFoundError, match='no stored outputs'):
        read_manifest(tmp_path / 'stored_cvd')


def test_batches_are_known_again() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(look_at(x), look_at(x))
    assert not torch.equal(look_at(x), look_at(x.flip(3)))
    assert look_at(torch.randn(2, 4)).shape == (2, 4)
