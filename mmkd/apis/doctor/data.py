"""Checks of the data: folders, classes, label ids, and the batches that the rest is measured on."""

import copy
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn

from mmkd.apis.doctor.report import Report
from mmkd.apis.norms import judge_one_image, last_batch_of_one
from mmkd.apis.settings import check_shares, shares_of
from mmkd.datasets.unlabelled import places_of
from mmkd.engine.hooks.unlabelled import check_reader
from mmkd.structures.batch import Batch
from mmkd.tasks.base import Task, task_of
from mmkd.utils.explain import explain


def check_folders(cfg: Config, report: Report) -> set[str]:
    """Say which folders of images and labels are missing, and how they should lie.

    Returns:
        Whose they are: 'train', 'val', 'test'.
    """
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
    """Return what a data set's config names and is not there: folders, and the list of files."""
    root = dataset.get('data_root') or ''
    named = [os.path.join(root, path) for path in _prefixes(dataset).values() if path is not None]
    wrong = [path for path in named if '://' not in path and not os.path.isdir(path)]
    ann_file = dataset.get('ann_file')
    path = os.path.join(root, ann_file) if ann_file else ''
    return wrong + ([path] if path and '://' not in path and not os.path.exists(path) else [])


def _prefixes(dataset: dict) -> dict[str, str | None]:
    given = dataset.get('data_prefix') or {}
    return dict(img_path=given) if isinstance(given, str) else given  # mmpretrain takes a text


def _layout(split: str, dataset: dict, missing: list[str]) -> str:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    parameters = inspect.signature(kind).parameters if kind else {}

    def suffix(name: str) -> str:
        default = getattr(parameters.get(name), 'default', '.*')
        return dataset.get(name, default if isinstance(default, str) else '.*')

    lines = []
    for key, path in _prefixes(dataset).items():
        if path is not None:
            ending = suffix('img_suffix' if key == 'img_path' else 'seg_map_suffix')
            lines.append(f'  {os.path.join(path, "*" + ending)}')
    listed = f'  {dataset["ann_file"]}\n' if dataset.get('ann_file') else ''
    expected = '\n'.join([f'{dataset.get("data_root") or "."}/ with', *lines])
    return (
        f'{split} data is not there: {", ".join(missing)} (relative paths start at '
        f'{os.getcwd()}).\n'
        f'Expected: {expected}\n'
        f'{listed}'
        f'Mend: lay the data out so, or set {split}_dataloader.dataset.data_root; --fake-data '
        'checks all else'
    )


def draw_batches(
    cfg: Config, report: Report, count: int, batch_size: int
) -> tuple[list[dict], tuple[int, int]]:
    """Return the first training batches, as many as could be drawn, and the number of images.

    That is how many have labels, and how many have none.
    """
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
            'samples'
        )
    own, others = places_of(loader.dataset) if loader is not None else ([], [])
    return batches, (len(own), len(others))


def check_unlabelled(cfg: Config, images: tuple[int, int], model: Any, report: Report) -> str:
    """Report images without labels that are of no use; return what the table says of a batch.

    Args:
        cfg: The config.
        images: How many have labels, and how many have none.
        model: What is trained; None where it could not be built.
        report: Where the findings go.
    """
    loader = cfg.train_dataloader
    try:
        check_shares(cfg)
        if model is not None and images[1]:
            check_reader(model, *images)
    except (TypeError, ValueError) as error:
        report.error(error)
    shares = shares_of(loader)
    if shares is None:
        return f'about {loader.batch_size * images[1] / sum(images):.1f} of {loader.batch_size}'
    own, others = (each[0] if len(set(each)) == 1 else each for each in shares)
    return f'{own} with labels, {others} without'


