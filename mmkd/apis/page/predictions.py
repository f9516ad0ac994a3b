"""Where two predictions of one image differ, by how much, and how that is drawn; a kind a class.

``smooth`` says whether its pictures may be averaged where they are made smaller: classes may not.
A picture is an array (H, W, 3) in RGB. Colours that mean something differ in lightness too, and
what they say is said in words beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmkd.tasks.base import Task

Picture = np.ndarray
TEACHER_RIGHT, STUDENT_RIGHT, NEITHER = (255, 190, 80), (60, 130, 220), (130, 40, 110)
SCORE, OVERLAP = 0.3, 0.5  # boxes below this score are not shown; boxes match from this overlap on


def palette_of(meta: dict[str, Any], classes: int) -> np.ndarray:
    """Return a colour for each class: the data set's, else hues that are spread evenly.

    >>> palette_of(dict(palette=[[1, 2, 3]]), 1).tolist()
    [[1, 2, 3]]
    """
    own = meta.get('palette')
    if isinstance(own, Sequence) and len(own) >= classes:
        return np.array(own, np.uint8)[:, :3]
    import cv2

    hues = np.linspace(0, 179, classes, endpoint=False).round()
    lightness = np.where(np.arange(classes) % 2, 255, 170)
    hsv = np.stack([hues, np.full(classes, 190), lightness], 1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


@dataclass(frozen=True)
class Predictions:
    """What every kind is told.

    Args:
        task: Of the student, which knows where a sample holds its labels.
        meta: Of the data set.
    """

    task: Task
    meta: dict[str, Any]


class Labels(Predictions):
    """Label maps: the share of pixels that get another class."""

    measure: ClassVar[str] = 'share of the pixels that get another class'
    smooth: ClassVar[bool] = False

    def disagreement(self, teacher: Any, student: Any) -> float:
        """Return a number from 0 to 1."""
        one, other, truth = self._maps(teacher, student)
        counts = self._counts(truth, one)
        return float((one != other)[counts].mean()) if counts.any() else 0.0

    def draw(self, image: Picture, teacher: Any, student: Any) -> list[tuple[str, Picture]]:
        """Return truth, both predictions, and where they differ, by who is right."""
        one, other, truth = self._maps(teacher, student)
        palette = palette_of(self.meta, self.task.num_classes or int(one.max()) + 1)
        shown = [] if truth is None else [('truth', _coloured(truth, palette))]
        shown += [('teacher', _coloured(one, palette)), ('student', _coloured(other, palette))]
        return [*shown, ('difference', self._difference(image, one, other, truth))]

    def _difference(
        self, image: Picture, one: np.ndarray, other: np.ndarray, truth: np.ndarray | None
    ) -> Picture:
        picture = _dimmed(image, one.shape)
        differ = (one != other) & self._counts(truth, one)
        truth = np.full_like(one, -1) if truth is None else truth
        picture[differ] = NEITHER
        picture[differ & (one == truth)] = TEACHER_RIGHT
        picture[differ & (other == truth)] = STUDENT_RIGHT
        return picture

    def tell(self, teacher: Any, student: Any) -> list[str]:
        """Return sentences that say what the pictures show."""
        one, other, truth = self._maps(teacher, student)
        counts = self._counts(truth, one)
        if not counts.any():
            return ['No pixel has a label, so none is compared.']
        differ = (one != other)[counts]
        said = f'They differ on {100 * differ.mean():.1f} % of the pixels'
        if truth is None:
            return [f'{said}.']
        right = [100 * (differ & (own == truth)[counts]).mean() for own in (one, other)]
        neither = 100 * differ.mean() - sum(right)
        return [
            f'{said}: the teacher is right on {right[0]:.1f} %, the student on {right[1]:.1f} %, '
            f'neither on {neither:.1f} %.'
        ]

    def _maps(self, teacher: Any, student: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        one, other = (sample.pred_sem_seg.data[0].cpu().numpy() for sample in (teacher, student))
        truth = _truth_map(student, self.task.field)
        return one.astype(np.int64), other.astype(np.int64), truth

    def _counts(self, truth: np.ndarray | None, like: np.ndarray) -> np.ndarray:
        if truth is None:
            return np.ones(like.shape, bool)
        return truth != self.task.ignore_index


class Depths(Predictions):
    """Depth maps: the mean of the relative difference."""

    measure: ClassVar[str] = "mean difference as a share of the teacher's depth"
    smooth: ClassVar[bool] = False

    def disagreement(self, teacher: Any, student: Any) -> float:
        """Return a number from 0 on."""
        one, other = self._maps(teacher, student)
        return float((np.abs(one - other) / np.maximum(one, 1e-6)).mean())

    def draw(self, image: Picture, teacher: Any, student: Any) -> list[tuple[str, Picture]]:
        """Return all maps on one scale, light is far, and the difference, light is large."""
        one, other = self._maps(teacher, student)
        truth = _truth_map(student, self.task.field)
        known = [one, other] if truth is None or not (truth > 0).any() else [truth[truth > 0]]
        low, high = min(part.min() for part in known), max(part.max() for part in known)
        shown = [] if truth is None else [('truth', _heat(truth, low, high))]
        shown += [('teacher', _heat(one, low, high)), ('student', _heat(other, low, high))]
        share = np.abs(one - other) / np.maximum(one, 1e-6)
        return [*shown, ('difference', _heat(share, 0.0, 0.5, 'magma'))]

    def tell(self, teacher: Any, student: Any) -> list[str]:
        """Return sentences that say what the pictures show."""
        one, other = self._maps(teacher, student)
        said = f'They differ by {100 * self.disagreement(teacher, student):.1f} % on average.'
        means = f'Mean depth: teacher {one.mean():.2f}, student {other.mean():.2f}'
        return [said, f'{means}. Light is far; in the difference white is 50 % and more.']

    def _maps(self, teacher: Any, student: Any) -> tuple[np.ndarray, np.ndarray]:
        one, other = (sample.pred_depth_map.data for sample in (teacher, student))
        return one.squeeze().cpu().numpy(), other.squeeze().cpu().numpy()


class Classes(Predictions):
    """Classes of images: how far the two distributions are apart (total variation)."""

    measure: ClassVar[str] = 'total variation between the predicted distributions'
    smooth: ClassVar[bool] = True

    def disagreement(self, teacher: Any, student: Any) -> float:
        """Return a number from 0 to 1."""
        return float((teacher.pred_score - student.pred_score).abs().sum() / 2)

    def draw(self, image: Picture, teacher: Any, student: Any) -> list[tuple[str, Picture]]:
        """Return nothing beside the image: classes are words."""
        return []

    def tell(self, teacher: Any, student: Any) -> list[str]:
        """Return the truth, and each one's three best classes."""
        truth = student.get(self.task.field) if self.task.field in student else None
        known = [] if truth is None else [f'Truth: {self._name(int(torch.as_tensor(truth)))}.']
        return [*known, f'Teacher: {self._best(teacher)}.', f'Student: {self._best(student)}.']

    def _best(self, sample: Any) -> str:
        score, label = sample.pred_score.topk(min(3, len(sample.pred_score)))
        pairs = zip(score.tolist(), label.tolist(), strict=True)
        return ', '.join(f'{self._name(own)} {100 * share:.0f} %' for share, own in pairs)

    def _name(self, label: int) -> str:
        names = self.meta.get('classes') or ()
        return str(names[label]) if 0 <= label < len(names) else f'class {label}'


