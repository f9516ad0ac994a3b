"""Checks of the data: folders, classes, label ids, and the batches that the rest is measured on."""

import copy
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd.apis.doctor.report import Report
from mmkd.apis.norms import judge_one_image, last_batch_of_one
from mmkd.structures.batch import Batch
from mmkd.tasks.base import task_of
from mmkd.utils.explain import explain


def check_folders(cfg: Config, report: Report) -> set[str]:
    """Say which folders of images and labels are not there, and how they should lie; return whose: 'train', …."""
    lost = set()
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _leaves(loader.get('dataset') if loader else None):
            missing = missing_folders(dataset)
            if missing:
                lost.add(split)
                # Training never opens the test images.
                (report.warn if split == 'test' else report.error)(_layout(split, dataset, missing))
    return lost


def missing_folders(dataset: dict) -> list[str]:
    """Return the folders (and the list of files) that a data set's config names and that do not exist."""
    root = dataset.get('data_root') or ''
    named = [
        os.path.join(root, path)
        for path in (dataset.get('data_prefix') or {}).values()
        if path is not None
    ]
    wrong = [path for path in named if '://' not in path and not os.path.isdir(path)]
    ann_file = dataset.get('ann_file')
    path = os.path.join(root, ann_file) if ann_file else ''
    return wrong + ([path] if path and '://' not in path and not os.path.exists(path) else [])


def _layout(split: str, dataset: dict, missing: list[str]) -> str:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    parameters = inspect.signature(kind).parameters if kind else {}

    def suffix(name: str) -> str:
        default = getattr(parameters.get(name), 'default', '.*')
        return dataset.get(name, default if isinstance(default, str) else '.*')

    lines = [
        f'  {os.path.join(path, "*" + suffix("img_suffix" if key == "img_path" else "seg_map_suffix"))}'
        for key, path in (dataset.get('data_prefix') or {}).items()
        if path is not None
    ]
    listed = f'  {dataset["ann_file"]}\n' if dataset.get('ann_file') else ''
    return (
        f'{split} data is not there: {", ".join(missing)} (relative paths start at '
        f'{os.getcwd()}).\nExpected: '
        f'{dataset.get("data_root") or "."}/ with\n' + '\n'.join(lines) + f'\n{listed}'
        f'Mend: lay the data out so, or set {split}_dataloader.dataset.data_root; --fake-data '
        f'checks all else'
    )


def draw_batches(
    cfg: Config, report: Report, count: int, batch_size: int
) -> tuple[list[dict], int]:
    """Return the first training batches (as many as could be drawn) and the size of the data set."""
    loader: Any = None
    batches: list[dict] = []
    try:
        loader = Runner.build_dataloader(in_this_process(cfg.train_dataloader, batch_size), seed=0)
        for data in loader:
            batches.append(data)
            if len(batches) == count:
                break
    except Exception as error:
        report.error(f'the training data cannot be read: {explain(error)}')
    if loader is not None and not batches and not report.errors:
        report.error(
            f'the training data set gives no batch of {batch_size}: it has {len(loader.dataset)} '
            f'samples'
        )
    return batches, len(loader.dataset) if loader is not None else 0


def check_last_batch(
    cfg: Config, samples: int, students: dict[str, nn.Module], report: Report
) -> None:
    """Report a last batch of one image, on one device, where a pass over the data ends."""
    loader, loop = cfg.train_dataloader, cfg.get('train_cfg') or {}
    by_epoch = loop.get('by_epoch') or 'Epoch' in str(loop.get('type'))
    straddles = any(
        'ExactResumeHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or []
    )
    if 'Infinite' in str((loader.get('sampler') or {}).get('type')) or (straddles and not by_epoch):
        return
    found = last_batch_of_one(samples, loader.get('batch_size'), loader.get('drop_last', False))
    error, warning = judge_one_image(students.values(), *found) if found else (None, None)
    if error:
        report.error(error)
    if warning:
        report.warn(warning)


def check_classes(
    cfg: Config, students: dict[str, nn.Module], teachers: dict[str, nn.Module], report: Report
) -> None:
    """Compare the number of classes of data, students and teachers."""
    classes = _classes(cfg)
    heads = {name: task_of(model).num_classes for name, model in {**students, **teachers}.items()}
    for name in students:
        if classes and heads[name] and heads[name] != classes:
            report.error(
                f'student {name!r} has {heads[name]} classes, the training data {classes}. Mend: '
                f'num_classes '
                'of every head, or the data set'
            )
    first = next((heads[name] for name in students), None)
    for name in teachers:
        if first and heads[name] and heads[name] != first:
            report.warn(
                f'teacher {name!r} has {heads[name]} classes, the student {first}: only their '
                f'features can be '
                'compared'
            )


