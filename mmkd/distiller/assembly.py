"""Assembly: from a config to the parts of a Distiller, step by step.

Each step leaves out what it refuses. What becomes of a mistake, its :class:`Mistakes` decide: they
are raised at once, or collected by the doctor, which goes on with what is left.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from mmkd.distiller.draws import own_draws
from mmkd.distiller.members.kinds.combined import Combined, spread
from mmkd.distiller.members.kinds.follower import Follower
from mmkd.distiller.members.kinds.made import Made
from mmkd.distiller.members.member import Member, check_member_key
from mmkd.distiller.members.reading import as_dict, name_members
from mmkd.distiller.members.renormalise import shared_preprocessor
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.stand_in import stand_in
from mmkd.distiller.members.stored import Stored, StoredMember
from mmkd.distiller.members.student import Student
from mmkd.distiller.members.teacher import Teacher
from mmkd.distiller.members.tracing import trace_member
from mmkd.distiller.objectives.class_logits import (
    check_class_logits,
    check_same_labels,
    label_set,
)
from mmkd.distiller.objectives.directions import check_directions
from mmkd.distiller.objectives.objective import (
    OBJECTIVE_KEYS,
    Objective,
    build_objective,
    check_name,
    refuse_no_objectives,
)
from mmkd.distiller.objectives.reads import learns
from mmkd.distiller.phases.phase import Phase, read_phases
from mmkd.distiller.probe import probe_batch, probing, try_objective
from mmkd.distiller.taps.points import is_point
from mmkd.distiller.taps.taps import Taps
from mmkd.methods.expand import expand, tell_expansion
from mmkd.noise.base import (
    SHARED,
    Noises,
    build_noises,
    refuse_label_noise,
    refuse_spoilt_labels,
)
from mmkd.structures.record import Record, Stream, Streams
from mmkd.tasks.base import check_same_classes, check_same_places
from mmkd.utils.checks import check_dict, check_keys, check_non_negative, nearest
from mmkd.utils.kinds import is_made

_OBJECTIVE = "dict(loss=dict(type='PixelWiseKLLoss'), on='logits')"


@dataclass
class Settings:
    """The arguments of a Distiller, see there; ``unknown`` are those that it does not have.

    A ``method`` that stands here could not be written out.
    """

    student: Any = None
    students: dict[str, Any] | None = None
    teacher: Any = None
    teachers: dict[str, Any] | None = None
    taps: dict[str, str] | None = None
    objectives: dict[str, dict] | None = None
    phases: list[dict] | None = None
    noise: list | None = None
    task_weight: float = 1.0
    method: Any = None
    data_preprocessor: dict | nn.Module | None = None
    predict_with: str | None = None
    init_cfg: dict | None = None
    unknown: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> 'Settings':
        """Read ``model=dict(type='mmkd.Distiller', …)``.

        >>> Settings.of(dict(type='mmkd.Distiller', student='a.py', techer='b.py')).unknown
        {'techer': 'b.py'}
        """
        given = {key: value for key, value in config.items() if key not in ('type', '_scope_')}
        known = {key: given.pop(key) for key in list(given) if key in ARGUMENTS}
        return cls(**known, unknown=given)

    def named(self, role: str) -> dict[str, Any]:
        """Return name -> value of the members of a role, as they are written."""
        return name_members(role, getattr(self, role), getattr(self, f'{role}s'))


def read_settings(config: Mapping[str, Any], mistakes: 'Mistakes | None' = None) -> Settings:
    """Read ``model=dict(type='mmkd.Distiller', …)``, its ``method`` written out.

    Args:
        config: The config of a Distiller.
        mistakes: What becomes of a mistake; None: it is raised.
    """
    if config.get('method') is not None:
        with (mistakes or RAISE).of():
            expanded, additions = expand(config)
            tell_expansion(config['method'], expanded, additions)
            config = expanded
    return Settings.of(config)


ARGUMENTS = tuple(f.name for f in fields(Settings) if f.name != 'unknown')


@dataclass
class Parts:
    """What a Distiller is made of, as far as it could be built.

    Args:
        members: Name -> description; a lost member is not among them.
        students: Name -> student.
        data_preprocessor: That of the batches; None: it could not be built.
        predict_with: The student that predicts.
        objectives: Name -> objective; a lost one is not among them.
        runs: Name -> the member at work, teachers first.
        made: Name -> description of a teacher that is made of other members.
        combined: Name -> the combination at work, after all members; a lost one is not among them.
        streams: What objectives read as running statistics.
        shared_noises: Noises on the batch that every member sees.
        phases: What each optimizer steps on.
        fitted: What the probe fitted, in words.
        known: Member -> taps that it offers, also of lost ones.
        critics: Objective -> whether it has a critic, also of those lost after they were built.
        reads: Objective -> ``'member.tap'`` that it reads of members that run, of these too.
        roles: Member -> its role, also of lost ones.
        lost: What was left out, in words.
        stopped: Whether nothing can be run.
        record: What the probe saw.
        size: Height and width of the images that it is probed on; None: the training's.
    """

    members: dict[str, Member] = field(default_factory=dict)
    students: dict[str, nn.Module] = field(default_factory=dict)
    data_preprocessor: nn.Module | None = None
    predict_with: str = ''
    objectives: dict[str, Objective] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    combined: dict[str, Combined] = field(default_factory=dict)
    streams: Streams = field(default_factory=Streams)
    shared_noises: Noises = field(default_factory=Noises)
    phases: list[Phase] = field(default_factory=list)
    fitted: list[str] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=dict)
    critics: dict[str, bool] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    stopped: bool = False
    record: Any = None
    size: tuple[int, int] | None = None

    @property
    def enough(self) -> bool:
        """Whether a Distiller can be made of them."""
        built = bool(self.students) and self.data_preprocessor is not None
        return built and not self.stopped and bool(self.objectives or not self.lost)

    def lose_member(self, name: str) -> None:
        """Leave out a member, and the objectives that read it."""
        self.lost.add(f'member {name}')
        for parts in (self.members, self.students, self.runs, self.made, self.combined):
            parts.pop(name, None)
        for one in [one for one in self.made.values() if name in one.of]:
            self.lose_member(one.name)
        for objective, reads in self.reads.items():
            if any(_owner(reference) == name for reference in reads):
                self.lose_objective(objective)

    def lose_objective(self, name: str) -> None:
        """Leave out an objective."""
        self.lost.add(f'objective {name}')
        self.objectives.pop(name, None)

    def lose_phases(self) -> None:
        """Leave out what the config says of phases."""
        self.lost.add('phases')

    def stop(self) -> None:
        """Leave out everything: what is left cannot be run."""
        self.stopped = True


Lose = Callable[[], None] | None


class Mistakes:
    """What becomes of a mistake: here it is raised at once."""

    @contextmanager
    def of(self, lose: Lose = None) -> Iterator[None]:
        """Enter a step that may find a mistake.

        Args:
            lose: Leaves out what the mistake is about, where it is collected.
        """
        yield


RAISE = Mistakes()


def assemble(
    settings: Settings, mistakes: Mistakes = RAISE, size: tuple[int, int] | None = None
) -> Parts:
    """Return the parts of a Distiller.

    Args:
        settings: Its arguments.
        mistakes: What becomes of a mistake.
        size: Height and width of the images that it is probed on; None takes the training's.
    """
    parts = Parts(size=size)
    settings = check_settings(settings, parts, mistakes)
    for step in (
        read_members,
        find_sources,
        build_students,
        build_objectives,
        run_students,
        run_teachers,
        compare_members,
        give_noises,
        tell_unheard,
        probe_members,
        probe_combined,
        cut_heads,
        fit_objectives,
        plan_phases,
    ):
        step(settings, parts, mistakes)
    return parts


def check_settings(settings: Settings, parts: Parts, mistakes: Mistakes) -> Settings:
    """Look at the arguments one by one; return those that can be used."""
    for key in settings.unknown:
        with mistakes.of():
            check_keys([key], ARGUMENTS, 'Distiller')
    taps: dict[str, str] = {}
    with mistakes.of():
        check_dict('taps', settings.taps, "taps=dict(logits='decode_head.conv_seg')")
        taps = settings.taps or {}
    with mistakes.of():
        check_non_negative('task_weight', settings.task_weight)
        if not settings.task_weight and not settings.objectives:
            raise ValueError(
                'task_weight=0 without objectives: nothing would be learned. Mend: leave '
                'task_weight out'
            )
    configs: dict[str, dict] = {}
    # A student alone on noise is the control of a teacher's worth; without noise it is plain
    # training.
    alone = settings.noise and settings.teacher is None and not settings.teachers
    with mistakes.of(parts.lose_phases):
        check_dict('objectives', settings.objectives, f'objectives=dict(pixel={_OBJECTIVE})')
        configs = settings.objectives or {}
        if not alone and settings.method is None:
            refuse_no_objectives(configs)
    objectives = {}
    for name, config in configs.items():
        with mistakes.of(partial(parts.lose_objective, name)):
            mend = f'{_OBJECTIVE}; or leave it out'
            check_dict(f'objective {name!r}', config or str(config), mend)
            objectives[name] = config
    return replace(settings, taps=taps, objectives=objectives)


def read_members(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Read how every member is written."""
    for role in ('student', 'teacher'):
        named = {role: getattr(settings, role)}  # after the mistake, go on with this one
        with mistakes.of():
            named = settings.named(role)
            for name in named:
                check_name(name, role)
        for name, value in named.items():
            if value is None:
                continue
            with mistakes.of(partial(parts.lose_member, name)):
                if name in parts.roles:
                    raise ValueError(f'a student and a teacher share a name: [{name!r}]')
                parts.roles[name] = role
                if is_made(value):
                    _refuse_made_student(name, role)
                    parts.made[name] = Made.read(name, value)
                    continue
                parts.known[name] = _tap_names(settings.taps, value)
                parts.members[name] = _read_member(name, role, value, mistakes)


