"""MixedSampler: the shares of every batch, passes, ranks, positions, and what is refused."""

from itertools import islice
from typing import Any

import pytest
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmkd.datasets.samplers import mixed_sampler
from mmkd.datasets.samplers.mixed_sampler import MixedSampler
from mmkd.datasets.seeded import seeded_loader


class Part(Dataset):
    """So many images, with labels or without."""

    def __init__(self, size: int, labelled: bool = True) -> None:
        self.size, self.labelled = size, labelled

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Both(Dataset):
    """Images without labels before and behind some with labels."""

    def __init__(self, *parts: Part) -> None:
        self.datasets = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def __getitem__(self, index: int) -> int:
        return index


BOTH = Both(Part(3, False), Part(5), Part(4, False))
OWN, OTHERS = [3, 4, 5, 6, 7], [0, 1, 2, 8, 9, 10, 11]


def sampler(
    monkeypatch: pytest.MonkeyPatch, rank: int = 0, world: int = 1, data: Any = BOTH, **options: Any
) -> MixedSampler:
    monkeypatch.setattr(mixed_sampler, 'get_dist_info', lambda: (rank, world))
    return MixedSampler(data, **{'labelled': 2, 'unlabelled': 3, 'seed': 0, **options})


def taken(sampler: MixedSampler, batches: int) -> list[list[Any]]:
    size = sampler.batch_size
    stream = list(islice(iter(sampler), batches * size))
    return [stream[i : i + size] for i in range(0, len(stream), size)]


def test_every_batch_holds_its_shares_and_a_pass_each_image_once(monkeypatch):
    found = taken(sampler(monkeypatch), 35)
    assert all(set(one[:2]) <= set(OWN) and set(one[2:]) <= set(OTHERS) for one in found)
    own = [index for one in found for index in one[:2]]
    others = [index for one in found for index in one[2:]]
    for stream, images in ((own, OWN), (others, OTHERS)):
        size = len(images)
        passes = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert all(sorted(one) == images for one in passes)
        assert len({tuple(one) for one in passes}) > len(passes) / 2, 'other orders'
    assert taken(sampler(monkeypatch), 4) == found[:4]
    assert taken(sampler(monkeypatch, seed=1), 4) != found[:4]
    assert taken(sampler(monkeypatch, shuffle=False), 3) == [
        [3, 4, 0, 1, 2],
        [5, 6, 8, 9, 10],
        [7, 3, 11, 0, 1],
    ]


@pytest.mark.parametrize(
    'shares', [dict(labelled=1, unlabelled=2), dict(labelled=[2, 0], unlabelled=[1, 3])]
)
@pytest.mark.parametrize('positions', [False, True])
def test_ranks_together_take_what_one_process_takes(monkeypatch, shares: dict, positions: bool):
    whole = sampler(monkeypatch, labelled=2, unlabelled=4)
    ranks = [sampler(monkeypatch, rank, 2, **shares) for rank in range(2)]
    if positions:
        whole, *ranks = (one.at_positions(0) for one in (whole, *ranks))
    both = zip(*(taken(one, 9) for one in ranks), strict=True)
    joined = [sorted([*first, *second]) for first, second in both]
    assert joined == [sorted(one) for one in taken(whole, 9)]


def test_positions_are_all_different_and_a_skip_begins_there(monkeypatch):
    plain = sampler(monkeypatch)
    found = taken(plain.at_positions(0), 8)
    assert [[index for index, _ in one] for one in found] == taken(plain, 8)
    positions = [position for one in found for _, position in one]
    assert len(set(positions)) == len(positions)
    again = plain.at_positions(0)
    again.skip(3 * 5)
    assert taken(again, 5) == found[3:]
    plain.skip(5)
    assert taken(plain, 1) == [[index for index, _ in found[1]]]
    assert len(plain) == 12
    plain.set_epoch(3)


def test_a_rank_without_either_kind(monkeypatch):
    first, second = (
        sampler(monkeypatch, rank, 2, labelled=[2, 0], unlabelled=[0, 2]) for rank in range(2)
    )
    assert set(sum(taken(first, 9), [])) <= set(OWN)
    assert set(sum(taken(second, 9), [])) <= set(OTHERS)


def test_labels_alone_and_none_at_all(monkeypatch):
    assert set(sum(taken(sampler(monkeypatch, labelled=2, unlabelled=0), 9), [])) == set(OWN)
    nothing = sampler(monkeypatch, data=Part(4, False), labelled=0, unlabelled=2)
    assert set(sum(taken(nothing, 9), [])) == {0, 1, 2, 3}


def test_a_seed_is_drawn_where_none_is_given(monkeypatch):
    monkeypatch.setattr(mixed_sampler, 'sync_random_seed', lambda: 7)
    assert sampler(monkeypatch, seed=None).seed == 7


def test_the_rebuilt_loader_keeps_the_shares(monkeypatch):
    own = sampler(monkeypatch)
    loader = DataLoader(BOTH, batch_sampler=BatchSampler(own, 5, False))
    rebuilt = seeded_loader(loader, seed=0)
    batches = list(islice(iter(rebuilt), 3))
    assert [one.tolist() for one in batches] == taken(own, 3)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(labelled=-1), 'labelled of MixedSampler'),
        (dict(unlabelled=1.5), 'unlabelled of MixedSampler'),
        (dict(labelled=0, unlabelled=0), 'leaves a batch without images. Mend: shares above 0'),
        (
            dict(labelled=[1, 2]),
            r'labelled of MixedSampler names 2 shares \[1, 2\], but there are 1 ranks. Mend: one',
        ),
        (
            dict(data=Part(3)),
            r'MixedSampler\(unlabelled=\[3\]\), but the Part has no images without labels. Mend',
        ),
        (
            dict(data=Part(3, False)),
            r'MixedSampler\(labelled=\[2\]\), but the Part has no images with labels. Mend',
        ),
    ],
)
def test_bad_shares(monkeypatch, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        sampler(monkeypatch, **options)


@pytest.mark.bad_input
def test_ranks_of_different_sums(monkeypatch):
    with pytest.raises(ValueError, match=r'sum to \[5, 6\], but every rank has one batch_size'):
        sampler(monkeypatch, 0, 2, labelled=[2, 3])


@pytest.mark.bad_input
def test_a_loader_that_cuts_batches_elsewhere(monkeypatch):
    own = sampler(monkeypatch)
    loader = DataLoader(BOTH, batch_sampler=BatchSampler(own, 4, False))
    with pytest.raises(
        ValueError,
        match='gives 2 images with labels and 3 without, 5 together, but the data loader has '
        'batch_size=4. Mend: batch_size=5',
    ):
        seeded_loader(loader, seed=0)
    loader = DataLoader(BOTH, batch_sampler=BatchSampler(own, 5, False))
    with pytest.raises(TypeError, match='MixedSampler never ends, and EpochBasedTrainLoop'):
        seeded_loader(loader, seed=0, by_epoch=True)