class Boxes(Predictions):
    """Boxes: the share that the other one does not have."""

    measure: ClassVar[str] = 'share of the boxes that only one of them has'
    smooth: ClassVar[bool] = True

    def disagreement(self, teacher: Any, student: Any) -> float:
        """Return a number from 0 to 1."""
        one, other = map(_shown, (teacher.pred_instances, student.pred_instances))
        alone, total = len(self._alone(one, other)) + len(self._alone(other, one)), len(one[1])
        return alone / max(1, total + len(other[1]))

    def draw(self, image: Picture, teacher: Any, student: Any) -> list[tuple[str, Picture]]:
        """Return the boxes of the truth, of both, and those that only one has.

        Detectors give boxes in the original image, which the network may have seen smaller.
        """
        image = _resized(image, student.metainfo.get('ori_shape') or image.shape)
        one, other = map(_shown, (teacher.pred_instances, student.pred_instances))
        truth = student.get(self.task.field) if self.task.field in student else None
        shown = [('teacher', one), ('student', other)]
        if truth is not None:
            shown.insert(0, ('truth', (_plain(truth.bboxes), truth.labels)))
        pictures = [(name, self._boxed(image, own, (255, 255, 255))) for name, own in shown]
        only = [self._alone(one, other), self._alone(other, one)]
        picture = self._boxed(_dimmed(image, image.shape[:2]), _at(one, only[0]), TEACHER_RIGHT, 3)
        return [
            *pictures,
            ('difference', self._boxed(picture, _at(other, only[1]), STUDENT_RIGHT, 1)),
        ]

    def tell(self, teacher: Any, student: Any) -> list[str]:
        """Return sentences that say what the pictures show."""
        one, other = map(_shown, (teacher.pred_instances, student.pred_instances))
        only = len(self._alone(one, other)), len(self._alone(other, one))
        return [
            f'Boxes with a score from {SCORE} on: {len(one[1])} of the teacher, {len(other[1])} of '
            f'the student; {only[0]} only of the teacher (thick), {only[1]} only of the student '
            '(thin).'
        ]

    def _alone(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> list[int]:
        """Return which boxes have none of their class beside them that overlaps."""
        same = one[1][:, None] == other[1][None]
        found = (same & (_overlaps(one[0], other[0]) >= OVERLAP)).any(1)
        return (~found).nonzero().flatten().tolist()

    def _boxed(
        self, image: Picture, boxes: tuple[Tensor, Tensor], colour: tuple, width: int = 2
    ) -> Picture:
        import cv2

        picture = np.ascontiguousarray(image.copy())
        names = self.meta.get('classes') or ()
        for box, label in zip(boxes[0].tolist(), boxes[1].tolist(), strict=True):
            x, y, right, low = map(round, box)
            cv2.rectangle(picture, (x, y), (right, low), (0, 0, 0), width + 2)
            cv2.rectangle(picture, (x, y), (right, low), colour, width)
            name = str(names[label]) if label < len(names) else str(label)
            place = (x + 2, max(10, y + 12))
            cv2.putText(picture, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3)
            cv2.putText(picture, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)
        return picture


KINDS = dict(segmentation=Labels, depth=Depths, classification=Classes, detection=Boxes)


def _truth_map(sample: Any, field: str | None) -> np.ndarray | None:
    if field is None or field not in sample:
        return None
    return sample.get(field).data.squeeze().cpu().numpy()


def _coloured(labels: np.ndarray, palette: np.ndarray) -> Picture:
    """Return a label map in colours; what has no class is black."""
    known = (labels >= 0) & (labels < len(palette))
    return np.where(known[..., None], palette[np.where(known, labels, 0)], 0).astype(np.uint8)


def _dimmed(image: Picture, shape: tuple[int, ...]) -> Picture:
    """Return the image in dark grey, as large as a map."""
    grey = image.mean(2, keepdims=True).repeat(3, 2) * 0.45
    return _resized(grey.astype(np.uint8), shape)


def _resized(image: Picture, shape: tuple[int, ...]) -> Picture:
    import cv2

    return cv2.resize(image, (shape[1], shape[0]))


def _heat(values: np.ndarray, low: float, high: float, name: str = 'viridis') -> Picture:
    from matplotlib import colormaps

    share = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return (255 * colormaps[name](share)[..., :3]).astype(np.uint8)


def _plain(boxes: Any) -> Tensor:
    return getattr(boxes, 'tensor', boxes)


def _shown(instances: Any) -> tuple[Tensor, Tensor]:
    kept = instances.scores >= SCORE
    return _plain(instances.bboxes)[kept], instances.labels[kept]


def _at(boxes: tuple[Tensor, Tensor], kept: list[int]) -> tuple[Tensor, Tensor]:
    return boxes[0][kept], boxes[1][kept]


def _overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Return intersection over union of every pair of boxes (x1, y1, x2, y2).

    >>> _overlaps(torch.tensor([[0., 0., 2., 2.]]), torch.tensor([[1., 0., 3., 2.]])).tolist()
    [[0.3333333432674408]]
    """
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return inside / (areas[0][:, None] + areas[1][None] - inside).clamp(min=1e-9)