def _refuse_made_student(name: str, role: str) -> None:
    if role == 'student':
        raise ValueError(
            f'student {name!r} has a kind, as teachers that are made of other members have. Mend: '
            "teachers=dict(ema=dict(kind='ema', of='student'))"
        )


def find_sources(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Find the members that teachers are made of, and what taps they offer."""
    for follows in (True, False):  # what copies offer, combinations of them may read
        for name in [name for name, made in parts.made.items() if made.follows == follows]:
            with mistakes.of(partial(parts.lose_member, name)):
                made = parts.made[name] = parts.made[name].resolved(parts.roles, parts.made)
                offered = [parts.known.get(one, []) for one in made.of]
                if follows:
                    parts.known[name] = list(dict.fromkeys([*offered[0], *made.taps]))
                    parts.members[name] = made.as_member(parts.members[made.of[0]])
                    continue
                parts.known[name] = _shared(offered)
                parts.combined[name] = Combined(name, made.of, made.build())


def _shared(offered: list[list[str]]) -> list[str]:
    """Return what all of several lists hold.

    >>> _shared([['logits', 'feat'], ['logits']])
    ['logits']
    """
    return list(filter(set(offered[0]).intersection(*offered).__contains__, offered[0]))


def _tap_names(shared: Any, value: Any) -> list[str]:
    """Return which taps a member offers, whatever else may be wrong with it."""
    own = value.get('taps') if isinstance(value, dict) else None
    return list({**shared, **(own if isinstance(own, dict) else {})})


def _read_member(name: str, role: str, value: Any, mistakes: Mistakes) -> Member:
    value = as_dict(value, f'{role} {name!r}')
    if 'kind' in value:
        return StoredMember.read_stored(name, role, value)
    for key in list(value):
        with mistakes.of():
            kept = value.pop(key)
            check_member_key(name, role, key)
            value[key] = kept
    member = Member.read(name, role, value)
    with mistakes.of():
        member.refuse_untrained()
    return member


def build_students(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build the students, the first from the run's generator as a plain run would."""
    for name, member in list(parts.members.items()):
        if member.role != 'student':
            continue
        with mistakes.of(partial(parts.lose_member, name)):
            if parts.students:
                with own_draws('student', name):
                    parts.students[name] = _build(member, parts, mistakes)
            else:
                parts.students[name] = _build(member, parts, mistakes)
    with mistakes.of():
        check_same_classes(parts.students, 'the students')  # they learn from one batch
    scope = next((parts.members[name].scope for name in parts.students), 'mmseg')
    with mistakes.of(parts.stop):
        parts.data_preprocessor = shared_preprocessor(
            settings.data_preprocessor, parts.students, scope
        )
    if parts.size is not None and parts.data_preprocessor is not None:
        set_size(parts.data_preprocessor, parts.size)
    parts.predict_with = next(iter(parts.students), '')
    with mistakes.of():
        parts.predict_with = _predicting(settings.predict_with, parts)


def set_size(preprocessor: Any, size: tuple[int, int]) -> None:
    """Have a data preprocessor pad to this size, whatever its config says."""
    own = getattr(preprocessor, 'size', None), getattr(preprocessor, 'size_divisor', None)
    preprocessor.padded_to = getattr(preprocessor, 'padded_to', own)
    preprocessor.size = size
    if hasattr(preprocessor, 'size_divisor'):
        preprocessor.size_divisor = None  # mmseg takes one of the two


def as_configured(preprocessor: Any) -> Any:
    """Return a copy of a data preprocessor that pads as its config says, see :func:`set_size`."""
    made = copy.deepcopy(preprocessor)
    if hasattr(made, 'padded_to'):
        made.size, divisor = made.padded_to
        if hasattr(made, 'size_divisor'):
            made.size_divisor = divisor
    return made


def _build(member: Member, parts: Parts, mistakes: Mistakes) -> nn.Module:
    """Build a member's model; where its checkpoint is the mistake, go on without."""
    model = member.make()
    with mistakes.of(partial(_forget_checkpoint, member, parts)):
        member.load(model)
    return model


def _forget_checkpoint(member: Member, parts: Parts) -> None:
    parts.members[member.name] = replace(member, checkpoint=None)


def _predicting(name: str | None, parts: Parts) -> str:
    if name is not None and name not in parts.students:
        raise KeyError(
            f'predict_with={name!r} names no student{nearest(str(name), parts.students)} '
            f'(students: {list(parts.students)})'
        )
    return name or next(iter(parts.students), '')


def build_objectives(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build every objective, its weights drawn by its own name."""
    for tap in dict.fromkeys(tap for taps in parts.known.values() for tap in taps):
        with mistakes.of():
            check_name(tap, 'tap')
    for name, config in (settings.objectives or {}).items():
        with mistakes.of(partial(parts.lose_objective, name)):
            config = _known_keys(name, config, mistakes)
            with own_draws('objective', name):
                objective = build_objective(name, config, parts.known)
            parts.critics[name] = objective.adversarial
            parts.reads[name] = spread(objective.references, parts.combined)
            _refuse_name_of_student(name, parts)
            parts.objectives[name] = objective
        if any(_owner(one) not in parts.members for one in parts.reads.get(name, ())):
            parts.lose_objective(name)  # the member's own mistake says enough


def _known_keys(name: str, config: dict, mistakes: Mistakes) -> dict:
    config = dict(config)
    for key in [key for key in config if key not in OBJECTIVE_KEYS]:
        with mistakes.of():
            del config[key]
            check_keys([key], OBJECTIVE_KEYS, f'objective {name!r}')
    return config


def _refuse_name_of_student(name: str, parts: Parts) -> None:
    if name in parts.students:
        raise ValueError(
            f'objective {name!r} is called like a student, whose own losses are logged under that '
            'name. Mend: another name'
        )


def run_students(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Give the students the taps that objectives read."""
    prefixed = len(parts.students) > 1
    for name, model in list(parts.students.items()):
        with mistakes.of(partial(parts.lose_member, name)):
            taps = _used_taps(settings, parts, name, model, mistakes)
            prefix = f'{name}.' if prefixed else ''
            learns = bool(settings.task_weight)
            parts.runs[name] = Student(parts.members[name], model, taps, prefix, learns)


def run_teachers(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build the teachers, each by its own draws; they come first in what is run."""
    teachers: dict[str, Run] = {}
    source = parts.data_preprocessor
    for name in [name for name, role in parts.roles.items() if role == 'teacher']:
        if source is None or name not in parts.members:
            continue
        with mistakes.of(partial(parts.lose_member, name)), own_draws('teacher', name):
            member = parts.members[name]
            if name in parts.made:
                teachers[name] = _copy_of_student(settings, parts, name, source, mistakes)
                continue
            if isinstance(member, StoredMember):
                taps = _stored_taps(settings, parts, member, mistakes)
                teachers[name] = Stored(member, taps, source)
                continue
            model = _build(member, parts, mistakes)
            _refuse_shared(name, model, parts.students)
            taps = _used_taps(settings, parts, name, model, mistakes)
            teachers[name] = Teacher(member, taps, source, model)
    parts.runs = {**teachers, **parts.runs}


def _refuse_shared(name: str, model: nn.Module, students: Mapping[str, nn.Module]) -> None:
    """Refuse a teacher that holds a part of a student: freezing the one would freeze the other."""
    own = {id(part): path for path, part in model.named_modules() if _has_state(part)}
    for student, other in students.items():
        for path, part in other.named_modules():
            if id(part) in own:
                raise ValueError(
                    f'teacher {name!r} and student {student!r} share the module '
                    f'{path or "itself"!r}: what is frozen in the one could not learn in the '
                    'other. Mend: a model each, copy.deepcopy of a module that is built already'
                )


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _copy_of_student(
    settings: Settings, parts: Parts, name: str, source: nn.Module, mistakes: Mistakes
) -> Follower:
    made, member = parts.made[name], parts.members[name]
    student = parts.students[made.of[0]]
    # its own weights may be uninitialised memory still
    copied = stand_in(student, member.where, torch.Generator().manual_seed(0)).eval()
    taps = _used_taps(settings, parts, name, copied, mistakes)
    return Follower(member, taps, source, copied, student, made.build())


def _used_taps(
    settings: Settings, parts: Parts, name: str, model: nn.Module, mistakes: Mistakes
) -> dict[str, str]:
    """Return the taps of a member that objectives read; those that it lacks cost the objectives."""
    member = parts.members[name]
    paths = {**(settings.taps or {}), **member.taps}
    read = [tap for reads in parts.reads.values() for tap in _taps_of(name, reads)]
    if any(is_point(paths[tap]) for tap in read):
        paths |= _choose_points(parts, member, model, {tap: paths[tap] for tap in read}, mistakes)
    for objective, reads in list(parts.reads.items()):  # each is looked at, not only the first
        for tap in _taps_of(name, reads):
            if is_point(paths[tap]):  # none was found, which is said already
                continue
            with mistakes.of(partial(parts.lose_objective, objective)):
                Taps(model, {tap: paths[tap]}, member.where)
    return {tap: paths[tap] for tap in read_taps(name, parts.objectives, parts.combined)}


def _stored_taps(
    settings: Settings, parts: Parts, member: StoredMember, mistakes: Mistakes
) -> dict[str, str]:
    """Return the taps of a stored teacher that objectives read, and under which names they lie."""
    paths = {**(settings.taps or {}), **member.taps}
    found = {}
    for objective, reads in list(parts.reads.items()):
        for tap in _taps_of(member.name, reads):
            with mistakes.of(partial(parts.lose_objective, objective)):
                found[tap] = member.find(tap, paths[tap])
    taps = {tap: found[tap] for tap in read_taps(member.name, parts.objectives, parts.combined)}
    told = ', '.join(f'{tap} = {member.stored.taps[key].path}' for tap, key in taps.items())
    parts.fitted.append(f'{member.where}: stored in {member.path}, {told or "and not read"}')
    return taps


def _choose_points(
    parts: Parts, member: Member, model: nn.Module, paths: dict[str, str], mistakes: Mistakes
) -> dict[str, str]:
    """Return the taps of a member that name points, as the paths that they stand for."""
    if parts.data_preprocessor is None or not parts.students:
        return {}
    with probing():
        batch = probe_batch(parts.students, parts.data_preprocessor)
        traced = trace_member(member, model, batch)
    chosen = {}
    for tap, path in paths.items():
        if not is_point(path):
            continue
        with mistakes.of(partial(_lose_tap, parts, member.name, tap)):
            chosen[tap] = traced.choose(tap, path, member.where)
    if chosen:
        told = ', '.join(f'{tap} = {path}' for tap, path in chosen.items())
        parts.fitted.append(f'{member.where}: {told}')
    return chosen


def _lose_tap(parts: Parts, member: str, tap: str) -> None:
    for objective, reads in list(parts.reads.items()):
        if tap in _taps_of(member, reads):
            parts.lose_objective(objective)


def read_taps(
    member: str, objectives: Mapping[str, Objective], combined: Mapping[str, Combined]
) -> list[str]:
    """Return which taps of a member objectives read, themselves or by combinations."""
    reads = [reference for one in objectives.values() for reference in one.references]
    return _taps_of(member, spread(reads, combined))


def _taps_of(member: str, reads: list[str]) -> list[str]:
    named = [reference.split('.', 1) for reference in reads]
    return list(dict.fromkeys(tap for owner, tap in named if owner == member))


def _owner(reference: str) -> str:
    return reference.split('.', 1)[0]


def compare_members(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Refuse tensors that do not mean the same; tell objectives what classes they see."""
    for name, objective in list(parts.objectives.items()):
        with mistakes.of(partial(parts.lose_objective, name)):
            tapped, label_sets = {}, {}
            for reference in objective.references:
                member, tap = spread([reference], parts.combined)[0].split('.', 1)
                run = parts.runs[member]
                path = run.taps.paths[tap]
                side = f':{path.side}' * (path.side not in ('output', 'scores'))
                tapped[reference] = run.model, f'{path.module}{side}'
                label_sets[reference] = label_set(run.model, parts.members[member].classes)
            check_same_places(name, tapped, objective.compares_channels)
            objective.label_sets = label_sets


def probe_combined(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build the combinations, and run each once on what members said."""
    for name, combined in list(parts.combined.items()) if parts.enough else ():
        with mistakes.of(partial(_lose_combined, parts, name)), probing():
            _check_combined(combined, parts)
            made = combined.build(parts.record)
            parts.fitted += [made] * bool(made)
            parts.record.add(name, combined(parts.record))


_NO_CLASSES = (
    "Mend: a tap of class logits, such as 'auto'; of features dict(kind='mean', space='values', "
    'of=[…])'
)


def _check_combined(combined: Combined, parts: Parts) -> None:
    name = combined.name
    reads = [one.reads for one in parts.objectives.values()]
    references = [reference for one in parts.objectives.values() for reference in one.references]
    combined.taps = _taps_of(name, references)
    _refuse_other_classes(combined, parts.objectives.values())
    labels = {one: label_set(parts.runs[one].model) for one in combined.of}
    check_same_labels(combined.where, labels)
    for tap in combined.taps if combined.rule.reads_classes else ():
        for one in combined.of:
            what = f'{combined.where}: tap {tap!r} of {one!r}'
            value, images = parts.record[one][tap], len(parts.record.batch.inputs)
            check_class_logits(what, value, labels[one], images, _NO_CLASSES)
    if not combined.rule.learns or not combined.taps:
        return
    trained = [read[argument] for read in reads for argument in read if learns(argument)]
    if not any(str(one).startswith(f'{name}.') for one in trained):
        raise ValueError(
            f'{combined.where} has weights, which no objective trains. Mend: an objective that '
            f"reads it as student: gate=dict(loss=dict(type='MixedTargetCELoss'), reads=dict("
            f"student='{name}.logits', labels='batch.labels'))"
        )
    if len(combined.taps) > 1:
        raise ValueError(
            f'{combined.where} has weights for one tap, but {combined.taps} of it are read. Mend: '
            'a second one of this kind'
        )


def _refuse_other_classes(combined: Combined, objectives: Iterable[Objective]) -> None:
    """Refuse labels looked up among the classes of members that are not the labels'."""
    for objective in objectives if combined.rule.reads_labels else ():
        owners = map(_owner, objective.references)
        if objective.class_map is not None and combined.name in owners:
            raise ValueError(
                f'{combined.where} looks for the label among the classes of its members, and '
                f'objective {objective.name!r} makes classes of the student of them afterwards '
                "(class_map). Mend: kind='mean', which reads no labels"
            )


def _lose_combined(parts: Parts, name: str) -> None:
    parts.combined.pop(name, None)
    for objective in list(parts.objectives.values()):
        if any(_owner(reference) == name for reference in objective.references):
            parts.lose_objective(objective.name)


def give_noises(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build the noises and give them to the members that they act on."""
    source = parts.data_preprocessor
    if source is None:
        return
    with mistakes.of():
        hosts = {name: run.host(source) for name, run in parts.runs.items()}
        noises = build_noises(settings.noise, hosts)
        if not settings.task_weight:
            refuse_label_noise(noises)
        refuse_spoilt_labels(noises[SHARED], labels_read_by(settings, parts))
        parts.shared_noises = noises.pop(SHARED)
        for name, own in noises.items():
            parts.runs[name].noises = own


def tell_unheard(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Say which teachers no step runs; of a stored one it is said already."""
    for run in parts.runs.values():
        if run.live and not run.heard:
            parts.fitted.append(f'{run.where} is read by no objective, so no step runs it')


def labels_read_by(settings: Settings, parts: Parts) -> list[str]:
    """Return who reads labels of the batch, as errors call them."""
    own = ["the students' own losses (task_weight above 0)"] if settings.task_weight else []
    reading = [name for name, one in parts.objectives.items() if one.reads_annotations]
    choosing = [one.where for one in parts.combined.values() if one.rule.reads_labels]
    return [*own, *(f'objective {name!r}' for name in reading), *choosing]


def probe_members(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Run every member once on generated images; what a tap cannot read costs its objectives."""
    source = parts.data_preprocessor
    if source is None or not parts.enough:
        return
    with mistakes.of(parts.stop), probing():
        parts.record = Record(probe_batch(parts.students, source))
    for name, run in parts.runs.items() if not parts.stopped else ():
        with mistakes.of(partial(_drop_noises, run)), probing():
            run.check_noises(parts.record.batch)
        with mistakes.of(partial(_probe_taps, name, run, parts, mistakes)), probing():
            parts.record.add(name, run.probe(parts.record.batch))


def _drop_noises(run: Run) -> None:
    run.noises = Noises()


def _probe_taps(name: str, run: Run, parts: Parts, mistakes: Mistakes) -> None:
    """Find out which taps cannot be read, and go on with the others."""
    alone = copy.copy(run)
    good = []
    for tap in list(run.taps.paths):
        alone.taps = run.taps.only([tap])
        with mistakes.of(), probing():
            alone.probe(parts.record.batch)
            good.append(tap)
    if not good:
        parts.stop()
        return
    for objective, reads in list(parts.reads.items()):
        if set(_taps_of(name, reads)) - set(good):
            parts.lose_objective(objective)
    run.taps = run.taps.only(good)
    with mistakes.of(parts.stop), probing():
        parts.record.add(name, run.probe(parts.record.batch))


def cut_heads(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Find the ends of teachers that students' tensors pass."""
    for name, objective in list(parts.objectives.items()) if parts.enough else ():
        if objective.through is None:
            continue
        with mistakes.of(partial(parts.lose_objective, name)), probing():
            parts.fitted.append(objective.through.cut(parts.runs, parts.record.batch))


def fit_objectives(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Run every objective once, which fits connectors and critics."""
    for name, objective in list(parts.objectives.items()) if parts.enough else ():
        with mistakes.of(partial(parts.lose_objective, name)):
            objective.bind(parts.runs)
            parts.fitted += try_objective(objective, parts.record, parts.runs.values())
            objective.bind(parts.runs)  # what came from a file belongs to these members
    if parts.enough:
        with mistakes.of(parts.stop):
            check_directions(parts.objectives, parts.runs, parts.record)
    parts.streams = streams_of(parts.objectives, parts.students, parts.combined)


def streams_of(
    objectives: Mapping[str, Objective],
    students: Mapping[str, Any],
    combined: Mapping[str, Combined],
) -> Streams:
    """Return what is kept as running statistics, of teachers in place of the tensors."""
    streams: list[Stream] = []
    kept: list[str] = []
    for objective in objectives.values():
        streams += objective.running()
        kept += objective.kept
        own = [one for one in objective.references if _owner(one) in combined]
        kept += spread(own, combined)
    # a student's map is held by its graph in any case
    references = [reference for stream in streams for reference in stream.references]
    kept += [reference for reference in references if _owner(reference) in students]
    return Streams(streams, kept)


def plan_phases(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Read which objectives each optimizer steps on; implicit phases where some are lost."""
    students = [name for name, role in parts.roles.items() if role == 'student']
    if len(parts.critics) == len(settings.objectives or {}) and 'phases' not in parts.lost:
        with mistakes.of(parts.lose_phases):
            parts.phases = read_phases(settings.phases, parts.critics, students)
    if parts.lost:
        critics = {name: objective.adversarial for name, objective in parts.objectives.items()}
        parts.phases = read_phases(None, critics, list(parts.students))
