"""Rings: what is written where, class by class; what is drawn; nothing waits for the device."""

import pytest
import torch
from references.memory_contrast import Rings
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mmkd.losses import MemoryContrastLoss, QueueContrastLoss
from mmkd.losses.memory.ring import Ring, in_groups, mean_of_each, of_all_ranks, some_of_each


def numbered(first: int, number: int) -> Tensor:
    """Return vectors that tell which they are."""
    return torch.arange(first, first + number, dtype=torch.float32).unsqueeze(1) + 1


@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_it_is_a_list_that_forgets_its_oldest(size: int) -> None:
    """Of random groups and gaps, some pushes longer than the ring, over many rounds."""
    generator = torch.Generator().manual_seed(size)
    ring, lists = Ring(3, size, 1), Rings(3, size)
    done = 0
    for number in (4, 0, 1, 11, 5, 30, 2):
        vectors = numbered(done, number)
        done += number
        groups = torch.randint(3, (number,), generator=generator)
        counts = torch.rand(number, generator=generator) < 0.7
        before, pushed = ring.rows.clone(), ring.pushed.clone()
        ring.push(vectors, groups, counts)
        for row, group, own in zip(vectors.tolist(), groups.tolist(), counts.tolist(), strict=True):
            lists.push([row] if own else [], group)
        assert torch.equal(ring.rows.double(), lists.rows(1))
        assert ring.pushed.tolist() == lists.next
        # exactly the rows of what was pushed have changed
        changed = (ring.rows != before).flatten()[:-1].view(3, size).sum(1)
        assert torch.equal(changed, (ring.pushed - pushed).clamp(max=size))
        assert torch.equal(ring.known, (ring.rows[:-1] > 0).flatten())


