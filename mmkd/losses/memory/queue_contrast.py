"""A queue of a teacher's vectors, one an image, to which both sides are compared."""

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_labels, check_mask, check_weight
from mmkd.losses.features.point_wise import check_features, pool
from mmkd.losses.functional import (
    call_in_dtype,
    counted,
    fill_masked,
    no_autocast,
    unit_vectors,
    widen,
)
from mmkd.losses.memory.contrast import check_contrast, memory_contrast
from mmkd.losses.memory.memory_contrast import check_rings, no_memory
from mmkd.losses.memory.ring import Ring, of_all_ranks
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count


@MODELS.register_module()
class QueueContrastLoss(Loss):
    r"""Images against a queue of the teacher's vectors of other images (CRD, and queues of SSL).

    Paper: with ``compare='nce'`` and ``embed``, Tian et al., Contrastive Representation
    Distillation (CRD), ICLR 2020, arXiv 1910.10699; the formulas are those of
    :func:`mmkd.losses.memory.contrast.memory_contrast`. Maps are averaged over their valid places
    first.

    ``embed``: a linear layer of the loss for each side, s = g(S) and t = h(T), both trained. The
    value is then the sum of two terms: s against t and the queue of teachers' embeddings, which
    trains g and the student, and t against s and a queue of students', which trains h. Nothing of
    it collapses: what all images share makes no image certain among others.

    The authors' code has a memory of one vector for every image of the training set, found by its
    index, from which it draws K; both the vector that an image is told apart from others by and the
    others come out of it, as they were an epoch ago and mixed half and half with older ones. Here
    keys are the last ``size`` images that were seen, and an image's own vector is that of this
    step, so that no data set has to know indices.

    With ``labels``, classes of images, the keys of an image's own class are left out, as the
    authors draw others of other classes alone; so its own vector of an epoch ago is out too.
    Without them all keys are others: where the queue is not smaller than the training set, an image
    is told apart from itself as well, which no student can.

    'kl' remembers the batch before it compares, since a batch may be compared with itself, and
    takes no labels; the two others afterwards. In eval mode nothing is remembered.
    Many devices remember the joined batch, one rank after the other; they must have as many images
    each. Queues are buffers, in every checkpoint. ``diagnostics``: ``filled``, which share of the
    queue holds a vector.

    Args:
        size: Places of the queue, all of which are keys.
        tau: Temperature.
        compare: 'kl', 'info-nce' or 'nce'.
        embed: Width of the linear layers; None: there are none, and channels must agree.
        student_channels: Of the student; None: as the Distiller finds it.
        teacher_channels: Of the teacher; None: as the Distiller finds it.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range, shapes that do not fit, labels beside 'kl'.
        RuntimeError: the channels are not known.
        TypeError: a mask that is not bool, a weight that is no float, labels that are no integers.

    Examples:
        >>> import torch
        >>> loss = QueueContrastLoss(size=4, tau=1., compare='info-nce', teacher_channels=2)
        >>> student, teacher = torch.tensor([[0., 1.]]), torch.tensor([[1., 0.]])
        >>> loss(student, teacher)  # there is nothing yet to take it for
        tensor(0.)
        >>> loss(student, student)  # ln(e + 1) − 1, the other is the vector of before
        tensor(0.3133)
    """

    roles = dict(student=Map(), teacher=Map(), labels=OfBatch())
    fixed = ('size', 'embed')
    queue: Ring | None
    student_queue: Ring | None
    student_layer: nn.Linear | None
    teacher_layer: nn.Linear | None

    def __init__(
        self,
        size: int = 16384,
        tau: float = 0.07,
        compare: str = 'nce',
        embed: int | None = None,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_count('size', size, 1)
        check_contrast(tau, compare)
        if embed is not None:
            check_count('embed', embed, 1)
            if compare == 'kl':
                raise ValueError(
                    f"embed={embed} trains a layer of the teacher's, which compare='kl' would make "
                    "a constant. Mend: compare='nce' or 'info-nce', or embed=None"
                )
        self.size, self.tau, self.compare, self.embed = size, tau, compare, embed
        self.queue = self.student_queue = self.student_layer = self.teacher_layer = None
        for name, value in (
            ('student_channels', student_channels),
            ('teacher_channels', teacher_channels),
        ):
            if value is not None:
                check_count(name, value, 1)
        if teacher_channels is not None and (embed is None or student_channels is not None):
            self._make(student_channels or teacher_channels, teacher_channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> str:
        """Make queue and layers, if channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.queue is not None:
            return ''
        self._make(student.shape[1], teacher.shape[1], teacher.device)
        layers = f', layers {student.shape[1]} and {teacher.shape[1]} -> {self.embed}'
        return f'queue of {self.size} vectors{layers if self.embed else ""}'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss.

        Args:
            student: Maps (N, C, \*S), or vectors.
            teacher: The same; receives no gradient.
            mask: Bool (N, \*S), True where a position counts.
            weight: Float (N, \*S), 0 or above: how much it counts.
            labels: Integers (N,), of the images; below 0: none. None: of no image.
        """
        check_mask(mask, student)
        check_weight(weight, student)
        with no_autocast(student):
            counts = counted(mask, weight)
            student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
            if student.dim() > 2:
                student, teacher, mask = pool(student, teacher, mask, weight)
                weight = None
            self._check_labels(labels, student)
            value = self._compare(student, teacher, mask, weight, labels)
        assert self.queue is not None
        self.diagnostics = dict(filled=self.queue.known.float().mean())
        return self.loss_weight * value

    def _check_labels(self, labels: Tensor | None, student: Tensor) -> None:
        if labels is None:
            return
        if self.compare == 'kl':
            raise ValueError(
                "compare='kl' is the likeness to all keys, and takes no labels. Mend: leave labels "
                "out of reads, or compare='nce'"
            )
        check_labels(labels, student, 'contrast with a queue')

    def _compare(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        labels: Tensor | None,
    ) -> Tensor:
        """Return one term, or of embeddings both."""
        if self.queue is None:
            raise no_memory()
        if self.student_layer is None or self.teacher_layer is None:
            return self._term(self.queue, student, teacher, mask, weight, labels)
        _check_channels(self.student_layer, 'student', student)
        _check_channels(self.teacher_layer, 'teacher', teacher)
        ours = call_in_dtype(self.student_layer, student)
        theirs = call_in_dtype(self.teacher_layer, teacher)
        return self._term(self.queue, ours, theirs, mask, weight, labels) + self._term(
            self.student_queue, theirs, ours, mask, weight, labels
        )

    def _term(
        self,
        queue: Ring | None,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        labels: Tensor | None,
    ) -> Tensor:
        """Return how the first is told apart among the queue of the second."""
        assert queue is not None
        check_features(student, teacher, 'contrast with a queue')
        check_rings(dict(queue=queue), teacher)
        own = counted(mask, weight)
        if self.compare == 'kl':
            self._remember(queue, teacher.detach(), own, labels)
        keys, known = queue.draw(self.size)  # all of them, in their order
        value = memory_contrast(
            student,
            teacher,
            keys,
            known,
            self.tau,
            self.compare,
            mask,
            weight,
            labels=labels,
            key_labels=None if labels is None else queue.tags[:-1],
        )
        if self.compare != 'kl':
            self._remember(queue, teacher.detach(), own, labels)
        return value

    @torch.no_grad()
    def _remember(
        self, ring: Ring, vectors: Tensor, counts: Tensor | None, labels: Tensor | None
    ) -> None:
        if not self.training:
            return
        known = counts if counts is not None else vectors.new_ones(len(vectors), dtype=torch.bool)
        tags = known.new_full((len(known),), -1, dtype=torch.long) if labels is None else labels
        # as one more channel, which holds whole numbers up to 2²⁴
        rows = torch.cat([unit_vectors(vectors), tags.to(vectors).unsqueeze(1)], 1)
        rows, known = of_all_ranks(rows, known)
        ring.push(rows[:, :-1], known.new_zeros(len(known), dtype=torch.long), known, rows[:, -1])

    def _make(self, student: int, teacher: int, device: torch.device | None = None) -> None:
        width = self.embed or teacher
        self.queue = Ring(1, self.size, width, tagged=True).to(device)
        if self.embed:
            self.student_queue = Ring(1, self.size, width, tagged=True).to(device)
            self.student_layer = nn.Linear(student, width).to(device)
            self.teacher_layer = nn.Linear(teacher, width).to(device)


def _check_channels(layer: nn.Linear, role: str, x: Tensor) -> None:
    if x.shape[1] != layer.in_features:
        raise ValueError(
            f'the layer of the {role} was made for {layer.in_features} channels, got '
            f'{tuple(x.shape)}. Mend: {role}_channels={x.shape[1]} (or None), or the tap that it '
            'was made for'
        )
