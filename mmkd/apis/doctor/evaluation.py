"""Checks of the images that a validation or a test would read."""

from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn

from mmkd.apis.doctor.data import in_this_process
from mmkd.apis.doctor.report import Report
from mmkd.apis.doctor.wiring import Wiring
from mmkd.evaluation.reported_metrics import check_best_metrics, reported_metrics
from mmkd.structures.batch import Batch
from mmkd.tasks.base import task_of
from mmkd.utils.explain import explain
from mmkd.utils.progress import track

SHOWN = 3  # of what is wrong with many samples


def check_evaluation(
    cfg: Config, split: str, wiring: Wiring, batches: int | None, report: Report
) -> None:
    """Read a split as its loop would; report what would stop or spoil it: files, sizes, labels.

    Args:
        cfg: The config.
        split: 'val' or 'test'; what is wrong with the latter is a warning, training never reads it.
        wiring: The model, whose preprocessor stacks the batches.
        batches: How many batches are read; None reads all.
        report: Where the findings go.
    """
    say = report.warn if split == 'test' else report.error
    loader = cfg[f'{split}_dataloader']
    size = loader.get('batch_size', 1)
    if not isinstance(size, int) or size < 1:  # said of the settings already
        return
    try:
        built: Any = Runner.build_dataloader(in_this_process(loader, size), seed=0)
        total = len(built.dataset)
    except Exception as error:
        say(f'the {split} data cannot be read: {explain(error)}')
        return
    reader = _Reader(built, wiring)
    wanted = total if batches is None else min(total, batches * size)
    starts = range(0, wanted, size)
    for start in track(starts, len(starts), f'{split} data'):
        reader.read(range(start, min(start + size, total)))
    if wanted < total and split == 'val':
        report.note(
            f'{wanted} of {total} validation images were read: the others may still be broken'
        )
    for problem, found in reader.problems.items():
        others = f' [{len(found)} times; the next: {"; ".join(found[1:SHOWN])}]'
        say(f'the {split} data {problem}: {found[0]}{others if len(found) > 1 else ""}')


def check_best(cfg: Config, wiring: Wiring, report: Report) -> None:
    """Report a best checkpoint that is kept by a metric which the validation does not report."""
    wanted = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    loop = (cfg.get('val_cfg') or {}).get('type', 'ValLoop')
    if not wanted or wiring.model is None or loop != 'ValLoop':
        return  # a loop of peers knows its names by itself
    try:
        built = Runner.build_dataloader(in_this_process(cfg.val_dataloader, 1), seed=0)
        found = reported_metrics(wiring.model, built, val_evaluator(cfg))
        check_best_metrics(wanted if isinstance(wanted, list) else [wanted], found)
    except KeyError as error:
        report.error(error)
    except Exception as error:
        report.error(f'the validation cannot be evaluated: {explain(error)}')


def val_evaluator(cfg: Config) -> Evaluator:
    """Build the evaluator of the validation as the runner does."""
    # of a metric, a list of them or a dict of 'metrics'; nothing is read of the runner
    return Runner.build_evaluator(None, cfg.val_evaluator)


class _Reader:
    """Reads batches and collects what is wrong with them."""

    def __init__(self, loader: Any, wiring: Wiring) -> None:
        self.dataset, self.collate = loader.dataset, loader.collate_fn
        student: Any = next(iter(wiring.students.values()), None)
        self.preprocessor: nn.Module | None = getattr(
            wiring.model, 'data_preprocessor', None
        ) or getattr(student, 'data_preprocessor', None)
        self.task = task_of(student)
        self.problems: dict[str, list[str]] = {}

    def read(self, indices: range) -> None:
        """Read one batch."""
        samples = [sample for index in indices if (sample := self._sample(index)) is not None]
        if len(samples) < len(indices):  # the others of the batch are not to blame
            return
        try:
            if self.preprocessor is not None:
                self.preprocessor(self.collate(samples), False)
        except Exception as error:
            shapes = {tuple(getattr(sample.get('inputs'), 'shape', ())) for sample in samples}
            named = ', '.join(map(str, sorted(shapes)))
            mend = f' (shapes {named}). Mend: batch_size=1, or a Resize to one size'
            text = explain(error).rstrip('.')
            self._note('does not make a batch', f'{text}{mend if len(shapes) > 1 else ""}')

    def _sample(self, index: int) -> dict | None:
        try:
            sample = self.dataset[index]
        except Exception as error:
            self._note('cannot be read', explain(error))
            return None
        labelled = sample.get('data_samples')
        if self.task.known and labelled is not None:
            try:  # that nothing is valid is no mistake of a validation image
                batch = Batch(sample['inputs'], [labelled], self.task.ignore_index, self.task)
                batch.check_labels(self.task.num_classes)
            except ValueError as error:
                self._note('has wrong labels', explain(error))
        return sample

    def _note(self, problem: str, text: str) -> None:
        self.problems.setdefault(problem, []).append(text)
