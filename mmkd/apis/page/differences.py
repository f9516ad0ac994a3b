"""The images of a validation set on which a teacher and its student differ most."""

import copy
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich.progress import track
from torch import nn

from mmkd.apis.page.predictions import KINDS, palette_of
from mmkd.apis.prepare import is_distiller
from mmkd.apis.results import Row, Run
from mmkd.distiller.export import config_in
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import name_members
from mmkd.registry import DATASETS
from mmkd.tasks.base import task_of
from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.checks import nearest, printable
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import is_made
from mmkd.utils.work_dir import newest_of_run

LONGEST = 480  # pixels of a side: a page is sent by mail


@dataclass(frozen=True)
class Shown:
    """One picture of an example: how it is called, and a data URI."""

    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Example:
    """One image.

    Args:
        name: Of its file.
        disagreement: Between teacher and student.
        pictures: Image, truth, teacher, student, difference; of classes the image alone.
        said: What they show, in sentences.
    """

    name: str
    disagreement: float
    pictures: list[Shown]
    said: list[str]


@dataclass(frozen=True)
class Differences:
    """The examples, largest disagreement first.

    Args:
        label: Of the row whose student it is.
        measure: What the disagreement is.
        images: How many were looked at.
        examples: The first of them.
        legend: Name and colour of each class, of label maps.
    """

    label: str
    measure: str
    images: int
    examples: list[Example]
    legend: list[tuple[str, str]]


def find_differences(
    rows: Sequence[Row], number: int, label: str | None = None, config: str | None = None
) -> Differences:
    """Run the teacher and the student of a row on its validation set, and sort the images.

    Args:
        rows: Of the report.
        number: How many images are wanted.
        label: Of the row; None takes the last one that was distilled. Of its runs the first counts.
        config: The run's config, where the one in its folder names files that are elsewhere.

    Raises:
        KeyError: No such row.
        ValueError: No row was distilled, or it has no checkpoint or validation set; a task without
            pictures.
    """
    row, cfg = _choose(rows, label, config)
    folder = row.runs[0].folder
    if cfg.get('val_dataloader') is None:
        raise ValueError(
            f'--images shows the validation set, and the config of {row.label!r} has no '
            'val_dataloader. Mend: no --images, or --images-config CONFIG with one'
        )
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        teacher, student = _members(cfg, folder)
        task = task_of(student)
        if task.kind not in KINDS or not task.sized:  # sentences are no pictures
            raise ValueError(
                f'--images draws {", ".join(KINDS)}, and the student of {row.label!r} is of '
                f'another kind ({type(student).__name__}). Mend: no --images'
            )
        _check_teacher(row.label, cfg, teacher, task)
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        meta = dict(getattr(dataset, 'metainfo', None) or {})
        kind: Any = KINDS[task.kind](task, meta)
        found = []
        for index in track(range(len(dataset)), description='images', transient=True):
            found.append(kind.disagreement(*_predict(dataset[index], teacher, student)))
        order = sorted(range(len(found)), key=lambda index: _place(found[index]))[:number]
        examples = [
            _example(dataset[index], found[index], kind, teacher, student) for index in order
        ]
    return Differences(row.label, kind.measure, len(found), examples, _legend(task, meta))


def _place(disagreement: float) -> float:
    """Return by what an image is sorted: the largest number first, what is none last."""
    return math.inf if math.isnan(disagreement) else -disagreement


def _choose(rows: Sequence[Row], label: str | None, config: str | None) -> tuple[Row, Config]:
    """Return the row whose images are shown, and the config of its first run."""
    labels = [row.label for row in rows]
    if label is not None and label not in labels:
        raise KeyError(
            f'--images-of {label!r} is no row{nearest(label, labels)} (rows: {", ".join(labels)})'
        )
    for row in reversed(rows):
        if label not in (None, row.label):
            continue
        own = _config_of(row.runs[0])
        if label is None and (own is None or not is_distiller(own)):
            continue  # whatever --images-config is, this is not its run
        cfg = read_config(config) if config else own
        if cfg is not None and is_distiller(cfg):
            return row, cfg
    raise ValueError(
        f'--images shows a teacher beside its student, but {config or label or "no row"} is the '
        "config of a Distiller's run. Mend: --images-of LABEL of a distilled student, and "
        '--images-config CONFIG where the config is not in its work dir'
    )


