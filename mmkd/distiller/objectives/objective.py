"""Objectives: a loss, the references it reads, its weight and its connectors."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmkd.connectors.connector import Connector
from mmkd.connectors.levels import LevelsConnector
from mmkd.distiller.members.blame import retold
from mmkd.distiller.objectives.auto import (
    Auto,
    Side,
    check_connectors,
    connect,
    differ_in_size_alone,
    is_auto,
    read_auto,
)
from mmkd.distiller.objectives.class_logits import LabelSet, check_class_logits, check_same_labels
from mmkd.distiller.objectives.class_map import ClassMap
from mmkd.distiller.objectives.reads import (
    Reads,
    check_peers,
    check_signature,
    learns,
    read_references,
    shapes_of,
    stream_key,
)
from mmkd.distiller.objectives.through import Through
from mmkd.distiller.objectives.weighing import Weighing
from mmkd.losses.as_loss import as_loss, check_roles
from mmkd.losses.base import Loss, Place
from mmkd.registry import build_part
from mmkd.structures.record import Record, Stream
from mmkd.utils.checks import check_dict, check_keys, check_positive

LABELS = ('batch.labels', 'batch.valid')
OBJECTIVE_KEYS = (
    *('loss', 'on', 'reads', 'weight', 'connectors', 'where', 'class_map', 'teacher_head'),
)
_RESERVED = ModuleDict()


class Objective(BaseModule):
    """One term of the distillation: reads tensors of a record and returns ``weight · loss``.

    Only ``student`` and arguments that begin with ``student_`` carry gradient; every other read is
    detached.

    Args:
        name: Its name, the prefix of its log keys.
        loss: Config of a loss, or the loss.
        known: Member name -> names of the taps that it offers.
        on: ``on='logits'`` is short for ``reads=dict(student='student.logits',
            teacher='teacher.logits')``.
        reads: Argument of the loss -> reference ``'member.tap'``, a list of references or a glob of
            members, which is stacked unless the loss's ``roles`` say otherwise.
        weight: Multiplies the loss (besides the loss's own ``loss_weight``); schedules change it.
        connectors: Argument -> ``'auto'``, a config or a module. What 'auto' does is told by
            :class:`mmkd.losses.Loss`; ``'auto:conv-bn-relu'``, or ``dict(type='auto',
            kind='conv-bn-relu', kernel_size=3)``, inserts such a :class:`mmkd.connectors.Connector`
            whether channels differ or not.
        where: How much every position counts: a part of :mod:`mmkd.where` or a list of them, whose
            product reaches the loss as ``weight``.
        class_map: Of a teacher of other classes: what each of its classes is among the student's,
            see :class:`mmkd.distiller.objectives.class_map.ClassMap`.
        teacher_head: Lets the student's tensor, after its connector, pass the frozen end of the
            teacher: ``'teacher.feat'`` is the tap that it stands in for, and what arrives is what
            the teacher makes of it at the tap that the loss reads; True: the tap of the student's
            name. See :class:`mmkd.distiller.objectives.through.Through`.

    Attributes:
        asks_what_is_ignored: Whether the loss's ``ignore_index``, which its config does not say,
            becomes that of the student's head.
        label_sets: Reference -> what the class logits of its member are, as far as the Distiller
            knows.

    Raises:
        TypeError: The loss does not take, or misses, an argument; ``connectors`` is no dict;
            ``where`` of a loss that takes no ``weight``; ``class_map`` is no map, or of a loss that
            compares no class logits.
        KeyError: A reference names an unknown member or tap.
        ValueError: The weight is not a finite number above 0, a name is not allowed, or nothing
            could learn from it.
    """

    def __init__(
        self,
        name: str,
        loss: dict | nn.Module,
        known: dict[str, list[str]],
        on: str | None = None,
        reads: dict[str, Any] | None = None,
        weight: float = 1.0,
        connectors: dict[str, Any] | None = None,
        where: Any = None,
        class_map: Any = None,
        teacher_head: Any = None,
    ) -> None:
        super().__init__()
        called = f'objective {name!r}'
        check_name(name, 'objective')
        check_positive(f'weight of {called}', weight)
        self.name, self.weight = name, float(weight)
        self.label_sets: dict[str, LabelSet] = {}
        self.loss: Any = build_part(loss, f'{called}: loss')
        check_roles(self.loss)
        _check_options(called, on, reads, connectors)
        connectors = connectors or {}
        found = read_references(called, on, reads or {}, known)
        self.reads = Reads(name, found, self.loss, connectors)
        said = not isinstance(loss, dict) or 'ignore_index' in loss
        own = self.contract.ignore_index is not None and self.reads_labels_itself
        self.asks_what_is_ignored = own and not said
        self.through: Through | None = None
        if teacher_head is not None and teacher_head is not False:
            self.through = Through(called, teacher_head, self.reads, known)
            connectors = self.through.check_beside(connectors, class_map)
        given = {**self.reads} if self.through is None else {**self.reads, self.through.gives: ''}
        check_signature(called, self.loss, given)
        check_peers(called, self.reads)
        if not self._replaces:
            check_connectors(called, connectors, self.reads, type(self.loss).__name__)
        self.where = Weighing(called, where, self.loss, self.reads, known)
        self.auto = {
            argument: read_auto(called, given)
            for argument, given in connectors.items()
            if is_auto(given)
        }
        self.connectors = ModuleDict(
            {
                argument: build_part(given, f'{called}: connector of {argument!r}')
                for argument, given in connectors.items()
                if argument not in self.auto
            }
        )
        _check_weights(called, self.connectors)
        self.class_map = None if class_map is None else ClassMap(called, class_map)
        self.mapped: list[str] = []
        if self.class_map is not None:
            # a loss of any maps may be given class logits, which is looked at with the tensors
            self.mapped = self.reads.class_logits or [*self.reads.members]
            _check_mapped(called, self.reads, self.mapped, self.connectors, type(self.loss))

    # ------------------------------------------------------------------ what is asked of it

    @property
    def _replaces(self) -> bool:
        """Whether what passed a teacher's head takes the place of the student's tensor."""
        return self.through is not None and self.through.replaces

    @property
    def contract(self) -> Loss:
        """The loss as what it says of itself; a plain module says what every loss does."""
        return as_loss(self.loss)

    @property
    def adversarial(self) -> bool:
        """Whether the loss has a critic, which some phase must train."""
        return self.contract.critic_loss is not None

    @property
    def streams(self) -> dict[str, list[str]]:
        """Argument that arrives as running statistics -> the references that they are made of."""
        return self.reads.streams

    @property
    def references(self) -> list[str]:
        """Every ``'member.tap'`` that it reads."""
        heads = [] if self.through is None else self.through.starts
        own = self.reads.references(self.reads)
        return [*dict.fromkeys([*own, *heads, *self.where.references])]

    @property
    def kept(self) -> list[str]:
        """Every ``'member.tap'`` that it reads itself, not as running statistics alone."""
        own = self.reads.references(name for name in self.reads if name not in self.streams)
        heads = [] if self.through is None else self.through.starts
        return [*own, *heads, *self.where.references]

    @property
    def reads_labels(self) -> bool:
        """Whether it reads labels of the batch, or where they are valid."""
        return self.reads_labels_itself or self.where.reads_labels

    @property
    def reads_annotations(self) -> bool:
        """Whether it reads what annotators made: labels, or boxes."""
        return self.reads_labels or self.where.reads_boxes

    @property
    def reads_labels_itself(self) -> bool:
        """The same, without the parts of ``where=``."""
        return any(self.reads[name] in LABELS for name in self.reads.of_batch)

    @property
    def skips_unlabelled(self) -> bool:
        """Whether images without labels teach nothing in it: it reads labels, or masks them."""
        skipping = (*LABELS, 'batch.labelled')
        reads = any(self.reads[name] in skipping for name in self.reads.of_batch)
        return reads or self.where.skips_unlabelled

    @property
    def compares_channels(self) -> bool:
        """Whether what is read must agree in channels."""
        return any('channels' in self.reads.role(argument).alike for argument in self.reads.members)

    @property
    def mute(self) -> bool:
        """Whether a schedule has set the weight to 0."""
        return not self.weight

    def silence(self) -> Tensor | float:
        """Return 0 in which every parameter takes part: DDP waits for the gradient of each."""
        return sum(0.0 * p.sum() for p in self.parameters() if p.requires_grad)

    # ------------------------------------------------------------------ the flow

    def forward(self, record: Record) -> dict[str, Tensor]:
        """Return ``{'<name>.loss': weight · loss}``, and diagnostics as ``<name>.<diagnostic>``."""
        logs = {f'{self.name}.loss': self.weight * self._call(self.loss, record)}
        for key, found in self.contract.diagnostics.items():
            logs[f'{self.name}.{key}'] = found
        return logs

    def critic_loss(self, record: Record) -> dict[str, Tensor]:
        """Return ``{'<name>.critic_loss': …}``; nothing of it reaches a student or a teacher."""
        return {f'{self.name}.critic_loss': self._call(self.loss.critic_loss, record)}

    def _call(self, function: Callable, record: Record, weighed: bool = True) -> Any:
        values = self._values(record)
        weights = {}
        if weighed and len(self.where):
            with self._explained(values, 'where'):
                weights['weight'] = self.where(record, values, self.reads.like(values))
        with self._explained(values):
            return function(**values, **weights)

    def _values(self, record: Record) -> dict[str, Any]:
        """Return what the loss is given: reads of members, connected, then parts of the batch."""
        reads = self.reads
        values = {argument: self._read(argument, record) for argument in reads.members}
        for argument in [argument for argument in reads.members if argument in self.connectors]:
            with self._explained(values, f'the connector of {argument!r}'):
                values[argument] = self._connect(argument, values, record)
        if self.through is not None:
            with self._explained(values, "the teacher's head"):
                values[self.through.gives] = self.through(values['student'], record)
        for argument in reads.of_batch:
            with self._explained(values, reads[argument]):
                values[argument] = reads.read_batch(argument, record, values)
        made = [] if self.through is None else [self.through.gives]
        return {argument: values[argument] for argument in dict.fromkeys([*reads, *made])}

    def _read(self, argument: str, record: Record) -> Any:
        """Return what an argument is; class logits as those of the classes that both sides know."""
        value = self.reads.read(argument, record)
        if self.class_map is None or argument not in self.mapped:
            return value
        bring = self.class_map.learn if learns(argument) else self.class_map.teach
        if isinstance(value, Tensor) and not isinstance(self.reads[argument], list):
            return bring(value)
        brought = [bring(one) for one in value]
        return torch.stack(brought) if isinstance(value, Tensor) else brought

    def _connect(self, argument: str, values: Mapping[str, Any], record: Record) -> Any:
        connector, value = self.connectors[argument], values[argument]
        other = self.reads.counterpart(argument)
        if isinstance(connector, LevelsConnector):
            like = values[other] if other else None
            return connector(value, sizes=like and [tuple(one.shape[2:]) for one in like])
        if not isinstance(connector, Connector):
            return connector(value)
        if self.through is not None and self._replaces:
            return connector(value, size=tuple(self.through.like(record).shape[2:]))
        size = tuple(self.reads.one(other, values[other]).shape[2:]) if other else None
        # A bf16 teacher's map is resized in float32: the resize is cheap, its rounding is not.
        return connector(value if learns(argument) else value.float(), size=size)

    @contextmanager
    def _explained(self, values: Mapping[str, Any], what: str | None = None) -> Iterator[None]:
        """Tell the objective, the references and the shapes of any error inside."""
        try:
            yield
        except (ValueError, TypeError, RuntimeError) as error:
            got = ', '.join(
                f'{argument}={self.reads.get(argument, "of the head")!r} {shapes_of(value)}'
                for argument, value in values.items()
            )
            what = what or type(self.loss).__name__
            text = f'objective {self.name!r}: {what} got {got}: {error}'
            raise retold(error, text) from error

    def running(self) -> list[Stream]:
        """Return what a record keeps running statistics of for this objective."""
        start = self.contract.running
        return [
            Stream(
                stream_key(self.name, name), tuple(references), start, partial(self._update, name)
            )
            for name, references in self.streams.items()
        ]

    def _update(self, argument: str, statistics: Any, value: Tensor) -> None:
        with self._explained({argument: value}):
            statistics.update(value)

    # ------------------------------------------------------------------ before training

    @torch.no_grad()
    def fit(self, record: Record) -> list[str]:
        """Insert the connectors that ``'auto'`` stands for and let the loss build itself.

        Returns:
            What was done, in words.
        """
        if self.asks_what_is_ignored:  # else a void label of 0 … C − 1 would be learned as a class
            self.loss.ignore_index = record.batch.ignore_index
        self._check_class_logits(record)
        done = [] if self.class_map is None else [f'{self.name}: {self._map_classes(record)}']
        for argument, auto in self.auto.items():
            done.append(self._connect_by_itself(argument, record, auto))
        self.auto = {}
        for argument in self._to_resize(record):
            said = self._connect_by_itself(argument, record, Auto(always=False))
            done.append(f'{said}, since none was given')
        done += self._build_levels(record)
        # One image may be one value of a channel, and leaves no trace in running statistics.
        training = self.connectors.training
        self.connectors.eval()
        if len(self.where):
            values = self._values(record)
            with self._explained(values, 'where'):
                like = self.reads.like(values)
                self.where.check(record, values, like, self.label_sets, self._compared_sets())
        build = self.contract.build
        built = '' if build is None else self._call(build, record, weighed=False)
        self.connectors.train(training)
        done += [f'{self.name}: {built}'] * bool(built)
        return done

    def _build_levels(self, record: Record) -> Iterator[str]:
        """Let connectors of lists build themselves; yield what was done, in words."""
        for argument, connector in self.connectors.items():
            if not isinstance(connector, LevelsConnector):
                continue
            other = self.reads.counterpart(argument)
            values = {name: self._read(name, record) for name in (argument, other) if name}
            with self._explained(values, f'the connector of {argument!r}'):
                built = connector.build(values[argument], values.get(other, []))
            if built:
                yield f'{self.name}: {argument} {built}'

    def place(self, runs: Mapping[str, Any]) -> Place:
        """Return where the loss stands.

        Args:
            runs: Member -> what runs it.
        """
        return Place(self.name, self.reads, self.connectors, runs)

    def bind(self, runs: Mapping[str, Any]) -> None:
        """Tell the loss where it stands: it refuses a place that it was not made for.

        Args:
            runs: Member -> what runs it.
        """
        self.contract.bind(self.place(runs))

    @torch.no_grad()
    def stand_in(self, generator: torch.Generator) -> str:
        """Put random parts in place of those that wait for data, to measure values and costs.

        Args:
            generator: Of the random numbers, on the CPU.

        Returns:
            What was done, in words; '' for nothing.
        """
        done = self.contract.stand_in(generator)
        return f'objective {self.name!r} has {done}' if done else ''

    def _connect_by_itself(self, argument: str, record: Record, auto: Auto) -> str:
        """Insert what fits an argument to its counterpart; return what was done, in words."""
        x = self._side(argument, self._read(argument, record))
        if self.through is not None and self._replaces:
            x, like = self.through.sides(x, record)
        else:
            other = self.reads.counterpart(argument)
            like = self._side(other, self.reads.one(other, self._read(other, record)))
        self.connectors[argument], done = connect(self.name, x, like, _images(record), auto)
        return done

    def _side(self, argument: str, tensor: Any) -> Side:
        read = self.reads[argument]
        labels = self._compared_sets().get(str(read))
        return Side(argument, read, tensor, self.reads.role(argument), labels)

    def _to_resize(self, record: Record) -> list[str]:
        """Return the teacher's class logits that differ from the student's in size alone."""
        found = []
        for argument in self.reads.class_logits:
            other = self.reads.counterpart(argument)
            connected = {argument, other} & {*self.connectors}
            compared = other in self.reads.class_logits and self.through is None
            if learns(argument) or connected or not compared:
                continue
            x, like = (self._read(one, record) for one in (argument, other))
            if isinstance(self.reads[argument], str) and differ_in_size_alone(x, like):
                found.append(argument)
        return found

    def _check_class_logits(self, record: Record) -> None:
        """Look at arguments that are class logits, unless a connector of one's own makes them."""
        where, same = f'objective {self.name!r}', {}
        made = {*self.connectors} if self.through is None else {self.through.gives}
        plain = [name for name in self.reads.class_logits if name not in made]
        for argument in plain:
            for reference, tensors in self.reads.each(argument, record):
                labels = self.label_sets.get(reference, LabelSet(''))
                for tensor in tensors:
                    what = f'{where}: {argument}={reference!r}'
                    check_class_logits(what, tensor, labels, _images(record))
                same[reference] = labels
        if self.reads_labels and not made:  # which are of the student's classes
            same |= self._students_sets()
        if plain == self.reads.class_logits and self.class_map is None:
            check_same_labels(f'{where}: {type(self.loss).__name__}', same)
        if self.through is not None and self.reads_labels:  # of the student's classes
            self.through.refuse_other_labels(self.label_sets)
        if self.reads_labels:
            _check_number(self.name, self.contract, self._students_sets())

    def _students_sets(self) -> dict[str, LabelSet]:
        """Return the label sets of what is read of students, whatever it is."""
        read = self.reads.references([one for one in self.reads.members if learns(one)])
        return {one: self.label_sets[one] for one in read if one in self.label_sets}

    def _map_classes(self, record: Record) -> str:
        """Tell the class map which classes there are; return what it does, in words."""
        assert self.class_map is not None
        sets: dict[bool, LabelSet] = {}
        for argument in self.mapped:
            for reference, tensors in self.reads.each(argument, record):
                known = self.label_sets.get(reference, LabelSet(''))
                what = f'objective {self.name!r}: {argument}={reference!r}'
                check_class_logits(what, tensors[0], known, _images(record))
                channels = tensors[0].shape[1]
                seen = replace(known, classes=channels) if known.classes is None else known
                first = sets.setdefault(learns(argument), seen)
                _check_channels(self.name, reference, channels, first)
        words = self.class_map.resolve(sets[False], sets[True])
        looking = self.where.looking_up_labels
        if 'batch.labels' in map(str, self.reads.values()):
            looking.insert(0, type(self.loss).__name__)
        if not self.class_map.whole and looking:
            raise ValueError(
                f'objective {self.name!r}: {words}; but {looking[0]} reads '
                "batch.labels, which are of all of the student's classes. Mend: a loss that reads "
                'no labels (PixelWiseKLLoss), or a class_map that reaches every class'
            )
        return words

    def _compared_sets(self) -> dict[str, LabelSet]:
        """Return reference -> label set, as class logits are compared."""
        if self.through is not None and self._replaces:
            return self.through.label_sets(self.label_sets)
        if self.class_map is None:
            return self.label_sets
        number = self.class_map.number
        references = self.reads.references(self.mapped)
        own = {one: self.label_sets.get(one, LabelSet('')) for one in references}
        brought = {one: replace(old, classes=number, channels=number) for one, old in own.items()}
        return {**self.label_sets, **brought}


def build_objective(name: str, config: dict, known: dict[str, list[str]]) -> Objective:
    """Build one objective.

    Raises:
        TypeError: Unknown keys, or no loss.
    """
    check_keys(config, OBJECTIVE_KEYS, f'objective {name!r}')
    if 'loss' not in config:
        raise TypeError(
            f'objective {name!r} needs loss=dict(type=…), got the keys {sorted(config)}'
        )
    return Objective(name, known=known, **config)


def refuse_no_objectives(configs: Mapping[str, dict]) -> None:
    """Refuse a Distiller that would distil nothing.

    Raises:
        ValueError: There is no objective.
    """
    if not configs:
        raise ValueError(
            'objectives is empty: a Distiller without objectives is plain training. Mend: train '
            'the student by its own config, or add an objective'
        )


def stand_in(objectives: Iterable[Objective]) -> list[str]:
    """Put random parts in place of those that wait for data, to measure values and costs.

    Returns:
        What was done, in words, objective by objective.
    """
    generator = torch.Generator().manual_seed(0)
    return [said for objective in objectives if (said := objective.stand_in(generator))]


def check_name(name: str, kind: str) -> None:
    """Refuse names that today's stack would misread.

    Raises:
        ValueError: ``name`` contains ``loss`` (mmengine sums every such key) or a dot, or is an
            attribute of ModuleDict.
    """
    if 'loss' in name or not name.isidentifier() or hasattr(_RESERVED, name) or name == 'batch':
        raise ValueError(
            f"{kind} name {name!r}: names are identifiers without 'loss' or a dot, neither 'batch' "
            "nor an attribute of ModuleDict (such as 'type', 'train', 'keys')"
        )


def _check_options(where: str, on: Any, reads: Any, connectors: Any) -> None:
    check_dict(f'{where}: reads', reads, "reads=dict(student='student.logits', …)")
    if on is not None and not isinstance(on, str):
        raise TypeError(f"{where}: on must be the name of a tap, got {on!r}. Mend: on='logits'")
    if connectors is not None and not isinstance(connectors, dict):
        raise TypeError(
            f"{where}: connectors is dict(student='auto') or dict(teacher='auto'), got "
            f'{connectors!r}'
        )


def _check_weights(where: str, connectors: ModuleDict) -> None:
    """Refuse weights on the teacher's side."""
    for argument, connector in connectors.items():
        levels = isinstance(connector, LevelsConnector)  # whose weights are made later
        trained = levels or any(p.requires_grad for p in connector.parameters())
        if not learns(argument) and trained:
            raise ValueError(
                f'{where}: the connector of {argument!r} has weights, which would never be '
                'trained: nothing reaches what a teacher says. Mend: '
                "connectors=dict(student='auto')"
            )


def _check_mapped(
    where: str, reads: Reads, mapped: list[str], connectors: ModuleDict, loss: type
) -> None:
    """Refuse a class map where nothing is compared, or class logits are made on the way."""
    if {learns(argument) for argument in mapped} != {True, False}:
        raise TypeError(
            f'{where}: class_map is for losses that compare class logits of a student and a '
            f'teacher, and {loss.__name__} reads {sorted(reads)}. Mend: leave it out; '
            'PixelWiseKLLoss, DISTLoss, ChannelWiseKLLoss and the like compare them'
        )
    running = [argument for argument in mapped if argument in reads.streams]
    own = [argument for argument in mapped if argument in connectors]
    if running or own:
        what = f'running statistics ({running})' if running else f'connectors of its own ({own})'
        raise ValueError(
            f'{where}: class_map does not go with {what} of class logits. Mend: a loss of one '
            "teacher, and connectors='auto' or none"
        )


def _check_number(name: str, loss: Loss, sets: Mapping[str, LabelSet]) -> None:
    """Refuse a number of classes that is not that of the labels: others would not be compared."""
    number = getattr(loss, 'num_classes', None)
    for reference, labels in sets.items():
        if number is not None and labels.classes not in (None, number):
            raise ValueError(
                f'objective {name!r}: {type(loss).__name__} has num_classes={number}, but the '
                f'labels are of the {labels.classes} classes of {reference!r}. Mend: num_classes='
                f'{labels.classes}'
            )


def _check_channels(name: str, reference: str, channels: int, labels: LabelSet) -> None:
    """Refuse one sigmoid for two classes, and members of a side that know other classes."""
    if channels == 1 or channels != labels.classes:
        raise ValueError(
            f'objective {name!r}: class_map needs one channel a class, and the same classes of all '
            f'members of a side, got {channels} channels of {reference!r}, {labels.classes} '
            'classes. Mend: a head with a softmax (out_channels of its own for each class)'
        )


def _images(record: Record) -> int | None:
    """Return how many images the batch holds, where there is one."""
    return len(record['batch'].inputs) if 'batch' in record else None
