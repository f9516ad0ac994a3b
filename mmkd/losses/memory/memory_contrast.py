"""Class by class memories of a teacher's pixels and regions, to which both sides are compared."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_labels, check_mask, check_weight
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import fill_masked, labelled, no_autocast, unit_vectors, widen
from mmkd.losses.memory.contrast import check_contrast, memory_contrast
from mmkd.losses.memory.ring import Ring, mean_of_each, of_all_ranks, some_of_each
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, not_built


@MODELS.register_module()
class MemoryContrastLoss(Loss):
    r"""Likeness to remembered pixels and regions of every class (CIRKD's memory).

    Paper: Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation
    (CIRKD), CVPR 2022, arXiv 2204.06986, section 3.3; the formula is 'kl' of
    :func:`mmkd.losses.memory.contrast.memory_contrast`, once with keys of the memory of pixels and
    once of regions, summed.

    A step first remembers the teacher's batch, as the authors' code: of every image and class of
    its labels the mean of the unit vectors (its region) and up to ``push`` pixels at random, as
    unit vectors, over the oldest of their class. Then as many keys of each class are drawn. In eval
    mode nothing is remembered. Many devices remember the joined batch, one rank after the other, so
    that all hold the same memories; they must have as many images each.

    In the authors' code the indices of pixels are drawn among those of the class and looked up in
    the whole image, so that pixels of other classes are remembered under its name; vectors that do
    not fit before the end overwrite the last ones; random vectors are keys until they are
    overwritten; all classes share one draw; queues are lost on resume. Here a memory holds its own
    class alone, goes round, has no key that was not pushed, draws class by class, and is in the
    checkpoint: ``pixel.rows`` and ``region.rows``.

    ``diagnostics``: ``pixel`` and ``region``, the two terms, and ``filled``, which share of the
    places of both memories holds a vector.

    Args:
        num_classes: Labels from this on are no class.
        teacher_channels: C; None: as the Distiller finds it.
        pixels: Places of the memory of pixels, a class; 0: no such term.
        regions: Places of the memory of regions, a class; 0: no such term.
        pixel_keys: How many pixels are drawn; the authors' count: total // classes + 1 a class.
        region_keys: How many regions are drawn, likewise.
        push: How many pixels of a class are remembered of an image.
        tau: Temperature.
        ignore_index: The label of a position that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range, shapes that do not fit.
        RuntimeError: the channels are not known.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> loss = MemoryContrastLoss(2, teacher_channels=2, pixels=4, regions=0, tau=1.)
        >>> student, teacher = torch.tensor([[[1., 0.]], [[0., 1.]]]), torch.eye(2).unsqueeze(1)
        >>> student, teacher = student.movedim(1, 2), teacher.movedim(1, 2)
        >>> loss(student, teacher, torch.tensor([[0], [1]]))
        tensor(0.)
        >>> loss(student.flip(0), teacher, torch.tensor([[0], [1]]))  # (e − 1) / (e + 1)
        tensor(0.4621)
        >>> loss.pixel.pushed.tolist(), loss.pixel.rows[:2].tolist()
        ([2, 2], [[1.0, 0.0], [1.0, 0.0]])
    """

    roles = dict(student=Map(), teacher=Map(), labels=OfBatch())
    fixed = ('num_classes', 'pixels', 'regions')
    pixel: Ring | None
    region: Ring | None

    def __init__(
        self,
        num_classes: int,
        teacher_channels: int | None = None,
        pixels: int = 2000,
        regions: int = 2000,
        pixel_keys: int = 4096,
        region_keys: int = 1024,
        push: int = 16,
        tau: float = 0.1,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        for name, value, least in (
            ('num_classes', num_classes, 1),
            ('pixels', pixels, 0),
            ('regions', regions, 0),
            ('pixel_keys', pixel_keys, 1),
            ('region_keys', region_keys, 1),
            ('push', push, 1),
        ):
            check_count(name, value, least)
        if not pixels and not regions:
            raise ValueError(
                'pixels=0 and regions=0 leave no memory. Mend: pixels=2000, regions=2000'
            )
        check_contrast(tau, 'kl')
        self.num_classes, self.pixels, self.regions = num_classes, pixels, regions
        self.pixel_keys, self.region_keys, self.push = pixel_keys, region_keys, push
        self.tau, self.ignore_index = tau, ignore_index
        self.pixel = self.region = None
        if teacher_channels is not None:
            check_count('teacher_channels', teacher_channels, 1)
            self._make(teacher_channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the memories, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self._rings():
            return ''
        self._make(teacher.shape[1], teacher.device)
        made = [f'{ring.size} {name}s' for name, ring in self._rings().items()]
        size = sum(ring.rows.nbytes for ring in self._rings().values()) / 1e6
        return (
            f'memories of {" and ".join(made)} of each of {self.num_classes} classes, {size:.1f} MB'
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) with labels, mask, weight (N, \*S)."""
        check_features(student, teacher, 'contrast with a memory')
        check_labels(labels, student, 'contrast with a memory')
        check_mask(mask, student)
        check_weight(weight, student)
        rings = self._rings()
        check_rings(rings, teacher)
        valid = labelled(labels, self.num_classes, self.ignore_index, mask)
        if self.training:
            counts = valid if weight is None else valid & (weight > 0)
            self._remember(teacher.detach(), labels, counts)
        found: dict[str, Tensor] = {}
        for name, total in (('pixel', self.pixel_keys), ('region', self.region_keys)):
            if name in rings:
                keys, known = rings[name].draw(total // self.num_classes + 1)
                found[name] = memory_contrast(
                    student, teacher, keys, known, self.tau, 'kl', valid, weight
                )
        filled = torch.cat([ring.known for ring in rings.values()]).float().mean()
        self.diagnostics = {name: value.detach() for name, value in found.items()}
        self.diagnostics['filled'] = filled
        return self.loss_weight * torch.stack([*found.values()]).sum()

    @torch.no_grad()
    def _remember(self, teacher: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Push what the teacher sees of each class, image by image."""
        with no_autocast(teacher):
            images = len(teacher)
            (teacher,) = widen(fill_masked(teacher, valid))
            rows = unit_vectors(teacher.movedim(1, -1).flatten(0, -2))
            number = images * self.num_classes
            image = torch.arange(images, device=labels.device)
            own = image.view(-1, *[1] * (labels.dim() - 1)) * self.num_classes + labels.long()
            groups = own.where(valid, number).flatten()
            classes = torch.arange(self.num_classes, device=labels.device).repeat(images)
            if self.pixel is not None:
                some = some_of_each(rows, groups, number, self.push)
                _push(self.pixel, *some, classes.repeat_interleave(self.push))
            if self.region is not None:
                means, known = mean_of_each(rows, groups, number)
                _push(self.region, unit_vectors(means), known, classes)

    def _rings(self) -> dict[str, Ring]:
        rings = dict(pixel=self.pixel, region=self.region)
        return {name: ring for name, ring in rings.items() if ring is not None}

    def _make(self, channels: int, device: torch.device | None = None) -> None:
        if self.pixels:
            self.pixel = Ring(self.num_classes, self.pixels, channels).to(device)
        if self.regions:
            self.region = Ring(self.num_classes, self.regions, channels).to(device)


def _push(ring: Ring, vectors: Tensor, known: Tensor, groups: Tensor) -> None:
    vectors, known = of_all_ranks(vectors, known)
    ring.push(vectors, groups.repeat(len(known) // len(groups)), known)


def no_memory() -> RuntimeError:
    """Return the error of a memory that is asked before it is made."""
    return not_built('the memory is', 'teacher_channels=…', 'build(…) with the tensors of a step')


def check_rings(rings: dict[str, Ring], teacher: Tensor) -> None:
    """Refuse memories that are not made, or for other vectors.

    Raises:
        RuntimeError: There is none.
        ValueError: It is for other vectors.

    >>> check_rings(dict(pixel=Ring(2, 4, 3)), torch.zeros(1, 3))
    """
    if not rings:
        raise no_memory()
    for name, ring in rings.items():
        if ring.rows.shape[1] != teacher.shape[1]:
            raise ValueError(
                f'the memory {name!r} was made for a teacher of {ring.rows.shape[1]} channels, got '
                f'{tuple(teacher.shape)}. Mend: teacher_channels={teacher.shape[1]} (or None), or '
                'the tap that it was made for'
            )
