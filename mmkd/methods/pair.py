"""The pair: what a method is told of students and teachers, none of which is built."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmkd.tasks import Described, Task, Text, Unknown, task_of, task_of_config
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import is_made, is_stored
from mmkd.utils.stored.manifest import read_manifest

SCOPES = ('mmseg', 'mmdet', 'mmpretrain')  # of configs; mmkd's own names carry a prefix


@dataclass(frozen=True)
class Pair:
    """Students, teachers and what they learn, as their configs tell.

    Args:
        task: What the first student learns.
        students: Names of the students.
        teachers: Names of the teachers.
        models: Member -> its model, described or built.
        iterations: Length of the run; None where it is not known.
        method: Name of the method that is asked, for messages.
        checkpoints: Member -> file of its weights, where its description says one.

    >>> from mmkd.tasks import Classification
    >>> pair = Pair(Classification(10))
    >>> pair.kind, pair.on('logits'), pair.on('feat', labels='batch.labels')
    ('classification', {'on': 'logits'}, {'on': 'feat', 'reads': {'labels': 'batch.labels'}})
    """

    task: Task = field(default_factory=Unknown)
    students: tuple[str, ...] = ('student',)
    teachers: tuple[str, ...] = ('teacher',)
    models: Mapping[str, Any] = field(default_factory=dict)
    iterations: int | None = None
    method: str = ''
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------------ what it is

    @property
    def kind(self) -> str:
        """What is learned: the task's kind, and 'text' of classifiers of sentences."""
        return 'text' if isinstance(self.task, Text) else self.task.kind

    @property
    def student(self) -> str:
        """Name of the student, where there is one."""
        return self.students[0]

    @property
    def teacher(self) -> str:
        """Name of the teacher, where there is one."""
        return self.teachers[0]

    @property
    def num_classes(self) -> int:
        """Classes of the student.

        Raises:
            ValueError: Its config does not say.
        """
        if self.task.num_classes is None:
            self.fail(
                "the student's config does not say how many classes there are. Mend: num_classes "
                'of its head'
            )
        return self.task.num_classes

    @property
    def cycle(self) -> list[tuple[int, str, str]]:
        """Peers in a cycle: number, name, and the one before it, from which it learns.

        >>> Pair(students=('a', 'b', 'c')).cycle
        [(0, 'a', 'c'), (1, 'b', 'a'), (2, 'c', 'b')]
        """
        return [(k, name, self.students[k - 1]) for k, name in enumerate(self.students)]

    # ------------------------------------------------------------------ how it is written

    def on(self, tap: str, **reads: Any) -> dict[str, Any]:
        """Return the ``on`` and ``reads`` of an objective that compares student and teacher."""
        if self.student == 'student' and self.teacher == 'teacher':
            return dict(on=tap, reads=reads) if reads else dict(on=tap)
        compared = dict(student=f'{self.student}.{tap}', teacher=f'{self.teacher}.{tap}')
        return dict(reads={**compared, **reads})

    def on_all(self, tap: str) -> dict[str, Any]:
        """Return the ``reads`` of an objective that compares the student with all teachers."""
        teachers = [f'{name}.{tap}' for name in self.teachers]
        return dict(reads=dict(student=f'{self.student}.{tap}', teachers=teachers))

    def fail(self, text: str) -> NoReturn:
        """Refuse the pair.

        Raises:
            ValueError: Names the method.
        """
        raise ValueError(f'method {self.method!r}: {text}')

    def lacks(self, member: str, part: str) -> bool:
        """Return whether a member is known, and has no such part.

        >>> from mmkd.tasks import Described
        >>> models = dict(a=Described(dict(type='GFL')), b=Described({}))
        >>> [Pair(models=models).lacks(one, 'decoder') for one in 'abc']
        [True, False, False]
        """
        model = self.models.get(member)
        known = model is not None and getattr(model, 'type_name', True) != ''
        return known and not hasattr(model, part)

    def check_count(self, name: str, value: Any, mend: str, least: int = 1) -> None:
        """Refuse an option that is no whole number, or one below the least.

        Args:
            name: Of the option.
            value: What was given.
            mend: What may be given.
            least: That it may be.

        Raises:
            ValueError: It is none.
        """
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.fail(
                f'{name} must be a whole number of at least {least}, got {value!r}. Mend: {mend}'
            )

    def refuse_unused(self, why: str, mend: str = '', **options: tuple[Any, Any]) -> None:
        """Refuse options that were given where they would change nothing.

        Args:
            why: Why they would not.
            mend: What may be done besides leaving one out, from a comma on.
            **options: What was given for each, and its default.

        Raises:
            ValueError: One of them is not its default.
        """
        for name, (given, default) in options.items():
            if given != default:
                self.fail(
                    f'{name} would change nothing, since {why}, got {name}={given!r}. Mend: leave '
                    f'{name} out{mend}'
                )

    # ------------------------------------------------------------------ what its models have

    def stages(self, *members: str, given: int | None = None, least: int = 1) -> int:
        """Return how many maps the backbone of each member gives.

        Args:
            *members: Their names; none: the student's and the teacher's.
            given: The option ``stages`` of a method, which counts; None: as the configs say.
            least: That ``given`` may be.

        Raises:
            ValueError: A config does not say; ``given`` is no number of maps.
        """
        if given is not None:
            mend = 'stages=4, or leave stages out where the configs say'
            self.check_count('stages', given, mend, least)
            return given
        members = members or (self.student, *self.teachers[:1])
        found = {name: _stages(self.models.get(name)) for name in members}
        if None in found.values():
            self.fail(
                f'the configs do not say how many maps the backbones give ({found}). Mend: '
                f"dict(type={self.method!r}, stages=4), and taps=dict(stage1='<module path>', …) "
                'where they are not found'
            )
        self._check_maps(found)
        return min(number for number in found.values() if number)

    def _check_maps(self, found: Mapping[str, int | None]) -> None:
        """Refuse backbones that give one of several stages, or another number of maps each."""
        for name, number in found.items():
            stages = _number(self.models.get(name), ('backbone',), 'num_stages')
            if number == 1 and (stages or 1) > 1:
                self.fail(
                    f'the backbone of {name!r} gives one map of its {stages} stages. Mend: '
                    f'out_indices={tuple(range(stages or 1))} in its config; or dict(type='
                    f'{self.method!r}, stages=1), where the last one is meant'
                )
        if len(set(found.values())) > 1:
            least = min(number for number in found.values() if number)
            self.fail(
                f'the backbones give other numbers of maps, {found}, and it is not said which go '
                f'together. Mend: the same out_indices; or dict(type={self.method!r}, '
                f'stages={least}) and taps of the other one, teacher=dict(taps=dict(stage1='
                "'auto:stages[1]', …))"
            )

    def attentions(self, member: str) -> list[int]:
        """Return the attention layers of a member that are matched, in its order.

        All of them; of a backbone of stages the last one of each, of a segmentor's those that end
        a map.

        Raises:
            ValueError: Its config does not say.
        """
        layers = self.told_attentions(member)
        if layers is None:
            self.fail(
                f'the config of {member!r} does not say how many attention layers it has. Mend: '
                f'dict(type={self.method!r}, layers=[0, 1, 2], teacher_layers=[1, 3, 5]); of '
                "segmentors without attention method='affinity'"
            )
        return layers

    def told_attentions(self, member: str) -> list[int] | None:
        """Return what :meth:`attentions` does, None where the member's config does not say."""
        layers = _layers(self.models.get(member))
        if not isinstance(layers, int):
            return layers
        indices = getattr(getattr(self.models.get(member), 'backbone', None), 'out_indices', None)
        if self.kind == 'segmentation' and isinstance(indices, list | tuple):
            return [index % layers for index in indices]  # of a plain ViT
        return list(range(layers))

    def levels(self) -> int:
        """Return how many maps a detector's neck gives.

        Raises:
            ValueError: The configs do not say, or disagree.
        """
        found = {
            name: _number(self.models.get(name), ('neck',), 'num_outs')
            for name in (self.student, self.teacher)
        }
        if None in found.values() or len(set(found.values())) > 1:
            self.fail(
                f'it compares every level of the necks, but num_outs of them is {found}. Mend: '
                'necks of as many levels'
            )
        return found[self.student] or 0


