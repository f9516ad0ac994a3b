"""The names of metrics are found by each rank alone, or one that fails would leave the others
waiting.
"""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_run import Script
from mmengine.evaluator import Evaluator
from torch.utils.data import DataLoader

from mmkd.evaluation.reported_metrics import check_best_metrics, reported_metrics

MODEL: Any = SimpleNamespace(eval=lambda: None, val_step=lambda batch: [torch.zeros(())])
DATA: Any = DataLoader([1, 2])


class Whole(Script):
    def compute_metrics(self, results: list) -> dict[str, float]:
        raise AssertionError('one batch is too few for me')


def test_names_and_prefixes_are_those_of_a_validation() -> None:
    first, second = Script([0.5], ('mIoU', 'mAcc')), Script([0.5], ('a',))
    second.prefix = 'head'
    evaluator = Evaluator([first, second])
    found = reported_metrics(MODEL, DATA, evaluator)
    assert found == ['mIoU', 'mAcc', 'head/a']
    evaluator.process(data_samples=[torch.zeros(())], data_batch=1)
    assert found == list(evaluator.evaluate(1))
    assert (first.calls, second.calls) == (1, 1), 'the probe was of copies'
    assert reported_metrics(MODEL, DATA, Evaluator([first, Whole([0.5])])) == []


def _rank(rank: int, folder: Path, metric: Script) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    found = reported_metrics(MODEL, DATA, Evaluator([metric]))
    together = torch.tensor([len(found) + 1])
    torch.distributed.all_reduce(together)
    if together.item() != 2 * (len(found) + 1):
        raise AssertionError


@pytest.mark.fault
@pytest.mark.parametrize('kind', [Script, Whole])
def test_two_ranks_find_the_same_and_wait_for_no_one(kind: type, tmp_path: Path) -> None:
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                _rank(rank, tmp_path, kind([0.5]))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    begin = time.perf_counter()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert time.perf_counter() - begin < 15


def test_a_metric_that_nobody_reports() -> None:
    check_best_metrics(['auto', 'mIoU'], ['mIoU'])
    check_best_metrics(['unknown'], [])
    with pytest.raises(
        KeyError,
        match=r"save_best='miou', which the validation does not report; did you mean 'mIoU'",
    ):
        check_best_metrics(['miou'], ['mIoU'])
