"""Two processes over gloo take the step that one process takes on the joined batch; what the
wrapper refuses.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.phased import THREE, quiet_distiller, wrappers
from helpers.processes import ranks
from helpers.tiny import batch, distiller, objectives, segmentor
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.engine.runner.phased_ddp import PhasedDDP, average_over_ranks

STEPS = 3
PLAIN = dict(objectives=objectives())
CLIP = dict(clip_grad=dict(max_norm=1.0))
PHASED = {  # name -> (phases, changes of the Distiller, optimizers, options of every optimizer)
    'one phase': (None, PLAIN, ('student',), {}),
    'two phases': (None, {}, ('student', 'critic'), CLIP),
    'three phases': (THREE, {}, ('student', 'feature', 'critic'), dict(accumulative_counts=2)),
}


def half(data: dict, rank: int) -> dict:
    return dict(inputs=data['inputs'][rank::2], data_samples=data['data_samples'][rank::2])


def train(model: Any, optim: Any, rank: int | None) -> dict[str, Tensor]:
    """Take STEPS steps (the last accumulation is partial) on the joined batches, or on one rank's
    halves.
    """
    optim.initialize_count_status(model, 0, STEPS)
    for seed in range(STEPS):
        data = batch(4, 32, seed=seed)
        model.train_step(data if rank is None else half(data, rank), optim)
    return {
        name: value.detach().clone()
        for name, value in getattr(model, 'module', model).state_dict().items()
    }


def phased(name: str, wrap: Any = None, rank: int | None = None) -> dict[str, Tensor]:
    phases, changes, names, options = PHASED[name]
    model = quiet_distiller(phases, **copy.deepcopy(changes))
    return train(
        wrap(model) if wrap else model,
        wrappers(model, lr=0.01, names=names, **copy.deepcopy(options)),
        rank,
    )


def single(wrap: Any = None, rank: int | None = None) -> dict[str, Tensor]:
    """One plain optimizer, in mmengine's wrapper or ours."""
    model = quiet_distiller(**copy.deepcopy(PLAIN))
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01), **copy.deepcopy(CLIP))
    return train(wrap(model) if wrap else model, optim, rank)


def untrained(seed: int) -> Any:
    torch.manual_seed(seed)
    return MODELS.build(
        distiller(
            student=dict(model=segmentor(4, size=32, norm='SyncBN')),
            teacher=dict(model=segmentor(4, size=32, norm='SyncBN'), allow_untrained=True),
        )
    )