def check_last_batch(
    cfg: Config, samples: int, students: dict[str, nn.Module], report: Report
) -> None:
    """Report a last batch of one image, on one device, where a pass over the data ends."""
    loader, loop = cfg.train_dataloader, cfg.get('train_cfg') or {}
    by_epoch = loop.get('by_epoch') or 'Epoch' in str(loop.get('type'))
    straddles = any(
        'ExactResumeHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or []
    )
    kind = str((loader.get('sampler') or {}).get('type'))
    if 'Infinite' in kind or 'MixedSampler' in kind or (straddles and not by_epoch):
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
                'num_classes of every head, or the data set'
            )
    first = next((heads[name] for name in students), None)
    for name in teachers:
        if first and heads[name] and heads[name] != first:
            report.warn(
                f'teacher {name!r} has {heads[name]} classes, the student {first}: only their '
                'features can be compared'
            )


def check_labels(
    batches: list[dict], preprocessor: nn.Module, task: Task, report: Report
) -> tuple[list[tuple[str, str]], list[dict]]:
    """Report labels that the student cannot learn from, and batches without a valid position.

    Args:
        batches: As the data loader gives them.
        preprocessor: Stacks them.
        task: Of the student.
        report: Where the findings go.

    Returns:
        What the labels hold, as rows of a table, and the batches that could be trained on.
    """
    good: list[dict] = []
    wrong: dict[str, list[str]] = {}
    voids: list[str] = []
    counts: Counter = Counter()
    for data in batches:
        try:
            ready = preprocessor(copy.deepcopy(data), True)  # it pads the labels in place
            batch = Batch(ready['inputs'], ready['data_samples'], task.ignore_index, task)
            counts.update(task.count(batch))
            if batch.check_labels(task.num_classes):
                good.append(data)
            else:
                voids.append(batch.tell_void())
        except Exception as error:
            text = explain(error)
            mistake = re.sub(r' \(from .*?\)', '', text)  # one mistake, many files
            wrong.setdefault(mistake, []).append(text)
    for texts in wrong.values():
        report.error(f'{texts[0]} [{len(texts)} of {len(batches)} batches]')
    if voids:  # a training goes on after one
        say = report.error if len(voids) == len(batches) else report.warn
        say(f'{voids[0]} [{len(voids)} of {len(batches)} batches]')
    rows, warnings = task.tell(counts)
    for text in warnings:
        report.warn(text)
    return rows, good


def in_this_process(loader: Any, batch_size: int) -> dict:
    """Return the config of a data loader without workers."""
    config = {
        key: value
        for key, value in loader.items()
        if key not in ('prefetch_factor', 'persistent_workers')
    }
    shares = shares_of(loader)
    if shares is not None:  # of the first rank, and at least one of a kind that has a share
        own = round(batch_size * shares[0][0] / max(shares[0][0] + shares[1][0], 1))
        least, most = min(shares[0][0], 1), batch_size - min(shares[1][0], 1)
        own = max(min(own, most), min(least, batch_size))
        config['sampler'] = {**config['sampler'], 'labelled': own, 'unlabelled': batch_size - own}
    return {**config, 'num_workers': 0, 'batch_size': batch_size}


def _leaves(dataset: Any) -> Iterator[dict]:
    """Yield the data sets inside RepeatDataset, ConcatDataset, WithUnlabelled and the like."""
    if isinstance(dataset, list | tuple):
        for part in dataset:
            yield from _leaves(part)
    elif isinstance(dataset, dict):
        inner = [dataset[key] for key in ('dataset', 'datasets', 'unlabelled') if key in dataset]
        for part in inner:
            yield from _leaves(part)
        if not inner and 'type' in dataset:  # without one it is a folder of WithUnlabelled
            yield dataset


def _classes(cfg: Config) -> int | None:
    dataset = next(_leaves((cfg.get('train_dataloader') or {}).get('dataset')), {})
    own = (dataset.get('metainfo') or {}).get('classes')
    kind = (
        DATASETS.get(dataset['type'])
        if isinstance(dataset.get('type'), str)
        else dataset.get('type')
    )
    classes = own or (getattr(kind, 'METAINFO', None) or {}).get('classes')
    return len(classes) if isinstance(classes, list | tuple) else None