def read_pair(model: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> Pair:
    """Return the pair of ``model=dict(type='mmkd.Distiller', student=…, teacher=…)``.

    Args:
        model: The config of the Distiller.
        run: The config that it stands in, which knows how long the run is.

    Raises:
        FileNotFoundError: A member's config is not there.
        ValueError: It is no config.
    """
    members = {role: _named(model, role) for role in ('student', 'teacher')}
    models: dict[str, Any] = {}
    for role, named in members.items():
        for name, value in named.items():
            models[name] = _read_model(value, f'{role} {name!r}', name)
            if role == 'teacher' and is_made(value):
                of = value.get('of')
                models[name] = models.get(of if isinstance(of, str) else next(iter(of or ()), ''))
    if not members['student']:
        raise ValueError('a Distiller needs student= or students=')
    first = models.get(next(iter(members['student']), ''))
    iterations = ((run or {}).get('train_cfg') or {}).get('max_iters')
    students, teachers = (tuple(named) for named in members.values())
    each = {name: one for named in members.values() for name, one in named.items()}
    files = {name: one.get('checkpoint') for name, one in each.items() if isinstance(one, Mapping)}
    checkpoints = {name: str(one) for name, one in files.items() if one is not None}
    return Pair(_task_of(first), students, teachers, models, iterations, checkpoints=checkpoints)


def _named(model: Mapping[str, Any], role: str) -> dict[str, Any]:
    if model.get(role) is not None:
        return {role: model[role]}
    named = model.get(f'{role}s')
    # of another kind: where members are read it is refused
    return dict(named) if isinstance(named, Mapping) else {}


def _read_model(value: Any, where: str, name: str) -> Any:
    """Return a member's model, described or built; None of what is no member."""
    if is_stored(value) and value.get('path'):
        stored = read_manifest(value['path']).teacher(name, value['path'])
        return Described(stored.model, stored.scope)
    if isinstance(value, Mapping) and not isinstance(value, Config) and 'type' not in value:
        source = value.get('model')
        if source is None:
            source = value.get('cfg')
        options, scope = value.get('cfg_options') or {}, value.get('scope')
    else:
        source, options, scope = value, {}, None
    if isinstance(source, nn.Module):
        return source
    if isinstance(source, str | Path):
        try:
            source = read_config(str(source))
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f'{where}: {error}') from error
    if isinstance(source, Mapping) and 'type' in source:
        source = Config(dict(model=source))
    if isinstance(source, Mapping):
        source = Config(dict(source))
    if not isinstance(source, Config) or not isinstance(source.get('model'), Mapping):
        return None
    source = Config(copy.deepcopy(source._cfg_dict.to_dict()))
    source.merge_from_dict(dict(options))
    if source.get('data_preprocessor') is not None:
        source.model.setdefault('data_preprocessor', source.data_preprocessor)
    return Described(source.model, scope or _scope_of(source))


