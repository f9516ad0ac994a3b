"""n steps + resume + n steps = 2n steps, bit for bit; the order and the augmentation of the
data.
"""

import json
import random
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import two_ranks
from helpers.families import only_onedl
from helpers.processes import ranks
from helpers.tiny_run import (
    Line,
    Numbers,
    Script,
    loader,
    make_runner,
    segmentation_data,
    segmentation_runner,
    segmentation_set,
)
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.hooks import Hook
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from mmkd.datasets.samplers import PositionSampler, position_sampler
from mmkd.datasets.seeded import SeededDataset, seeded_loader
from mmkd.utils import seeds
from mmkd.utils.seeds import derive_seed, seed_everything

EXACT = [dict(type='mmkd.ExactResumeHook')]


class Kill(Hook):
    """Ends a run like Ctrl-C, right after iteration ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmentation_data(tmp_path_factory.mktemp('data'))


def assert_same(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(one[key], other[key]), (key, (one[key] - other[key]).abs().max())


@pytest.fixture(scope='module')
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The weights and buffers after 8 uninterrupted steps without workers."""
    return segmentation_runner(tmp_path_factory.mktemp('straight'), data).train().state_dict()


@pytest.mark.parametrize('num_workers', [0, 2])
def test_killed_and_resumed_equals_straight(
    num_workers: int, data: Path, tmp_path: Path, straight: dict
) -> None:
    # killed after step 6: past the checkpoint of step 4, the validations at 2, 4 and 6, and with
    # batches prefetched
    runner = segmentation_runner(tmp_path, data, num_workers)
    runner.register_hook(Kill(6), 'LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    runner.call_hook('after_train')  # ends the workers
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_4.pth')
    resumed = segmentation_runner(tmp_path, data, num_workers, resume=True)
    model = resumed.train()
    assert resumed.iter == 8
    assert_same(model.state_dict(), straight)


def test_the_weights_do_move_and_depend_on_the_seed(
    data: Path, tmp_path: Path, straight: dict
) -> None:
    other = segmentation_runner(tmp_path, data, randomness=dict(seed=1)).train().state_dict()
    assert not torch.equal(other['body.0.weight'], straight['body.0.weight'])


def test_accumulation_resumes_at_its_boundaries(data: Path, tmp_path: Path) -> None:
    sgd = dict(type='SGD', lr=0.1, momentum=0.9)
    wrapper = dict(optimizer=sgd, accumulative_counts=2, clip_grad=dict(max_norm=0.1))
    whole = segmentation_runner(tmp_path / 'a', data, optim_wrapper=dict(wrapper)).train()
    resumed = segmentation_runner(
        tmp_path / 'b',
        data,
        optim_wrapper=dict(wrapper),
        resume=True,
        load_from=str(tmp_path / 'a' / 'iter_4.pth'),
    )
    assert_same(resumed.train().state_dict(), whole.state_dict())


@only_onedl('upstream has no argument fast_forward_on_resume')
def test_fast_forward_on_resume_changes_nothing(data: Path, tmp_path: Path, straight: dict) -> None:
    loop = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=2, fast_forward_on_resume=True)
    segmentation_runner(tmp_path / 'a', data).train()
    resumed = segmentation_runner(
        tmp_path / 'b',
        data,
        train_cfg=loop,
        resume=True,
        load_from=str(tmp_path / 'a' / 'iter_4.pth'),
    )
    assert_same(resumed.train().state_dict(), straight)


def test_a_second_train_goes_on_in_the_same_stream(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / 'a', max_iters=6, custom_hooks=EXACT).train()
    runner = make_runner(tmp_path / 'b', max_iters=3, custom_hooks=EXACT)
    runner.train()
    runner.train_loop._max_iters = 6
    assert torch.equal(runner.train().weight, whole.weight)