def check_labels(
    batches: list[dict],
    preprocessor: nn.Module,
    num_classes: int,
    ignore_index: int,
    report: Report,
) -> tuple[list[tuple[str, str]], list[dict]]:
    """Report label ids that no class has, and batches without a valid position.

    Returns:
        What the labels hold, as rows of a table, and the batches that could be trained on.
    """
    good: list[dict] = []
    wrong: dict[str, list[str]] = {}
    voids: list[str] = []
    seen = torch.zeros(num_classes, dtype=torch.long)
    void = total = 0
    for data in batches:
        try:
            ready = preprocessor(copy.deepcopy(data), True)  # it pads the labels in place
            batch = Batch(ready['inputs'], ready['data_samples'], ignore_index)
            labels = batch.labels
            void, total = void + int((~batch.valid).sum()), total + labels.numel()
            seen += _histogram(labels.cpu(), num_classes)
            if batch.check_labels(num_classes):
                good.append(data)
            else:
                voids.append(batch.tell_void())
        except Exception as error:
            text = explain(error)
            wrong.setdefault(re.sub(r' \(from .*?\)', '', text), []).append(
                text
            )  # one mistake, many files
    for texts in wrong.values():
        report.error(f'{texts[0]} [{len(texts)} of {len(batches)} batches]')
    if voids:  # a training goes on after one
        say = report.error if len(voids) == len(batches) else report.warn
        say(f'{voids[0]} [{len(voids)} of {len(batches)} batches]')
    absent = [i for i, n in enumerate(seen.tolist()) if n == 0]
    unseen = f', not {absent[:10]}' if absent else ''
    rows = [
        ('classes seen', f'{num_classes - len(absent)} of {num_classes}{unseen}'),
        ('ignored labels', f'{100 * void / max(total, 1):.1f} %'),
    ]
    return rows, good


def check_boxes(
    batches: list[dict], num_classes: int | None, report: Report
) -> list[tuple[str, str]]:
    """Report labels of boxes that no class has; return what the images hold, as rows of a table."""
    samples = [sample for data in batches for sample in data['data_samples']]
    labels = [torch.as_tensor(sample.gt_instances.labels) for sample in samples]
    found = torch.cat(labels) if labels else torch.zeros(0)
    try:
        if num_classes is not None:
            Batch(torch.zeros(0), samples).check_boxes(num_classes)
    except ValueError as error:
        report.error(error)
    if labels and not len(found):
        report.warn(
            f'none of the first {len(labels)} images has a box: if none has, the student learns '
            f'from its '
            'teachers alone. If that is not meant: metainfo=dict(classes=…) of the data set must '
            'be the names '
            'in its annotation file, letter by letter; boxes of other names are dropped'
        )
    seen = found[(found >= 0) & (found < num_classes)] if num_classes is not None else found
    of = f' of {num_classes}' if num_classes is not None else ''
    return [
        ('boxes an image', f'{len(found) / max(len(labels), 1):.1f}'),
        ('images without boxes', f'{sum(not len(x) for x in labels)} of {len(labels)}'),
        ('classes seen', f'{len(seen.unique())}{of}'),
    ]


def _histogram(labels: Tensor, num_classes: int) -> Tensor:
    inside = labels[(labels >= 0) & (labels < num_classes)]
    return torch.bincount(inside.flatten().long(), minlength=num_classes)


def in_this_process(loader: Any, batch_size: int) -> dict:
    """Return the config of a data loader without workers."""
    config = {
        key: value
        for key, value in loader.items()
        if key not in ('prefetch_factor', 'persistent_workers')
    }
    return {**config, 'num_workers': 0, 'batch_size': batch_size}


def _leaves(dataset: Any) -> Iterator[dict]:
    """Yield the data sets inside RepeatDataset, ConcatDataset and the like."""
    if isinstance(dataset, list | tuple):
        for part in dataset:
            yield from _leaves(part)
    elif isinstance(dataset, dict):
        inner = [dataset[key] for key in ('dataset', 'datasets') if key in dataset]
        for part in inner:
            yield from _leaves(part)
        if not inner:
            yield dataset


def _classes(cfg: Config) -> int | None:
    dataset = next(_leaves(cfg.get('train_dataloader', {}).get('dataset')), {})
    own = (dataset.get('metainfo') or {}).get('classes')
    kind = (
        DATASETS.get(dataset['type'])
        if isinstance(dataset.get('type'), str)
        else dataset.get('type')
    )
    classes = own or (getattr(kind, 'METAINFO', None) or {}).get('classes')
    return len(classes) if isinstance(classes, list | tuple) else None