def _scope_of(cfg: Config) -> str:
    running = DefaultScope.get_current_instance()
    known = running is not None and running.scope_name in SCOPES
    return cfg.get('default_scope') or (running.scope_name if known else 'mmseg')


def _task_of(model: Any) -> Task:
    if isinstance(model, Described):
        return task_of_config(model._config, model._scope)
    return Unknown() if model is None else task_of(model)


def _number(model: Any, path: tuple[str, ...], key: str) -> int | None:
    for name in path:
        model = getattr(model, name, None)
    number = getattr(model, key, None)
    return number if isinstance(number, int) else None


def _stages(model: Any) -> int | None:
    backbone = getattr(model, 'backbone', None)
    indices = getattr(backbone, 'out_indices', None)
    if isinstance(indices, list | tuple):
        return len(indices)
    return _number(model, ('backbone',), 'num_stages')


def _layers(model: Any) -> int | list[int] | None:
    """Return how many attention layers there are, or which end a stage."""
    for owner, key in (
        (getattr(model, 'backbone', None), 'num_layers'),
        (getattr(model, 'options', None), 'num_hidden_layers'),
        (getattr(model, 'config', None), 'num_hidden_layers'),
    ):
        number = getattr(owner, key, None)
        if isinstance(number, int):
            return number
        if isinstance(number, list | tuple):
            return [total - 1 for total in accumulate(number)]
    return None
