"""Assembly: from a config to the parts of a Distiller, step by step.

Each step leaves out what it refuses. What becomes of a mistake, its :class:`Mistakes` decide: they
are raised at once, or collected by the doctor, which goes on with what is left.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd.distiller.draws import own_draws
from mmkd.distiller.members.member import Member, check_member_key
from mmkd.distiller.members.reading import as_dict, name_members
from mmkd.distiller.members.renormalise import Renormalise
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.student import Student
from mmkd.distiller.members.teacher import Teacher
from mmkd.distiller.objectives.class_logits import label_set
from mmkd.distiller.objectives.objective import (
    OBJECTIVE_KEYS,
    Objective,
    build_objective,
    check_name,
    refuse_no_objectives,
)
from mmkd.distiller.phases.phase import Phase, read_phases
from mmkd.distiller.probe import probe, try_objective
from mmkd.distiller.taps.taps import Taps
from mmkd.noise.base import build_noises, refuse_label_noise
from mmkd.structures.record import Stream, Streams
from mmkd.tasks.base import check_same_classes, check_same_places
from mmkd.utils.checks import check_dict, check_keys, check_non_negative, nearest

_OBJECTIVE = "dict(loss=dict(type='PixelWiseKLLoss'), on='logits')"


@dataclass
class Settings:
    """The arguments of a Distiller, see there; ``unknown`` are those that it does not have."""

    student: Any = None
    students: dict[str, Any] | None = None
    teacher: Any = None
    teachers: dict[str, Any] | None = None
    taps: dict[str, str] | None = None
    objectives: dict[str, dict] | None = None
    phases: list[dict] | None = None
    noise: list | None = None
    task_weight: float = 1.0
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


ARGUMENTS = tuple(f.name for f in fields(Settings) if f.name != 'unknown')


@dataclass
class Parts:
    """What a Distiller is made of, as far as it could be built."""

    known: dict[str, list[str]] = field(default_factory=dict)  # member -> taps, also of lost ones
    learners: list[str] = field(default_factory=list)  # students, also lost ones
    members: dict[str, Member] = field(default_factory=dict)
    students: dict[str, nn.Module] = field(default_factory=dict)
    data_preprocessor: nn.Module | None = None
    predict_with: str = ''
    objectives: dict[str, Objective] = field(default_factory=dict)
    critics: dict[str, bool] = field(default_factory=dict)  # also of lost ones
    reads: dict[str, list[str]] = field(default_factory=dict)  # objective -> 'member.tap's, as well
    runs: dict[str, Run] = field(default_factory=dict)
    streams: Streams = field(default_factory=Streams)
    phases: list[Phase] = field(default_factory=list)
    fitted: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    @property
    def enough(self) -> bool:
        """Whether a Distiller can be made of them."""
        stopped = {'(data_preprocessor)', '(probe)'} & self.lost
        return bool(self.students) and not stopped and bool(self.objectives or not self.lost)

    def teachers(self) -> dict[str, Member]:
        """Return the descriptions of the teachers."""
        return {name: one for name, one in self.members.items() if one.role == 'teacher'}

    def lose(self, name: str) -> None:
        """Leave out a member or an objective, and the objectives that read the member."""
        self.lost.add(name)
        self.members.pop(name, None)
        self.students.pop(name, None)
        self.objectives.pop(name, None)
        for other, objective in list(self.objectives.items()):
            if any(reference.split('.')[0] == name for reference in objective.references):
                self.lose(other)


class Mistakes:
    """What becomes of a mistake: here it is raised at once."""

    @contextmanager
    def of(self, parts: Parts | None = None, name: str = '') -> Iterator[None]:
        """Enter a step that may find a mistake; collected, it costs the parts what is called so."""
        yield


RAISE = Mistakes()


def assemble(settings: Settings, mistakes: Mistakes = RAISE) -> Parts:
    """Return the parts of a Distiller.

    Args:
        settings: Its arguments.
        mistakes: What becomes of a mistake.
    """
    parts = Parts()
    for step in (
        check_settings,
        read_members,
        build_students,
        build_objectives,
        run_students,
        run_teachers,
        compare_members,
        give_noises,
        plan_phases,
        fit_objectives,
    ):
        step(settings, parts, mistakes)
    return parts


def check_settings(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Look at the arguments one by one."""
    for key in settings.unknown:
        with mistakes.of():
            check_keys([key], ARGUMENTS, 'Distiller')
    with mistakes.of():
        check_dict('taps', settings.taps, "taps=dict(logits='decode_head.conv_seg')")
    with mistakes.of():
        check_dict('objectives', settings.objectives, f'objectives=dict(pixel={_OBJECTIVE})')
    with mistakes.of():
        check_non_negative('task_weight', settings.task_weight)
        if not settings.task_weight and not settings.objectives:
            raise ValueError(
                'task_weight=0 without objectives: nothing would be learned. Mend: leave '
                'task_weight out'
            )


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
            if role == 'student':
                parts.learners.append(name)
            with mistakes.of(parts, name):
                if name in parts.known:
                    raise ValueError(f'a student and a teacher share a name: [{name!r}]')
                parts.known[name] = _tap_names(settings.taps, value)
                parts.members[name] = _read_member(name, role, value, mistakes)