def test_epoch_loop_resumes_between_epochs(tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> torch.Tensor:
        return (
            make_runner(
                tmp_path / folder,
                dict(type='mmkd.SafeCheckpointHook', interval=1),
                custom_hooks=EXACT,
                train_cfg=dict(by_epoch=True, max_epochs=4),
                train_dataloader=loader(Numbers(5), sampler='DefaultSampler'),
                **kwargs,
            )
            .train()
            .weight
        )

    whole = run('a')
    assert torch.equal(run('b', resume=True, load_from=str(tmp_path / 'a' / 'epoch_2.pth')), whole)


class Drawing(Line):
    """Notes a number that each train step draws."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode == 'loss':
            self.drawn.append(torch.rand(()).item())
        return super().forward(inputs, data_samples, mode)


def test_each_step_draws_numbers_of_its_own(tmp_path: Path) -> None:
    models = [Drawing(), Drawing()]
    for number, model in enumerate(models):
        make_runner(tmp_path / str(number), model=model, custom_hooks=EXACT).train()
    assert len(set(models[0].drawn)) == 6
    assert models[0].drawn == models[1].drawn


def test_epoch_loop_refuses_to_resume_inside_an_epoch(tmp_path: Path) -> None:
    def make(**kwargs: Any) -> Any:
        return make_runner(
            tmp_path,
            dict(type='mmkd.SafeCheckpointHook', interval=2, by_epoch=False),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            train_dataloader=loader(Numbers(6), sampler='DefaultSampler'),
            **kwargs,
        )

    inside = r'every 2 iterations lie inside of epochs of 3.*Mend: '
    with pytest.raises(ValueError, match=inside):
        make(custom_hooks=EXACT).train()
    make(custom_hooks=[]).train()
    with pytest.raises(ValueError, match=r'at iteration 2, inside an epoch of 3.*by_epoch=True'):
        make(
            resume=True,
            load_from=str(tmp_path / 'iter_2.pth'),
            custom_hooks=EXACT,
            default_hooks=dict(checkpoint=dict(type='mmkd.SafeCheckpointHook')),
        ).train()


@pytest.mark.slow
def test_two_processes(data: Path, tmp_path: Path) -> None:
    ranks(two_ranks.work, tmp_path, data)
    first, second = (json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2))
    # bit for bit, and the same on both ranks
    assert first['whole'] == first['resumed'] == second['whole'] == second['resumed']
    # rank 0 alone writes
    assert sorted(
        file.name
        for file in (tmp_path / 'line').glob('*')
        if file.suffix != '.py' and file.is_file()
    ) == ['iter_6.pth', 'last_checkpoint']
    # the first two passes over 7 samples, dealt out in turn
    dealt = [index for pair in zip(first['taken'], second['taken'], strict=True) for index in pair]
    assert sorted(dealt[:7]) == sorted(dealt[7:]) == list(range(7))
    # two ranks with batch 1 are one process with batch 2
    alone = make_runner(
        tmp_path / 'alone', train_dataloader=loader(Numbers(5)), custom_hooks=EXACT
    ).train()
    assert first['line'] == second['line'] == pytest.approx(alone.weight.tolist(), rel=1e-6)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_batches_are_a_function_of_seed_and_position(num_workers: int, data: Path) -> None:
    dataset = segmentation_set(data)
    plain = DataLoader(
        dataset,
        3,
        sampler=InfiniteSampler(dataset, seed=0),
        num_workers=num_workers,
        collate_fn=pseudo_collate,
    )
    batches = list(islice(seeded_loader(plain, seed=5), 4))
    # by hand: order and seeds written out
    for number, batch in enumerate(batches):
        for place in range(3):
            position = 3 * number + place
            turn, offset = divmod(position, len(dataset))
            order = torch.randperm(
                len(dataset),
                generator=torch.Generator().manual_seed(derive_seed(5, seeds.ORDER, turn)),
            ).tolist()
            seed_everything(5, seeds.SAMPLE, position)
            assert torch.equal(batch['inputs'][place], dataset[order[offset]]['inputs'])
    # from the middle on
    moved = seeded_loader(plain, seed=5)
    moved.sampler.skip(6)
    assert all(map(torch.equal, next(iter(moved))['inputs'], batches[2]['inputs']))


def test_augmentation_differs_between_passes(data: Path) -> None:
    wrapped = SeededDataset(segmentation_set(data), 0)
    assert torch.equal(wrapped[3, 11]['inputs'], wrapped[3, 11]['inputs'])
    assert not torch.equal(wrapped[3, 11]['inputs'], wrapped[3, 18]['inputs'])


@pytest.mark.parametrize(('size', 'world'), [(7, 1), (7, 2), (6, 3)])
def test_each_pass_holds_each_sample_once_over_ranks(
    size: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {}
    for rank in range(world):
        monkeypatch.setattr(position_sampler, 'get_dist_info', partial(lambda r: (r, world), rank))
        for index, position in islice(PositionSampler(size, seed=3), 2 * size):
            assert position % world == rank
            assert position not in taken
            taken[position] = index
    passes = [
        [taken[position] for position in range(turn * size, (turn + 1) * size)] for turn in range(2)
    ]
    assert [sorted(order) for order in passes] == [list(range(size))] * 2
    assert passes[0] != passes[1]  # shuffled anew
    # one process sees the same order: rank and world only deal it out
    monkeypatch.setattr(position_sampler, 'get_dist_info', lambda: (0, 1))
    assert [index for index, _ in islice(PositionSampler(size, seed=3), 2 * size)] == passes[
        0
    ] + passes[1]


def test_epochs_fill_up_from_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 samples, 2 ranks: 3 each, the sixth is the first once more, as DefaultSampler(round_up=True)
    # does
    taken = []
    for rank in range(2):
        monkeypatch.setattr(position_sampler, 'get_dist_info', partial(lambda r: (r, 2), rank))
        sampler = PositionSampler(5, seed=0, shuffle=False, length=3)
        sampler.set_epoch(1)
        assert len(sampler) == 3
        taken.append(list(sampler))
    assert taken == [[(0, 6), (2, 8), (4, 10)], [(1, 7), (3, 9), (0, 11)]]


def test_the_config_of_the_loader_is_carried_over() -> None:
    def init(worker: int) -> None:
        pass

    batches = BatchSampler(RandomSampler(Numbers()), 4, drop_last=True)
    plain = DataLoader(
        Numbers(),
        batch_sampler=batches,
        num_workers=1,
        timeout=9,
        worker_init_fn=init,
        prefetch_factor=3,
        persistent_workers=True,
        pin_memory=True,
        collate_fn=pseudo_collate,
        multiprocessing_context='spawn',
    )
    ours = seeded_loader(plain, 0, by_epoch=True)
    assert not seeded_loader(
        plain, 0
    ).persistent_workers  # would keep the endless stream's workers alive
    for name in (
        'num_workers',
        'timeout',
        'worker_init_fn',
        'prefetch_factor',
        'persistent_workers',
        'pin_memory',
        'collate_fn',
        'multiprocessing_context',
    ):
        assert getattr(ours, name) == getattr(plain, name), name
    assert (ours.batch_size, ours.batch_sampler.drop_last, ours.sampler.shuffle) == (4, True, True)
    assert not seeded_loader(
        DataLoader(Numbers(), sampler=SequentialSampler(Numbers())), 0
    ).sampler.shuffle


def test_the_data_set_shows_through_but_not_its_batch_fetch(data: Path) -> None:
    class Batched(Numbers):
        def __getitems__(self, indices: list) -> list:
            raise AssertionError('would be called with (index, position)')

    dataset = segmentation_set(data)
    assert SeededDataset(dataset, 0).metainfo == dataset.metainfo
    assert len(SeededDataset(dataset, 0)) == 7
    batch = next(iter(seeded_loader(DataLoader(Batched(), 2, shuffle=True), 0)))
    assert batch['inputs'].shape == (2, 1)
    with pytest.raises(AttributeError, match='nothing_here'):
        SeededDataset(Numbers(), 0).nothing_here  # noqa: B018


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_pipeline_that_a_hook_sets_is_the_data_sets(data: Path, num_workers: int) -> None:
    """As mmdet's PipelineSwitchHook gives ``train_dataloader.dataset`` another one."""
    plain = DataLoader(
        segmentation_set(data), 2, shuffle=True, collate_fn=pseudo_collate, num_workers=num_workers
    )
    seeded = seeded_loader(plain, 0)
    assert plain.dataset.pipeline is seeded.dataset.pipeline
    seeded.dataset.pipeline = black
    assert not next(iter(seeded))['inputs'][0].any()
    assert plain.dataset.pipeline is black
    assert set(vars(seeded.dataset)) == {'dataset', 'seed'}


def black(info: dict) -> dict:
    return dict(inputs=torch.zeros(3, 4, 4))


def test_seeds_reach_all_three_generators_and_never_collide() -> None:
    seed_everything(0, 1, 2)
    first = torch.rand(3), *np.random.rand(3), random.random()
    seed_everything(0, 1, 2)
    again = torch.rand(3), *np.random.rand(3), random.random()
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]
    keys = [
        (seed, stream, number) for seed in range(3) for stream in range(4) for number in range(200)
    ]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_no_seed_says_what_to_write(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, custom_hooks=EXACT, randomness=dict(seed=None))
    with pytest.raises(ValueError, match=r'Mend: randomness=dict\(seed=0\)'):
        runner.train()


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        (
            dict(interval=3),
            r'checkpoint interval=3 is no multiple of accumulative_counts=2: .* Write 4',
        ),
        (
            dict(interval=4, save_best='mIoU'),
            r'val_interval=5 is no multiple of accumulative_counts=2: .* Write 6',
        ),
        (
            dict(interval=2, save_begin=1),
            r'save_begin=1 is no multiple of accumulative_counts=2: .* Write 2',
        ),
    ],
)
def test_half_an_accumulation_is_refused(checkpoint: dict, message: str, tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        dict(type='mmkd.SafeCheckpointHook', by_epoch=False, **checkpoint),
        val_interval=5,
        metric=Script([1.0]),
        custom_hooks=EXACT,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2),
    )
    with pytest.raises(ValueError, match=message):
        runner.train()