def _config_of(run: Run) -> Config | None:
    """Return the config that a run left in its folder: the one that its record names, if any."""
    named = run.folder / Path(str(run.record.get('config'))).name
    files = [named] if named.is_file() else sorted(run.folder.glob('*.py'))
    return read_config(str(files[0])) if files else None


def _members(cfg: Config, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Return the teacher and the trained student of a run, in eval mode."""
    checkpoint = newest_of_run(folder)
    if not checkpoint:
        raise ValueError(
            f'{folder} has no checkpoint, so its student cannot be run. Mend: no --images, or a '
            'work dir with iter_N.pth or epoch_N.pth'
        )
    model = cfg.model
    students = name_members('student', model.get('student'), model.get('students'))
    teachers = name_members('teacher', model.get('teacher'), model.get('teachers'))
    teachers = {key: value for key, value in teachers.items() if not is_made(value)}
    if not teachers:
        raise ValueError(f'the run in {folder} has no teacher to compare with. Mend: no --images')
    name = model.get('predict_with') or next(iter(students))
    meta = load_checkpoint_file(str(checkpoint)).get('meta') or {}
    plain = config_in(meta, name, students[name], cfg)
    student = Member.parse(name, 'student', dict(cfg=plain, checkpoint=str(checkpoint)))
    first = next(iter(teachers))
    teacher = Member.parse(first, 'teacher', teachers[first])
    return teacher.build().eval(), student.build().eval()


def _check_teacher(label: str, cfg: Config, teacher: nn.Module, task: Any) -> None:
    """Refuse a teacher that predicts nothing, or classes of other numbers than the student's."""
    own = task_of(teacher)
    other = f'Mend: no --images, or --images-of LABEL of another row than {label!r}'
    if own.kind != task.kind:
        raise ValueError(
            f'--images shows what a teacher predicts beside its student, and that of {label!r} is '
            f'a {type(teacher).__name__}, which predicts nothing of the kind. {other}'
        )
    objectives = (cfg.model.get('objectives') or {}).items()
    mapped = [name for name, one in objectives if (one or {}).get('class_map') is not None]
    if mapped or own.num_classes != task.num_classes:
        why = (
            f'objective {mapped[0]!r} has a class_map'
            if mapped
            else (f'{own.num_classes} of them beside {task.num_classes}')
        )
        raise ValueError(
            f'--images compares classes by their numbers, and the teacher of {label!r} has other '
            f'classes ({why}). {other}'
        )


@torch.no_grad()
def _predict(data: dict, *models: nn.Module) -> list[Any]:
    """Return what each model makes of one sample; they write into samples of their own."""
    batches = [
        dict(inputs=[data['inputs']], data_samples=[copy.deepcopy(data['data_samples'])])
        for _ in models
    ]
    pairs = zip(models, batches, strict=True)
    return [model.test_step(batch)[0] for model, batch in pairs]  # type: ignore[operator]


def _example(
    data: dict, disagreement: float, kind: Any, teacher: nn.Module, student: nn.Module
) -> Example:
    samples = _predict(data, teacher, student)
    image = np.ascontiguousarray(data['inputs'].numpy().transpose(1, 2, 0)[..., ::-1])
    image = image.clip(0, 255).astype(np.uint8)
    pictures = [('image', image), *kind.draw(image, *samples)]
    path = data['data_samples'].metainfo.get('img_path') or 'image'
    return Example(
        printable(Path(path).name, 80),
        disagreement,
        [_encode(name, picture, kind.smooth) for name, picture in pictures],
        kind.tell(*samples),
    )


def _encode(name: str, picture: np.ndarray, smooth: bool) -> Shown:
    """Return a picture as a PNG in a data URI, no side longer than LONGEST."""
    height, width = picture.shape[:2]
    share = min(1.0, LONGEST / max(height, width))
    if share < 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        mode = cv2.INTER_AREA if smooth or name == 'image' else cv2.INTER_NEAREST
        picture = cv2.resize(picture, size, interpolation=mode)
    content = cv2.imencode('.png', np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
    uri = f'data:image/png;base64,{b64encode(content).decode()}'
    return Shown(name, uri, picture.shape[1], picture.shape[0])


def _legend(task: Any, meta: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and colour of each class of label maps."""
    names = [printable(name, 40) for name in meta.get('classes') or ()]
    if task.kind != 'segmentation' or not names:
        return []
    colours = palette_of(meta, len(names)).tolist()
    return [
        (name, '#{:02x}{:02x}{:02x}'.format(*own))
        for name, own in zip(names, colours, strict=False)
    ]