def _tap_names(shared: Any, value: Any) -> list[str]:
    """Return which taps a member offers, whatever else may be wrong with it."""
    own = value.get('taps') if isinstance(value, dict) else None
    return [tap for taps in (shared, own) if isinstance(taps, Mapping) for tap in taps]


def _read_member(name: str, role: str, value: Any, mistakes: Mistakes) -> Member:
    value = as_dict(value, f'{role} {name!r}')
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
        if member.role == 'student':
            with mistakes.of(parts, name):
                if parts.students:
                    with own_draws('student', name):
                        parts.students[name] = _build(member, mistakes)
                else:
                    parts.students[name] = _build(member, mistakes)
    with mistakes.of():
        check_same_classes(parts.students, 'the students')  # they learn from one batch
    with mistakes.of(parts, '(data_preprocessor)'):
        parts.data_preprocessor = _preprocessor(settings.data_preprocessor, parts)
    parts.predict_with = next(iter(parts.students), '')
    with mistakes.of():
        parts.predict_with = _predicting(settings.predict_with, parts)


def _build(member: Member, mistakes: Mistakes) -> nn.Module:
    """Build a member's model; where its checkpoint is the mistake, go on without."""
    model = member.make()
    with mistakes.of():
        member.load(model)
    return model


def _preprocessor(given: Any, parts: Parts) -> nn.Module:
    """Return the data preprocessor that was given, or the first student's own."""
    own: dict[str, Any] = {
        name: getattr(student, 'data_preprocessor', None)
        for name, student in parts.students.items()
    }
    first = next(iter(own), '')
    if given is None:
        _refuse_other_preprocessors(first, own)
        given = own.get(first)
    if isinstance(given, nn.Module):
        return given
    scope = parts.members[first].scope if first else 'mmseg'
    return ROOT_MODELS.build(
        dict(type='BaseDataPreprocessor') if given is None else {'_scope_': scope, **given}
    )


def _refuse_other_preprocessors(first: str, own: dict[str, Any]) -> None:
    for name, other in own.items():
        both = own[first] is not None and other is not None
        if both and Renormalise(own[first], other).changes:
            raise ValueError(
                f'the students {first!r} and {name!r} have data preprocessors of different mean, '
                'std, padding value or channel order, but see one batch. Mend: '
                'data_preprocessor=dict(...) for all of them'
            )


def _predicting(name: str | None, parts: Parts) -> str:
    if name is not None and name not in parts.students:
        raise KeyError(
            f'predict_with={name!r} names no student{nearest(str(name), parts.students)} '
            f'(students: {list(parts.students)})'
        )
    return name or next(iter(parts.students), '')


