"""What a task is: all that mmkd asks of one, and how the task of a model or of a batch is found."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mmkd.registry import TASKS
from mmkd.structures.batch import IGNORED_IMAGE, Batch, is_labelled
from mmkd.structures.trace import Trace
from mmkd.tasks.described import Described

Own = TypeVar('Own', bound='Task')
Tapped = Mapping[str, tuple[nn.Module, str]]  # 'member.tap' -> model, path of the module
NO_LABELS = (
    "batch.labels: the data samples hold neither 'gt_sem_seg' nor 'gt_label'. Mend: load "
    'annotations in the training pipeline'
)


@dataclass(frozen=True)
class Task:
    """What a model learns, and all that mmkd asks of it; one class in one file is one task.

    A task of your own is a class below this one, under ``@TASKS.register_module()``. It says what
    it must, :meth:`of` and :meth:`sample`, its ``kind`` and its ``field``, and of the rest what
    differs. The Distiller, its probe, the doctor and the benchmark then serve it. The task that was
    registered last is asked first, so yours is asked before mmkd's own.

    Without arguments a task stands for samples alone, of which no model is known.

    Args:
        num_classes: Classes of the model; None where it has none, or does not say.
        ignore_index: The label of a pixel that does not count.

    Attributes:
        kind: Its name, in sentences and where tasks are compared.
        field: Where a data sample holds its labels.
        holding: How errors call what the samples hold, where that is no class of a pixel or image.
        gives_labels: Whether ``batch.labels`` has classes of pixels (N, H, W) or of images (N,).
        paths: Entries of a sample's metainfo that name its files, the first one known is told.
        size: Height and width on which any model of this task runs.
        sized: Whether inputs have a height and a width.
        class_logits: Number of axes of a model's class logits, and how errors call them; None
            where its output is not one logit for each class and place.
        reads: What objectives may read as ``batch.<name>`` of such batches besides labels.
    """

    num_classes: int | None = None
    ignore_index: int = 255

    kind: ClassVar[str] = ''
    field: ClassVar[str | None] = None
    holding: ClassVar[str] = 'something else'
    gives_labels: ClassVar[bool] = False
    paths: ClassVar[tuple[str, ...]] = ('img_path',)
    size: ClassVar[tuple[int, int]] = (64, 64)
    sized: ClassVar[bool] = True
    class_logits: ClassVar[tuple[int, str] | None] = None
    reads: ClassVar[Mapping[str, Callable[[Batch], Any]]] = {}

    # ------------------------------------------------------------------ its models

    @classmethod
    def of(cls: type[Own], model: Any, source: Any = None) -> Own | None:
        """Return the task of a model, None where the model is for something else.

        Args:
            model: Any model.
            source: The data preprocessor that makes its batches.
        """
        raise NotImplementedError(
            f'{cls.__name__} does not say how its models are known. Mend: a classmethod of(cls, '
            'model, source=None) that returns a task, or None of other models'
        )

    @classmethod
    def of_config(cls: type[Own], model: Any, source: Any = None) -> Own | None:
        """Return the task of a model that is described and not built, see :class:`Described`.

        Its attributes are those of the config, so that most tasks know it as they know a model.

        Args:
            model: What the config describes.
            source: What its data preprocessor's config describes, None without one.
        """
        return cls.of(model, source)

    @property
    def known(self) -> bool:
        """Whether enough is known of the model to make labels that it can learn from."""
        return True

    # ------------------------------------------------------------------ its outputs

    def predict(self, model: Any, inputs: Tensor, samples: list | None = None) -> Any:
        """Run a model once as it predicts, before any resize to the original size."""
        return model(inputs, samples, mode='tensor')

    def says(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield what a model said of classes in a traced prediction, finest level first.

        These are the tensors themselves, as some module returned them.
        """
        if isinstance(prediction.returned, Tensor):
            yield prediction.returned

    def measures(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield what a model measured in a traced prediction, in its unit: metres, say."""
        return iter(())

    def edges(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield the maps that say where edges of boxes lie, as distributions, finest level first.

        Each has 4 · (n + 1) channels, edge by edge, of the n + 1 bins of a distribution.
        """
        return iter(())

    def head_path(self, model: Any) -> str | None:
        """Return which module's forward answers with a class map, None where there is no such."""
        return None

    def channels(self, model: nn.Module) -> int | None:
        """Return how many channels the class logits of a model have."""
        return self.num_classes

    def size_for(self, source: Any) -> tuple[int, int]:
        """Return a size for generated batches: the data preprocessor's, else the task's own."""
        height, width = getattr(source, 'size', None) or self.size
        return height, width

    def refuse_other(self, preprocessor: Any, where: str) -> None:
        """Refuse a member to which the inputs of this task's batches mean something else."""

    @classmethod
    def check_places(cls, objective: str, tapped: Tapped, by_channel: bool) -> None:
        """Refuse tensors that look alike and differ in meaning, see :func:`check_same_places`."""

    @classmethod
    def tell_poor(cls, metrics: Mapping[str, float], classes: int) -> str | None:
        """Return what is to be said of a model whose metrics are no better than chance, else None.

        Args:
            metrics: Name -> value, as an evaluator reports them; nothing where it reports nothing.
            classes: Of the data set.
        """
        return None

    # ------------------------------------------------------------------ labels

    @classmethod
    def holds(cls, samples: list | None) -> bool:
        """Return whether data samples, as the first one tells, hold labels of this task."""
        return bool(samples) and cls.field is not None and cls.field in samples[0]  # type: ignore[index]

    def labels(self, batch: Batch) -> Tensor:
        """Return the labels (N, H, W) of pixels or (N,) of images.

        A task without such labels gives those of another one that its samples hold as well: the
        label maps of a panoptic set, say.

        Raises:
            ValueError: There are none.
        """
        return self._beside(batch.data_samples).labels(batch)

    def ignored(self, batch: Batch) -> int:
        """Return the label that does not count: of a pixel the batch's, of a whole image −100."""
        return batch.ignore_index if batch.labels.dim() > 1 else IGNORED_IMAGE

    def valid(self, batch: Batch) -> Tensor:
        """Return True where the labels count."""
        return batch.labels != self.ignored(batch)

    def boxes(self, batch: Batch) -> list[Tensor]:
        """Return the boxes of each image (M, 4), in pixels of the input.

        Raises:
            ValueError: There are none.
        """
        raise ValueError(
            f'batch.boxes: these samples hold {self.holding}, no boxes. Mend: a part of where= '
            'that needs none (BoundaryBand goes with label maps)'
        )

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        """Refuse labels that the student cannot learn from, before a device assert hides which.

        Args:
            batch: Labels and the files that they came from.
            num_classes: Of the student; None where it does not say.

        Returns:
            Whether any position is valid.

        Raises:
            ValueError: There are such labels; names their files.
        """
        return True

    def tell_void(self, batch: Batch) -> str:
        """Return what is to be said of a batch without a valid position."""
        return (
            f'no valid position: nothing of this batch counts{batch.files(*self.paths)}. Mend: a '
            'data set with labels'
        )

    def relabel(self, sample: Any, labels: Tensor) -> Any:
        """Return a data sample with other labels; its other data are shared with the one given."""
        return self._beside([sample]).relabel(sample, labels)

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Return the samples of a batch, those of images without labels with labels to pass over.

        The samples that are given stay as they are.

        Args:
            batch: Images, and their samples.
            places: Of the images without labels.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say how an image without labels looks. Mend: a method '
            'void(self, batch, places) that returns the data samples of the batch, those at '
            'places with labels that do not count'
        )

    def resized(self, samples: list | None, old: Sequence[int], new: Sequence[int]) -> list | None:
        """Return samples as they go with the images resized, for what a model reads of them.

        Args:
            samples: Of a batch; they stay as they are.
            old: Height and width of the batch.
            new: Height and width to which its images are resized.
        """
        return samples

    def pad_labels(self, sample: Any, size: tuple[int, ...]) -> Any:
        """Return a sample whose labels cover an image padded to ``size``, and are ignored there."""
        return sample

    def _beside(self, samples: list | None) -> 'Task':
        for task in tasks_of_samples(samples):
            if task.gives_labels and type(task) is not type(self):
                return task
        raise ValueError(
            f'batch.labels: these samples hold {self.holding}, no class of a pixel or an image. '
            'Mend: an objective that reads no labels (batch.valid of a depth map is where it is '
            'known)'
        )

    # ------------------------------------------------------------------ what the doctor counts

    def count(self, batch: Batch) -> Counter:
        """Return what a batch holds, as numbers that can be added up over batches."""
        return Counter()

    def tell(self, counts: Counter) -> tuple[list[tuple[str, str]], list[str]]:
        """Return what was counted, as rows of a table, and what is to be warned of."""
        return [], []

    # ------------------------------------------------------------------ generated batches

    def inputs(
        self, number: int, size: tuple[int, int], generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield random inputs as a data loader gives them: images, uint8 (3, H, W)."""
        for _ in range(number):
            yield torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)

    def preprocessed(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return one random input as a data preprocessor leaves it: images, (1, 3, H, W)."""
        return torch.randn(1, 3, *size, generator=generator)

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        """Return a data sample of random labels that a model of this task can learn from.

        Args:
            size: Height and width of the image.
            generator: Of the labels.
            masked: Whether some labels are to be such as do not count, where there are such.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say how its labels look. Mend: a method sample(self, '
            'size, generator, masked=True) that returns a data sample'
        )


def last_head(model: Any) -> Any:
    """Return a segmentor's head, the last one of a cascade, or None."""
    head = getattr(model, 'decode_head', None)
    return head[-1] if isinstance(head, nn.ModuleList | list) else head


def head_paths(model: Any) -> list[str]:
    """Return the paths of a segmentor's heads, those of a cascade in their order."""
    head = getattr(model, 'decode_head', None)
    if head is None:
        return []
    cascade = isinstance(head, nn.ModuleList)
    return [f'decode_head.{i}' for i in range(len(head))] if cascade else ['decode_head']


def encode_decode(model: Any, inputs: Tensor) -> Any:
    """Return a segmentor's class map as it predicts it, at the size of its inputs."""
    size = tuple(inputs.shape[2:])
    known = dict(
        ori_shape=size,
        img_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        padding_size=[0, 0, 0, 0],
    )
    return model.encode_decode(inputs, [dict(known) for _ in inputs])  # heads write into them


def first_number(*owners: Any) -> int | None:
    """Return the first ``num_classes`` that is a number.

    >>> first_number(nn.Identity(), ImportError, type('Head', (), dict(num_classes=3)))
    3
    """
    for owner in owners:
        number = getattr(owner, 'num_classes', None)
        if isinstance(number, int):
            return number
    return None


# ---------------------------------------------------------------------- which task it is


def registered() -> list[type[Task]]:
    """Return the tasks in the order in which they are asked: the last one registered comes first.

    >>> [task.__name__ for task in registered()][-2:]
    ['Classification', 'Unknown']
    """
    return list(reversed(TASKS.module_dict.values()))


def task_of(model: Any, source: Any = None) -> Task:
    """Return what a model learns, as the first task says that knows it.

    Args:
        model: A model of mmseg, mmdet or mmpretrain, one that looks like these, or one that a
            registered task of your own knows.
        source: The data preprocessor that makes its batches; None takes the model's own.

    >>> task_of(nn.Linear(1, 1)), task_of(type('Net', (), dict(num_classes=3)))
    (Unknown(num_classes=None, ignore_index=255), Classification(num_classes=3, ignore_index=255))
    """
    if isinstance(model, Described):
        return task_of_config(model._config, model._scope)
    source = getattr(model, 'data_preprocessor', None) if source is None else source
    for task in registered():
        found = task.of(model, source)
        if found is not None:
            return found
    raise LookupError(f'no task knows a {type(model).__name__}')


def task_of_config(config: Mapping[str, Any], scope: str = 'mmseg') -> Task:
    """Return what a model learns that is not built, as the first task says that knows its config.

    Args:
        config: ``dict(type='EncoderDecoder', decode_head=…)``.
        scope: The registry scope that its types belong to.

    >>> head = dict(type='FCNHead', num_classes=19)
    >>> task_of_config(dict(type='EncoderDecoder', decode_head=head))
    Segmentation(num_classes=19, ignore_index=255)
    >>> task_of_config(dict(type='Nothing'))
    Unknown(num_classes=None, ignore_index=255)
    """
    model = Described(config, scope)
    source = getattr(model, 'data_preprocessor', None)
    for task in registered():
        # what a built model works out for itself, a config does not tell: such a task does not know
        with suppress(AttributeError):
            found = task.of_config(model, source)
            if found is not None:
                return found
    raise LookupError(f'no task knows {config!r:.80}')


def tasks_of_samples(samples: list | None) -> list[Task]:
    """Return every task whose labels the data samples hold, in the order of :func:`registered`."""
    return [task() for task in registered() if task.holds(samples)]


def task_of_samples(samples: list | None, wanted: Task | None = None) -> Task:
    """Return whose labels data samples hold.

    Args:
        samples: Of one batch; None has labels of nobody.
        wanted: The task of the model that will see them, which wins where they hold its labels.

    >>> from mmengine.structures import BaseDataElement
    >>> task_of_samples([BaseDataElement(gt_label=torch.tensor([1]))])
    Classification(num_classes=None, ignore_index=255)
    """
    # what it learns from is theirs, whoever would claim samples of an unknown model
    field = None if wanted is None else wanted.field
    labelled = [sample for sample in samples or [] if is_labelled(sample)]
    if samples and field is not None and (not labelled or field in labelled[0]):
        return wanted  # type: ignore[return-value]
    return tasks_of_samples(labelled or samples)[0]


def offered_reads() -> dict[str, Callable[[Batch], Any]]:
    """Return what tasks let objectives read of a batch: name -> function.

    >>> list(offered_reads())
    ['padding', 'tokens']
    """
    offered: dict[str, Callable[[Batch], Any]] = {}
    for task in registered():
        offered = {**task.reads, **offered}
    return offered


# Batches lie below tasks: they are told here whom to ask.
Batch.find_task, Batch.offered_reads = task_of_samples, offered_reads


def class_logits_of(kind: str) -> tuple[int, str] | None:
    """Return the axes of class logits of a kind of model, and how errors call such a tensor.

    >>> class_logits_of('classification'), class_logits_of('depth')
    ((2, 'vector (N, C)'), None)
    """
    return next((task.class_logits for task in registered() if task.kind == kind), None)


# ---------------------------------------------------------------------- what may be compared


def check_same_places(objective: str, tapped: Tapped, by_channel: bool = True) -> None:
    """Refuse tensors of two members that look alike and do not mean the same.

    Args:
        objective: How errors call what compares them.
        tapped: ``'member.tap'`` -> the member's model and the path of the module whose tensor is
            read.
        by_channel: Whether channel k of one is compared with channel k of the other; affinities are
            not.

    Raises:
        ValueError: A second stage of detectors, which sees each one's own proposals; bins of depth
            of other ranges; what a task of your own refuses.
    """
    for task in reversed(registered()):
        task.check_places(objective, tapped, by_channel)


def check_same_classes(models: Mapping[str, nn.Module], what: str) -> None:
    """Refuse models that learn from, or predict, one label but have different numbers of classes.

    Raises:
        ValueError: Names each model's number.
    """
    classes = {name: task_of(model).num_classes for name, model in models.items()}
    if len({number for number in classes.values() if number is not None}) > 1:
        raise ValueError(
            f'{what} disagree on classes: {classes}. Mend: the same classes, in the same order, '
            'for all of them'
        )
