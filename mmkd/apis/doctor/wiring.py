"""Builds a config's model and names every mistake in it, not only the first."""

import copy
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmkd.apis.doctor.report import Report
from mmkd.apis.launch import is_distiller
from mmkd.distiller.distiller import ARGUMENTS, Distiller
from mmkd.distiller.members.member import COMMON_KEYS, TEACHER_KEYS, Member, as_dict, name_members
from mmkd.distiller.objectives.objective import OBJECTIVE_KEYS, build_objective, build_objectives
from mmkd.distiller.objectives.references import references
from mmkd.distiller.phases.phase import read_phases
from mmkd.distiller.taps.taps import Taps
from mmkd.utils.checks import check_keys


@dataclass
class Wiring:
    """What could be built.

    Args:
        model: The model; where parts were broken, of the parts that were not; None where that is
            too little.
        students: Name -> student, those that could be built.
        whole: Whether nothing of the config was left out, unknown keys and checkpoints aside.
    """

    model: Any = None
    students: dict[str, nn.Module] = field(default_factory=dict)
    whole: bool = False


def build_model(cfg: Config, report: Report) -> Wiring:
    """Build the model of a config; every mistake goes to the report."""
    try:
        model = MODELS.build(copy.deepcopy(cfg.model))  # mmseg writes into what it builds from
    except Exception as error:
        known = len(report.errors)
        wiring = _Parts(cfg.model, report).build() if is_distiller(cfg) else Wiring()
        if len(report.errors) == known:
            report.error(error)
        return wiring
    return Wiring(
        model, dict(model.students.items()) if is_distiller(cfg) else {'student': model}, whole=True
    )