def weights(model: Any) -> dict[str, dict[str, Tensor]]:
    return {
        name: {k: v.clone() for k, v in member.state_dict().items()}
        for name, member in (('student', model.student), ('teacher', model.teacher))
    }


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does; its findings go to a file."""
    found: dict[str, Any] = {name: phased(name, PhasedDDP, rank) for name in PHASED}
    found['single'] = single(PhasedDDP, rank)
    found['mmengine'] = single(
        lambda m: MMDistributedDataParallel(m, device_ids=None, broadcast_buffers=False), rank
    )

    # ranks that start apart: everything is rank 0's afterwards, untrained teachers included
    model = untrained(seed=rank)
    found['before'] = weights(model)
    wrapped = PhasedDDP(model, device_ids=[0], find_unused_parameters=True)
    found['after'] = weights(model)
    found['kinds'] = {type(m).__name__ for m in wrapped.modules()}
    found['same'] = wrapped.module is model
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    found['losses'] = wrapped.train().train_step(batch(2, 32, seed=rank), optim)
    wrapped.eval()
    found['predictions'] = [
        step(batch(2, 32))[0].seg_logits.data
        for step in (wrapped.val_step, wrapped.test_step, model.student.test_step)
    ]

    # init_weights, which the Runner calls after it wrapped the model
    torch.manual_seed(10 + rank)
    model.teacher.decode_head.conv_seg.weight.data.normal_()
    model.init_weights()
    found['again'] = model.teacher.decode_head.conv_seg.weight.clone()

    found['average'] = average_over_ranks(*uneven(rank))
    torch.save(found, folder / f'rank{rank}.pth')


def uneven(rank: int) -> tuple[list[Tensor | None], list[Tensor]]:
    """Four parameters of two types: used by both ranks, by rank 1 alone, by none, and a transposed
    gradient.
    """
    parameters = [
        torch.zeros(2, 3),
        torch.zeros(4),
        torch.zeros(1),
        torch.zeros(3, 2, dtype=torch.float64),
    ]
    transposed = torch.arange(6.0, dtype=torch.float64).view(2, 3).t() * (rank + 1)
    return [
        torch.full((2, 3), 1.0 + rank),
        torch.ones(4) if rank else None,
        None,
        transposed,
    ], parameters


@pytest.fixture(scope='module')
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp('ranks')
    ranks(work, folder)
    return [torch.load(folder / f'rank{rank}.pth', weights_only=False) for rank in range(2)]


@cache
def joined(name: str) -> dict[str, Tensor]:
    return single() if name in ('single', 'mmengine') else phased(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', [*PHASED, 'single', 'mmengine'])
def test_two_processes_equal_one_on_the_joined_batch(both: list[dict], name: str) -> None:
    start = quiet_distiller(
        PHASED[name][0] if name in PHASED else None,
        **copy.deepcopy(PHASED[name][1] if name in PHASED else PLAIN),
    ).state_dict()
    moved = max(float((value - start[key]).abs().max()) for key, value in joined(name).items())
    assert moved > 1e-3
    for key, value in joined(name).items():
        assert torch.equal(both[0][name][key], both[1][name][key]), key
        assert float((both[0][name][key] - value).abs().max()) < 1e-6 * max(
            1.0, float(value.abs().max())
        ), key


def test_without_reduction_the_ranks_would_differ() -> None:
    """The comparison above would see it: a rank that steps alone ends elsewhere."""
    alone = phased('two phases', rank=0)
    apart = max(
        float((alone[key] - value).abs().max()) for key, value in joined('two phases').items()
    )
    assert apart > 1e-4


@pytest.mark.slow
def test_everything_starts_as_on_rank_0(both: list[dict]) -> None:
    for member in ('student', 'teacher'):
        first, second = (found['before'][member] for found in both)
        assert any(not torch.equal(value, second[key]) for key, value in first.items())
        for found in both:
            assert all(
                torch.equal(found['after'][member][key], value) for key, value in first.items()
            )
    assert torch.equal(both[0]['again'], both[1]['again'])


@pytest.mark.slow
def test_sync_bn_is_reverted_on_a_cpu(both: list[dict]) -> None:
    for found in both:
        assert 'SyncBatchNorm' not in found['kinds']
        assert found['same']
        assert float(found['losses']['loss']) > 0
        for prediction in found['predictions'][:2]:
            assert torch.equal(prediction, found['predictions'][2])
    assert both[0]['losses']['loss'] != both[1]['losses']['loss']  # each logs its own half


@pytest.mark.slow
def test_unused_parameters(both: list[dict]) -> None:
    for found in both:
        all_used, one, none, transposed = found['average']
        assert torch.equal(all_used, torch.full((2, 3), 1.5))
        assert torch.equal(one, torch.full((4,), 0.5))  # rank 0 counts as zero, as in torch's DDP
        assert none is None  # so that weight decay leaves it alone
        assert torch.equal(transposed, torch.arange(6.0, dtype=torch.float64).view(2, 3).t() * 1.5)


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(
        TypeError, match="PhasedDDP wraps a Distiller, got Linear. Mend: mmengine's own"
    ):
        PhasedDDP(nn.Linear(1, 1))


def test_without_a_process_group() -> None:
    with pytest.raises(
        RuntimeError, match='PhasedDDP needs torch.distributed. Mend: start with torchrun'
    ):
        PhasedDDP(quiet_distiller())