def build_objectives(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build every objective, its weights drawn by its own name."""
    for taps in parts.known.values():
        for tap in taps:
            with mistakes.of():
                check_name(tap, 'tap')
    # A student alone on noise is the control of a teacher's worth; without noise it is plain
    # training.
    if settings.noise and not settings.objectives and not parts.teachers():
        return
    configs = settings.objectives if isinstance(settings.objectives, Mapping) else {}
    with mistakes.of():
        refuse_no_objectives(configs)
    for name, config in configs.items():
        with mistakes.of(parts, name):
            check_dict(
                f'objective {name!r}', config or str(config), f'{_OBJECTIVE}; or leave it out'
            )
            config = dict(config)
            for key in [key for key in config if key not in OBJECTIVE_KEYS]:
                with mistakes.of():
                    del config[key]
                    check_keys([key], OBJECTIVE_KEYS, f'objective {name!r}')
            with own_draws('objective', name):
                parts.objectives[name] = build_objective(name, config, parts.known)
            parts.critics[name] = parts.objectives[name].adversarial
            parts.reads[name] = parts.objectives[name].references
            if any(reference.split('.')[0] in parts.lost for reference in parts.reads[name]):
                parts.lose(name)  # the member's own mistake says enough
    for name in [name for name in parts.objectives if name in parts.students]:
        with mistakes.of(parts, name):
            if len(parts.students) > 1:
                raise ValueError(
                    f'objective {name!r} is called like a student, whose own losses are logged '
                    'under that name. Mend: another name'
                )


def run_students(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Give the students the taps that objectives read."""
    for name, model in list(parts.students.items()):
        taps = _used_taps(settings, parts, name, model, mistakes)
        prefix = '' if len(parts.students) == 1 else f'{name}.'
        with mistakes.of(parts, name):
            parts.runs[name] = Student(parts.members[name], model, taps, prefix)


def run_teachers(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Build the teachers, each by its own draws; they come first in what is run."""
    teachers: dict[str, Run] = {}
    source = parts.data_preprocessor
    for name, member in parts.teachers().items():
        if source is None:
            parts.lose(name)
            continue
        with mistakes.of(parts, name), own_draws('teacher', name):
            model = _build(member, mistakes)
            taps = _used_taps(settings, parts, name, model, mistakes)
            teachers[name] = Teacher(member, taps, source, model)
    parts.runs = {**teachers, **parts.runs}


def _used_taps(
    settings: Settings, parts: Parts, name: str, model: nn.Module, mistakes: Mistakes
) -> dict[str, str]:
    """Return the taps of a member that objectives read; those that it lacks cost the objectives."""
    member = parts.members[name]
    paths = {**(settings.taps or {}), **member.taps}
    used = {}
    for objective, reads in parts.reads.items():  # each is looked at, not only the first
        for tap in _taps_of(name, reads):
            with mistakes.of(parts, objective):
                Taps(model, {tap: paths[tap]}, member.where)
            if objective in parts.objectives:
                used[tap] = paths[tap]
    return used


def _taps_of(member: str, reads: list[str]) -> list[str]:
    named = [reference.split('.', 1) for reference in reads]
    return list(dict.fromkeys(tap for owner, tap in named if owner == member))


def compare_members(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Refuse tensors that do not mean the same; tell objectives what classes they see."""
    for name, objective in list(parts.objectives.items()):
        with mistakes.of(parts, name):
            tapped = {}
            for reference in objective.references:
                member, tap = reference.split('.', 1)
                run = parts.runs[member]
                tapped[reference] = run.model, run.taps.paths[tap].module
            check_same_places(name, tapped, objective.compares_channels)
            objective.label_sets = {r: label_set(model) for r, (model, _) in tapped.items()}


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
        for name, own in noises.items():
            parts.runs[name].noises = own


def plan_phases(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Read which objectives each optimizer steps on; implicit phases where some are lost."""
    built = len(parts.critics) == len(settings.objectives or {})
    with mistakes.of(parts, '(phases)'):
        if built:
            parts.phases = read_phases(settings.phases, parts.critics, parts.learners)
    if parts.lost:
        _implicit_phases(parts)


def _implicit_phases(parts: Parts) -> None:
    critics = {name: objective.adversarial for name, objective in parts.objectives.items()}
    parts.phases = read_phases(None, critics, list(parts.students))


def fit_objectives(settings: Settings, parts: Parts, mistakes: Mistakes) -> None:
    """Run members and objectives once on generated images; fits connectors and critics."""
    parts.streams = _streams(parts)
    source = parts.data_preprocessor
    if source is None or not parts.enough:
        return
    lost = len(parts.lost)
    with mistakes.of(parts, '(probe)'):
        record = probe(parts.runs, parts.streams, source, parts.predict_with)
        for name, objective in list(parts.objectives.items()):
            with mistakes.of(parts, name):
                parts.fitted += try_objective(objective, record)
                objective.bind(parts.runs)  # what came from a file belongs to these members
    if len(parts.lost) > lost:
        _implicit_phases(parts)


def _streams(parts: Parts) -> Streams:
    """Return what is kept as running statistics, of teachers in place of the tensors."""
    streams: list[Stream] = []
    kept: list[str] = []
    for objective in parts.objectives.values():
        streams += objective.running()
        kept += objective.kept
    # a student's map is held by its graph in any case
    references = [reference for stream in streams for reference in stream.references]
    kept += [one for one in references if one.split('.')[0] in parts.students]
    return Streams(streams, kept)