@pytest.mark.bad_input
def test_half_an_accumulation_at_the_end_of_an_epoch_is_refused(tmp_path: Path) -> None:
    """Epochs of 3 iterations, two of which make a step: it ends with every second epoch."""

    def make(interval: int) -> Any:
        return make_runner(
            tmp_path / str(interval),
            dict(type='mmkd.SafeCheckpointHook', interval=interval, by_epoch=True),
            custom_hooks=EXACT,
            train_cfg=dict(by_epoch=True, max_epochs=4),
            train_dataloader=loader(Numbers(6), sampler='DefaultSampler'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2),
        )

    message = r'interval=1 epochs of 3 iterations is no multiple of acc.*=2: .* Write 2'
    with pytest.raises(ValueError, match=message):
        make(1).train()
    make(2).train()
    assert (tmp_path / '2/epoch_2.pth').is_file()


class OtherLoader(DataLoader):
    pass


@pytest.mark.parametrize(
    ('plain', 'message'),
    [
        (OtherLoader(Numbers()), 'got OtherLoader.*out of custom_hooks'),
        (DataLoader(Numbers(), batch_size=None), 'fixed batch_size, got NoneType'),
        (
            DataLoader(Numbers(), sampler=WeightedRandomSampler([1.0] * 6, 6)),
            'order of WeightedRandomSampler',
        ),
        (
            DataLoader(Numbers(), sampler=RandomSampler(Numbers(), replacement=True)),
            'without replacement',
        ),
    ],
)
def test_unknown_orders_are_refused(plain: DataLoader, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        seeded_loader(plain, 0)


def test_other_loops_are_refused(tmp_path: Path) -> None:
    from mmengine.runner import IterBasedTrainLoop

    class OtherLoop(IterBasedTrainLoop):
        pass

    runner = make_runner(tmp_path, custom_hooks=EXACT, train_cfg=dict(type=OtherLoop, max_iters=2))
    with pytest.raises(TypeError, match='got OtherLoop'):
        runner.train()