def test_no_place_is_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator writes in any order: what would be overwritten goes to the last row."""
    written: list[Tensor] = []
    copy = Tensor.index_copy_

    def watched(rows: Tensor, dim: int, index: Tensor, vectors: Tensor) -> Tensor:
        written.append(index)
        return copy(rows, dim, index, vectors)

    monkeypatch.setattr(Tensor, 'index_copy_', watched)
    ring = Ring(2, 3, 1)
    ring.push(numbered(0, 20), torch.arange(20) % 2, torch.ones(20) > 0)
    assert sorted(written[0].tolist()) == [*range(6), *[6] * 14]
    assert ring.rows.flatten().tolist() == [19, 15, 17, 20, 16, 18, 0]


def test_a_group_that_is_beyond_is_dropped_and_leaves_no_trace() -> None:
    ring = Ring(2, 2, 1)
    ring.push(numbered(0, 3), torch.tensor([2, 1, 2]), torch.tensor([True, True, True]))
    assert ring.rows.flatten().tolist() == [0, 0, 2, 0, 0]
    assert ring.pushed.tolist() == [0, 1]


def test_what_is_not_finite_is_passed_over() -> None:
    ring = Ring(1, 3, 2)
    vectors = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [-torch.inf, 4.0], [5.0, 6.0]])
    ring.push(vectors, torch.zeros(4, dtype=torch.long), torch.ones(4) > 0)
    assert ring.rows.tolist() == [[1, 2], [5, 6], [0, 0], [0, 0]]
    assert ring.pushed.tolist() == [2]


def test_a_step_that_is_not_finite_leaves_the_next_ones_alone() -> None:
    """Such a step is skipped by a scaler of float16; what it remembered would stay."""
    torch.manual_seed(0)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    maps = torch.randn(2, 1, 4, 2, 2)
    for bad in (torch.nan, torch.inf):
        memory = MemoryContrastLoss(2, 4, pixels=8, regions=8, push=4)
        queue = QueueContrastLoss(8, embed=4, student_channels=4, teacher_channels=4)
        for loss, own in ((memory, (labels,)), (queue, ())):
            spoilt = maps.clone()
            spoilt[:, 0, 0, 0, 0] = bad
            assert not loss(*spoilt, *own).isfinite()
            assert loss(*maps, *own).isfinite()
            assert all(x.isfinite().all() for x in loss.state_dict().values())


def test_numbers_are_kept_with_their_vectors() -> None:
    ring = Ring(1, 3, 1, tagged=True)
    group, known = torch.zeros(4, dtype=torch.long), torch.tensor([True, True, False, True])
    ring.push(numbered(0, 4), group, known, torch.tensor([7, 8, 9, 10]))
    assert ring.rows.flatten().tolist() == [1, 2, 4, 0]
    assert ring.tags.tolist() == [7, 8, 10, -1]
    ring.push(numbered(4, 1), group[:1], known[:1])
    assert ring.tags.tolist() == [-1, 8, 10, -1]
    assert 'tags' not in Ring(1, 3, 1).state_dict()


def test_what_is_drawn_is_known_once_each_and_of_every_group() -> None:
    torch.manual_seed(0)
    ring = Ring(3, 50, 1)
    ring.push(numbered(0, 50), torch.zeros(50, dtype=torch.long), torch.ones(50) > 0)
    ring.push(numbered(100, 3), torch.ones(3, dtype=torch.long), torch.ones(3) > 0)
    seen = set()
    for _ in range(40):
        keys, known = ring.draw(5)
        assert keys.shape == (15, 1)
        assert known.view(3, 5).sum(1).tolist() == [5, 3, 0]
        own = keys.view(3, 5)
        assert len(set(own[0].tolist())) == 5
        assert sorted(own[1].tolist()) == [0, 0, 101, 102, 103]
        assert torch.equal(known, keys.flatten() > 0)
        seen |= set(own[0].tolist())
    assert seen == set(range(1, 51))
    # all there are: in their order, and no number is drawn
    state = torch.get_rng_state()
    keys, known = ring.draw(50)
    assert torch.equal(keys, ring.rows[:-1])
    assert torch.equal(known, ring.known)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_those_of_the_generator() -> None:
    ring = Ring(1, 50, 1)
    ring.push(numbered(0, 50), torch.zeros(50, dtype=torch.long), torch.ones(50) > 0)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ring.draw(5)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_some_of_each_group_are_of_the_group() -> None:
    torch.manual_seed(0)
    groups = torch.tensor([0, 1, 3, 1, 0, 1, 2, 1, 3, 1])  # 3: of none
    vectors = groups.float().unsqueeze(1) * 100 + torch.arange(10.0).unsqueeze(1)
    seen = set()
    for _ in range(60):
        some, known = some_of_each(vectors, groups, 3, 2)
        assert known.tolist() == [True, True, True, True, True, False]
        own = some.view(3, 2)
        assert set(own[0].tolist()) == {0, 4}
        assert own[2, 0] == 206
        assert (own[1] // 100 == 1).all()
        assert own[1, 0] != own[1, 1]
        seen |= set(own[1].tolist())
    assert seen == {101, 103, 105, 107, 109}


def test_means_are_those_of_each_group() -> None:
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [7.0, 7.0]])
    means, known = mean_of_each(vectors, torch.tensor([1, 1, 2]), 2)
    assert means.tolist() == [[0, 0], [2, 1]]
    assert known.tolist() == [False, True]


def test_an_order_by_groups_is_stable() -> None:
    groups = torch.randint(5, (100,), generator=torch.Generator().manual_seed(0))
    order, own, place, count = in_groups(groups, 4)
    assert torch.equal(own, groups.sort().values)
    assert torch.equal(count, torch.bincount(groups, minlength=5))
    for k in range(5):
        assert torch.equal(order[own == k], (groups == k).nonzero().flatten())
        assert torch.equal(place[own == k], torch.arange(int(count[k])))


def test_one_rank_gathers_nothing() -> None:
    vectors, known = numbered(0, 2), torch.tensor([True, False])
    assert of_all_ranks(vectors, known) == (vectors, known)


def test_no_step_waits_for_the_device() -> None:
    """Fake tensors have no numbers: whatever would read one, or choose a shape by one, raises."""
    with FakeTensorMode():
        labels = torch.zeros(2, 6, 8, dtype=torch.long)
        mask, weight = labels > 0, torch.rand(2, 6, 8)
        student, teacher = torch.rand(2, 4, 6, 8, requires_grad=True), torch.rand(2, 4, 6, 8)
        loss = MemoryContrastLoss(5, 4, pixels=30, regions=7, pixel_keys=20, region_keys=9)
        loss(student, teacher, labels, mask, weight).backward()
        for compare in ('kl', 'info-nce', 'nce'):
            queue = QueueContrastLoss(9, compare=compare, teacher_channels=4)
            own = None if compare == 'kl' else torch.zeros(2, dtype=torch.long)
            queue(student, teacher, mask, weight, own).backward()
        with pytest.raises(DataDependentOutputException):
            bool(mask.any())
