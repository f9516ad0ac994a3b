"""Objectives: a loss, the references it reads, its weight and its connectors."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmkd.connectors.connector import Connector
from mmkd.distiller.objectives.class_logits import LabelSet, check_class_logits, check_same_labels
from mmkd.distiller.objectives.references import Record, follow, references, resolve
from mmkd.losses.base import OTHER_CLASSES, needs_of
from mmkd.registry import build_part
from mmkd.structures.batch import read_batch
from mmkd.structures.record import Stream
from mmkd.utils.checks import check_dict, check_keys, check_positive, nearest

OBJECTIVE_KEYS = ('loss', 'on', 'reads', 'weight', 'connectors')
_RESERVED = ModuleDict()


def check_name(name: str, kind: str) -> None:
    """Refuse names that today's stack would misread.

    Raises:
        ValueError: ``name`` contains ``loss`` (mmengine sums every such key) or a dot, or is an
            attribute of ModuleDict.
    """
    if 'loss' in name or not name.isidentifier() or hasattr(_RESERVED, name) or name == 'batch':
        raise ValueError(
            f"{kind} name {name!r}: names are identifiers without 'loss' or a dot, neither "
            f"'batch' nor an "
            f"attribute of ModuleDict (such as 'type', 'train', 'keys')"
        )


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
            members, which is stacked unless the loss names the argument in its ``lists``.
        weight: Multiplies the loss (besides the loss's own ``loss_weight``); schedules change it.
        connectors: Argument -> ``'auto'``, a config or a module. What 'auto' does is told by
            :class:`mmkd.losses.Loss`.

    Attributes:
        label_sets: Reference -> what the class logits of its member are, as far as the Distiller
            knows.

    Raises:
        TypeError: The loss does not take, or misses, an argument; ``connectors`` is no dict.
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
    ) -> None:
        super().__init__()
        check_name(name, 'objective')
        check_positive(f'weight of objective {name!r}', weight)
        self.name, self.weight = name, float(weight)
        self.label_sets: dict[str, LabelSet] = {}
        self.loss: Any = build_part(loss, f'objective {name!r}: loss')
        self.class_logits: tuple[str, ...] = tuple(getattr(self.loss, 'class_logits', ()))
        check_dict(f'objective {name!r}: reads', reads, "reads=dict(student='student.logits', …)")
        if on is not None and not isinstance(on, str):
            raise TypeError(
                f"objective {name!r}: on must be the name of a tap, got {on!r}. Mend: on='logits'"
            )
        self.reads = self._expand(on, dict(reads or {}), known)
        self._check_signature()
        self._check_peers()
        if connectors is not None and not isinstance(connectors, dict):
            raise TypeError(
                f"objective {name!r}: connectors is dict(student='auto') or dict(teacher='auto'), "
                f'got '
                f'{connectors!r}'
            )
        self.auto = [
            role
            for role, value in (connectors or {}).items()
            if isinstance(value, str) and value == 'auto'
        ]
        self._check_connectors(connectors or {})
        self.connectors = ModuleDict(
            {
                role: build_part(value, f'objective {name!r}: connector of {role!r}')
                for role, value in (connectors or {}).items()
                if role not in self.auto
            }
        )

        for role, connector in self.connectors.items():
            if not _learns(role) and any(p.requires_grad for p in connector.parameters()):
                raise ValueError(
                    f'objective {self.name!r}: the connector of {role!r} has weights, which would '
                    f'never '
                    'be trained: nothing reaches what a teacher says. Mend: '
                    "connectors=dict(student='auto')"
                )

    @property
    def adversarial(self) -> bool:
        """Whether the loss has a critic, which some phase must train."""
        return hasattr(self.loss, 'critic_loss')

    @property
    def mute(self) -> bool:
        """Whether a schedule has set the weight to 0."""
        return not self.weight

    def silence(self) -> Tensor | float:
        """Return 0 in which every parameter takes part, whatever stands in the features: DDP waits for gradients."""
        return sum(0.0 * p.sum() for p in self.parameters() if p.requires_grad)

    def forward(self, record: Record) -> dict[str, Tensor]:
        """Return ``{'<name>.loss': weight · loss}``, and the loss's diagnostics as ``<name>.<diagnostic>``."""
        value = {f'{self.name}.loss': self.weight * self._call(self.loss, record)}
        return value | {
            f'{self.name}.{key}': found
            for key, found in getattr(self.loss, 'diagnostics', {}).items()
        }

    def critic_loss(self, record: Record) -> dict[str, Tensor]:
        """Return ``{'<name>.critic_loss': …}``; nothing of it reaches a student or a teacher."""
        return {f'{self.name}.critic_loss': self._call(self.loss.critic_loss, record)}

    @property
    def streams(self) -> dict[str, list[str]]:
        """Reads of several members that reach the loss as running statistics: role -> references."""
        offered = getattr(self.loss, 'streams', ())
        return {
            role: reads
            for role, reads in self.reads.items()
            if role in offered and isinstance(reads, list) and role not in self.connectors
        }

    @property
    def references(self) -> list[str]:
        """Every ``'member.tap'`` that it reads."""
        return [reference for value in self.reads.values() for reference in references(value)]

    @property
    def kept(self) -> list[str]:
        """Every ``'member.tap'`` that it reads itself, not as running statistics alone."""
        values = [value for role, value in self.reads.items() if role not in self.streams]
        return [reference for value in values for reference in references(value)]

    @property
    def reads_labels(self) -> bool:
        """Whether it reads labels of the batch, or where they are valid."""
        return bool({'batch.labels', 'batch.valid'} & {str(value) for value in self.reads.values()})

    def running(self) -> list[Stream]:
        """Return what a record keeps running statistics of for this objective."""
        return [
            Stream(
                f'{self.name}({role})', tuple(reads), self.loss.running, partial(self._update, role)
            )
            for role, reads in self.streams.items()
        ]

    def _update(self, role: str, statistics: Any, value: Tensor) -> None:
        self._guard(partial(statistics.update, value), {role: value})

    @torch.no_grad()
    def fit(self, record: Record) -> list[str]:
        """Insert the connectors that ``'auto'`` stands for, let the loss build itself; return what was done, in words.

        A loss with parts that only the shapes decide (a critic, a predictor) has
        ``build(**reads)``, which makes them.
        """
        self._check_class_logits(record)
        done = [self._connect_by_itself(role, record) for role in self.auto]
        self.auto = []
        done += [
            f'{self._connect_by_itself(role, record)}, since none was given'
            for role in self._to_resize(record)
        ]
        if hasattr(self.loss, 'build'):
            values = self._values(record)
            built = self._guard(lambda: self.loss.build(**values), values)
            done += [f'{self.name}: {built}'] * bool(built)
        return done

    def _check_class_logits(self, record: Record) -> None:
        """Look at the arguments that are class logits, but for those that a connector of one's own makes so."""
        roles = [
            role for role in self.class_logits if role in self.reads and not self._of_batch(role)
        ]
        images = len(record['batch'].inputs) if 'batch' in record else None
        same: dict[str, LabelSet] = {}
        for role in [role for role in roles if role not in self.connectors]:
            value, found = self._read(role, record), references(self.reads[role])
            if role in self.streams:
                value = value.mean_prob
            each = (
                value
                if isinstance(self.reads[role], list) and role not in self.streams
                else [value] * len(found)
            )
            for reference, tensors in zip(found, each, strict=True):
                labels = self.label_sets.get(reference, LabelSet(''))
                for tensor in tensors if isinstance(tensors, list) else [tensors]:
                    check_class_logits(
                        f'objective {self.name!r}: {role}={reference!r}', tensor, labels, images
                    )
                same[reference] = labels
        if not any(role in self.connectors for role in roles):
            check_same_labels(f'objective {self.name!r}: {type(self.loss).__name__}', same)

    def _to_resize(self, record: Record) -> list[str]:
        """Return the teacher's maps of class logits that differ from the student's in size alone, without connector."""
        found = []
        for role in [
            role for role in self.class_logits if role in self.reads and not _learns(role)
        ]:
            other = self._counterpart(role)
            if other not in self.class_logits or {role, other} & {*self.connectors}:
                continue
            x, like = self._read(role, record), self._read(other, record)
            plain = (
                isinstance(self.reads[role], str)
                and isinstance(x, Tensor)
                and isinstance(like, Tensor)
            )
            if (
                plain
                and x.dim() == like.dim() == 4
                and x.shape[:2] == like.shape[:2]
                and x.shape != like.shape
            ):
                found.append(role)
        return found

    def _connect_by_itself(self, role: str, record: Record) -> str:
        """Insert what brings an argument to its counterpart's channels and size; return what was done, in words."""
        other = self._counterpart(role)
        x, like = self._read(role, record), self._one(other, self._read(other, record))
        if not isinstance(x, Tensor):
            raise ValueError(
                f"objective {self.name!r}: connectors=dict({role}='auto') fits one map, but "
                f'{role} is '
                f'a list of {len(x)}. Mend: a connector of your own, or one call of the module'
            )
        needs = needs_of(self.loss)
        axis = self._channel_axis({role: x, other: like}, record)
        tokens = axis == 2  # (N, L, D): D stands last
        convolve = 'channels' in needs and x.shape[axis] != like.shape[axis]
        if convolve and (role in self.class_logits or self._say_classes({role: x, other: like})):
            raise ValueError(
                f'objective {self.name!r}: {role} has {x.shape[1]} classes, {other} '
                f'{like.shape[1]}. '
                f'{OTHER_CLASSES}'
            )
        if convolve and not _learns(role):
            raise ValueError(
                f'objective {self.name!r}: {role} has {x.shape[axis]} channels, {other} '
                f'{like.shape[axis]}; a connector of the teacher would never be trained. Mend: '
                "connectors=dict(student='auto')"
            )
        resize = 'size' in needs and not tokens and x.shape[2:] != like.shape[2:]
        width = like.shape[axis] if convolve else x.shape[axis]
        self.connectors[role] = Connector(
            x.shape[axis], width if convolve else None, resize, tokens
        ).to(x.device)
        fitted = (
            (x.shape[1], width) if tokens else (width, *(like.shape[2:] if resize else x.shape[2:]))
        )
        steps = ['1x1 convolution'] * convolve + ['bilinear resize'] * resize
        if not steps:
            agree = (
                'shapes agree'
                if x.shape == like.shape
                else f'loss needs the same {" and ".join(needs)}, no more'
            )
            steps = [f'nothing (the {agree})']
        return f'{self.name}: {role} {tuple(x.shape[1:])} -> {fitted} by {" and ".join(steps)}'

    def _say_classes(self, pair: dict[str, Any]) -> bool:
        """Return whether each tensor has as many channels as its member has classes, whatever the loss takes."""
        labels = [(self.label_sets.get(str(self.reads[role])), x) for role, x in pair.items()]
        return all(one is not None and one.channels == x.shape[1] for one, x in labels)

    def _channel_axis(self, pair: dict[str, Any], record: Record) -> int:
        """Return the axis of the channels of two tensors of one kind.

        Raises:
            ValueError: They are no maps, vectors or tokens that the loss takes, or of different
                kinds.
        """
        shapes = ', '.join(f'{role}={self.reads[role]!r} {_shape(x)}' for role, x in pair.items())
        kinds = {4: '(N, C, H, W)', 2: '(N, C)'}
        if getattr(self.loss, 'takes_tokens', False):
            kinds[3] = '(N, L, D)'
        x, like = pair.values()
        where = f"objective {self.name!r}: connectors='auto'"
        if x.dim() not in kinds or like.dim() != x.dim():
            raise ValueError(
                f'{where} fits two tensors {" or ".join(kinds.values())} to each other, got '
                f'{shapes}. '
                'Mend: taps of such tensors, or a connector of your own'
            )
        images = len(record['batch'].inputs) if 'batch' in record else len(x)
        if x.dim() == 4 and not len(x) == len(like) == images:
            raise ValueError(
                f'{where} fits maps (N, C, H, W) of the N={images} images of the batch, got '
                f'{shapes}: '
                'axis 1 is not that of channels. Mend: taps of maps, or a connector of your own'
            )
        if x.dim() == 3 and x.shape[1] != like.shape[1] and 'size' in needs_of(self.loss):
            raise ValueError(
                f'{where} resizes no tokens (N, L, D), got {shapes}. Mend: taps over the same '
                f'tokens, or '
                'a connector of your own'
            )
        return 2 if x.dim() == 3 else 1

    def _call(self, function: Any, record: Record) -> Tensor:
        values = self._values(record)
        return self._guard(lambda: function(**values), values)

    def _guard(self, call: Any, values: dict[str, Any], what: str | None = None) -> Any:
        try:
            return call()
        except (ValueError, TypeError, RuntimeError) as error:
            shapes = ', '.join(
                f'{role}={self.reads[role]!r} {_shape(value)}' for role, value in values.items()
            )
            what = what or type(self.loss).__name__
            raise type(error)(f'objective {self.name!r}: {what} got {shapes}: {error}') from error

    def _values(self, record: Record) -> dict[str, Any]:
        values = {role: self._read(role, record) for role in self.reads if not self._of_batch(role)}
        for role, value in values.items():
            if role in self.connectors:
                connect = partial(self._connect, role, value, values)
                values[role] = self._guard(connect, values, f'the connector of {role!r}')
        first = min(values, key=lambda role: (role != 'student', not _learns(role)), default=None)
        like = None if first is None else self._one(first, values[first])
        for role in self.reads:
            if self._of_batch(role):
                fit = None if role in getattr(self.loss, 'whole', ()) else like
                read = partial(read_batch, record['batch'], self.reads[role].split('.')[1], fit)
                values[role] = self._guard(read, values, self.reads[role])
        return {role: values[role] for role in self.reads}

    def _connect(self, role: str, value: Tensor, values: dict[str, Any]) -> Tensor:
        connector, other = self.connectors[role], self._counterpart(role)
        if not isinstance(connector, Connector):
            return connector(value)
        # A bf16 teacher's map is resized in float32: the resize is cheap, its rounding is not.
        return connector(
            value if _learns(role) else value.float(),
            size=tuple(self._one(other, values[other]).shape[2:]) if other else None,
        )

    def _counterpart(self, role: str) -> str:
        """Return the read that ``role`` is compared with, by its name on the other side where it can; '' for none."""
        others = [r for r in self.reads if r != role and not self._of_batch(r)]
        here, there = ('student', 'teacher') if _learns(role) else ('teacher', 'student')
        named = [r for r in others if r.rstrip('s') == role.replace(here, there, 1).rstrip('s')]
        return next(iter(named + others), '')

    def _one(self, role: str, value: Any) -> Any:
        """Return the tensor whose shape stands for a read: of a stack or list the first, of statistics the mean."""
        if role in self.streams:
            return value.mean_prob
        return value[0] if isinstance(self.reads[role], list) or isinstance(value, list) else value

    def _of_batch(self, role: str) -> bool:
        return isinstance(self.reads[role], str) and self.reads[role].startswith('batch.')

    def _read(self, role: str, record: Record) -> Any:
        reference = self.reads[role]
        if role in self.streams:
            return record[f'{self.name}({role})']
        many = isinstance(reference, list)
        stacked = many and role not in getattr(self.loss, 'lists', ())
        value = [follow(r, record) for r in reference] if many else follow(reference, record)
        tensors = value if isinstance(value, list) else [value]
        if not _learns(role):
            tensors = [tensor.detach() for tensor in tensors]
        elif torch.is_grad_enabled() and not all(tensor.requires_grad for tensor in tensors):
            raise RuntimeError(
                f'objective {self.name!r}: {role}={reference!r} carries no gradient, so the '
                f'student '
                'would learn nothing from it. The layer is frozen (frozen_stages, '
                'requires_grad=False), '
                'the backbone checkpoints its activations (with_cp=True), or the reference is a '
                'teacher. Mend: tap a trained layer, or with_cp=False'
            )
        if stacked and len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(
                f'objective {self.name!r}: {role} stacks {reference}, whose shapes differ: '
                f'{_shape(tensors)}. Mend: taps of one shape in every member'
            )
        return (
            torch.stack(tensors) if stacked else tensors if isinstance(value, list) else tensors[0]
        )

    def _expand(
        self, on: str | None, reads: dict[str, Any], known: dict[str, list[str]]
    ) -> dict[str, Any]:
        where = f'objective {self.name!r}'
        if on is not None:
            for role in ('student', 'teacher'):
                if role not in known:
                    raise KeyError(
                        f"{where}: on={on!r} needs members named 'student' and 'teacher', there "
                        f'are '
                        f"{sorted(known)}. Mend: reads=dict(student='<member>.{on}', "
                        f"teacher='<member>.{on}')"
                    )
                reads.setdefault(role, f'{role}.{on}')
        if not reads:
            raise ValueError(
                f"{where} reads nothing. Mend: on='logits' or "
                f"reads=dict(student='student.logits', …)"
            )
        found = {role: resolve(value, known, f'{where}: {role}') for role, value in reads.items()}
        streams = getattr(
            self.loss, 'streams', ()
        )  # a single member is a list of one there, which the loss refuses
        return {
            role: [value] if role in streams and isinstance(value, str) else value
            for role, value in found.items()
        }

    def _check_signature(self) -> None:
        where = f'objective {self.name!r}: {type(self.loss).__name__}'
        parameters = inspect.signature(self.loss.forward).parameters.values()
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            check_keys(self.reads, named, f'{where} reads')
        missing = [n for n, p in named.items() if p.default is p.empty and n not in self.reads]
        if missing:
            raise TypeError(
                f'{where} also needs {missing}. Mend: on=…, or reads=dict({missing[0]}=…)'
            )
        if not any(map(_learns, self.reads)) and not any(True for _ in self.loss.parameters()):
            raise ValueError(
                f"{where} reads {sorted(self.reads)}, but only an argument 'student' or "
                f"'student_…' "
                'carries gradient, so nothing would learn from it. Mend: name the argument of the '
                'loss so'
            )

    def _check_peers(self) -> None:
        both = self.reads.get('student'), self.reads.get('teacher')
        if both[0] is not None and both[0] == both[1]:
            raise ValueError(
                f'objective {self.name!r}: student and teacher both read {both[0]!r}, and a '
                f'network has '
                'nothing to learn from itself. Mend: another member, or another tap, on one of '
                'the sides; '
                'peers that teach each other are two or more'
            )

    def _check_connectors(self, connectors: dict[str, Any]) -> None:
        where = f'objective {self.name!r}: connectors'
        needs = needs_of(self.loss)
        for role in connectors:
            if role not in self.reads:
                raise KeyError(
                    f'{where} name {role!r}, which it does not read{nearest(role, self.reads)} '
                    f'(it reads {sorted(self.reads)})'
                )
        for role in self.auto:
            if not needs:
                raise ValueError(
                    f"{where}=dict({role}='auto') would do nothing: {type(self.loss).__name__} "
                    f'needs its '
                    'arguments to agree neither in channels nor in size (needs = ()). Mend: leave '
                    'it out, '
                    'or a connector of your own'
                )
            if isinstance(self.reads[role], list) or not self._counterpart(role):
                raise ValueError(
                    f"{where}=dict({role}='auto') fits one map to another, but the objective reads "
                    f'{self.reads}. Mend: a connector of your own, or the other side'
                )


def _learns(role: str) -> bool:
    """Return whether gradient flows through this argument of a loss."""
    return role == 'student' or role.startswith('student_')


def _shape(value: Any) -> str:
    if isinstance(value, list):
        return str([_shape(v) for v in value])
    return str(tuple(value.shape)) if hasattr(value, 'shape') else type(value).__name__


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