class _Parts:
    """Checks each part of a Distiller by itself and leaves out what is broken."""

    def __init__(self, config: dict, report: Report) -> None:
        self.report = report
        self.config = {key: config[key] for key in config if key not in ('type', '_scope_')}
        self._drop_unknown(self.config, ARGUMENTS, 'Distiller')
        self.models: dict[str, nn.Module] = {}
        self.lost: set[str] = set()
        self.whole = True

    def build(self) -> Wiring:
        """Return a Distiller of what is left."""
        shared = dict(self.config.pop('taps', None) or {})
        members = {role: self._members(role) for role in ('student', 'teacher')}
        paths = {
            name: {**shared, **(value.get('taps') or {})}
            for named in members.values()
            for name, value in named.items()
        }
        students = {name: self.models[name] for name in members['student'] if name in self.models}
        objectives = self._objectives(
            {name: list(taps) for name, taps in paths.items()}, paths, list(members['student'])
        )
        if not students or not objectives:
            return Wiring(None, students)
        arguments = dict(
            students={name: dict(model=self.models[name], taps=paths[name]) for name in students},
            teachers={
                name: dict(
                    model=self.models[name], taps=paths[name], input_size=value.get('input_size')
                )
                for name, value in members['teacher'].items()
                if name in self.models
            },
            **{
                key: self.config[key]
                for key in ('data_preprocessor', 'predict_with', 'phases')
                if key in self.config
            },
        )
        self.whole = self.whole and not self.lost
        return Wiring(self._distiller(arguments, objectives), students, self.whole)

    def _members(self, role: str) -> dict[str, dict]:
        one, many = self.config.pop(role, None), self.config.pop(f'{role}s', None)
        named = self._try(name_members, role, one, many)
        if named is None:  # after the mistake, go on with what there is
            named = {} if one is None else {role: one}
        return {name: self._member(name, role, value) for name, value in named.items()}

    def _member(self, name: str, role: str, value: Any) -> dict:
        """Build one member, without its checkpoint where that is what fails; return its config."""
        value = self._try(as_dict, value, f'{role} {name!r}')
        if value is None:
            self.lost.add(name)
            return {}
        allowed = COMMON_KEYS + (TEACHER_KEYS if role == 'teacher' else ())
        clean = {key: value[key] for key in value if key in allowed}
        untrained = {
            **clean,
            'checkpoint': None,
            **(dict(allow_untrained=True) if role == 'teacher' else {}),
        }
        for key in set(value) - set(clean):
            self._try(Member.parse, name, role, {**untrained, key: value[key]})
        for attempt in (clean, untrained):
            model = self._try(lambda attempt=attempt: Member.parse(name, role, attempt).build())
            if model is not None:
                self.models[name] = model
                return clean
        self.lost.add(name)
        return clean

    def _objectives(
        self, known: dict[str, list[str]], paths: dict[str, dict[str, str]], students: list[str]
    ) -> dict[str, dict]:
        """Return the objectives that can be built and whose taps exist; check the phases against all of them."""
        configs = dict(self.config.pop('objectives', None) or {})
        if not configs:
            self._try(build_objectives, configs, known)
        good, critics = {}, {}
        for name, config in configs.items():
            config = dict(config)
            self._drop_unknown(config, OBJECTIVE_KEYS, f'objective {name!r}')
            objective = self._try(build_objective, name, config, known)
            if objective is None:
                continue
            critics[name] = objective.adversarial
            reads = [
                reference.split('.', 1)
                for read in objective.reads.values()
                for reference in references(read)
            ]
            taps = [
                self._tap(member, tap, paths) for member, tap in reads
            ]  # each is looked at, not only the first
            if all(taps):
                good[name] = config
        phases = self.config.get('phases')
        if (
            len(critics) == len(configs)
            and self._try(read_phases, phases, critics, students) is None
        ):
            self.whole = False
        self.whole = self.whole and len(good) == len(configs)
        if not self.whole:
            self.config.pop('phases', None)  # they may name what is not there
        return good

    def _tap(self, member: str, tap: str, paths: dict[str, dict[str, str]]) -> bool:
        if member in self.lost:
            return False  # the member's own error says enough
        where = member if member in ('student', 'teacher') else f'member {member!r}'
        return self._try(Taps, self.models[member], {tap: paths[member][tap]}, where) is not None

    def _distiller(self, arguments: dict, objectives: dict[str, dict]) -> Distiller | None:
        """Build what is left; where shapes do not fit, find out in which objectives."""
        whole = self._attempt(arguments, objectives)
        if isinstance(whole, Distiller):
            return whole
        alone = {**arguments, 'phases': None}
        failed = {
            name: error
            for name, config in objectives.items()
            if len(objectives) > 1
            and not isinstance(error := self._attempt(alone, {name: config}), Distiller)
        }
        for error in failed.values() or [whole]:
            self.report.error(error)
        self.whole = False
        rest = {name: config for name, config in objectives.items() if name not in failed}
        if not failed or not rest:
            return None
        distiller = self._attempt(alone, rest)
        return distiller if isinstance(distiller, Distiller) else None

    def _attempt(self, arguments: dict, objectives: dict[str, dict]) -> Distiller | Exception:
        try:
            return Distiller(**arguments, objectives=objectives)
        except Exception as error:
            return error

    def _drop_unknown(self, config: dict, allowed: tuple[str, ...], where: str) -> None:
        for key in [key for key in config if key not in allowed]:
            self._try(check_keys, [key], allowed, where)
            del config[key]

    def _try(self, function: Any, *args: Any) -> Any:
        """Return what a call returns, None where it raises; the error goes to the report."""
        try:
            return function(*args)
        except Exception as error:
            self.report.error(error)
            return None


def find_unused_taps(distiller: Distiller, config: dict) -> list[str]:
    """Return what to say about taps that no objective reads."""
    found = []
    used = {
        **{name: set(taps.paths) for name, taps in distiller.taps.items()},
        **{name: set(run.taps.paths) for name, run in distiller.teachers.runs.items()},
    }
    for tap in config.get('taps') or {}:
        if not any(tap in taps for taps in used.values()):
            found.append(f'tap {tap!r} is read by no objective')
    for name, member in distiller.members.items():
        found += [
            f'tap {tap!r} of {member.where} is read by no objective'
            for tap in member.taps
            if tap not in used[name]
        ]
    return found
