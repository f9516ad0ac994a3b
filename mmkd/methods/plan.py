"""The plan: what a method makes of a pair, and what it must find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, TypeVar

from mmkd.methods.pair import Pair

Function = TypeVar('Function', bound=Callable[..., 'Plan'])
REFERENCES = ('reads', 'teacher_head')  # of an objective, where taps stand as member.tap
ONE, SEVERAL, PEERS, ITSELF = 'one', 'several', 'none, but peers', 'none'


@dataclass(frozen=True)
class Plan:
    """What a method adds to a config.

    Args:
        objectives: Name -> objective.
        taps: Tap -> path or point (``'auto:feature'``), for every member.
        member_taps: Member -> taps of its own.
        cfg_options: Member -> options of its config, ``{'model.decode_head': dict(…)}``.
        teachers: Name -> teacher that is made of other members, ``dict(kind=…, of=…)``.
        phases: What each optimizer steps on; None: the implicit phases.
        noise: Noises of training.
        task_weight: Of the students' own losses; None: 1.
        weight_asked: Whether ``task_weight`` is an option that was given, not a default.
        hooks: ``custom_hooks``: schedules.
        optimizers: Name -> optimizer that ``optim_wrapper`` must have; of 'student' what it gets
            besides its own.
        warm_up: What the method does unless it is told, see :mod:`mmkd.methods.ramps`.
        decay: As ``warm_up``.
        ramps: Objective -> (iteration, share of its weight) each: what became of the two.
    """

    objectives: dict[str, dict] = field(default_factory=dict)
    taps: dict[str, str] = field(default_factory=dict)
    member_taps: dict[str, dict[str, str]] = field(default_factory=dict)
    cfg_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    teachers: dict[str, dict] = field(default_factory=dict)
    phases: list[dict] | None = None
    noise: list[dict] = field(default_factory=list)
    task_weight: float | None = None
    weight_asked: bool = False
    hooks: list[dict] = field(default_factory=list)
    optimizers: dict[str, dict] = field(default_factory=dict)
    warm_up: float | None = None
    decay: Sequence[float] | None = None
    ramps: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str]) -> 'Plan':
        """Return the plan with other names of objectives, wherever they stand.

        >>> plan = Plan(dict(kd={}), hooks=[dict(schedules=[dict(target='kd.loss.tau')])])
        >>> plan = plan.renamed(dict(kd='two_kd'))
        >>> list(plan.objectives), plan.hooks
        (['two_kd'], [{'schedules': [{'target': 'two_kd.loss.tau'}]}])
        """
        return replace(
            self,
            objectives={names.get(name, name): one for name, one in self.objectives.items()},
            phases=None if self.phases is None else _renamed(self.phases, names),
            hooks=_renamed(self.hooks, names),
            ramps={names.get(name, name): one for name, one in self.ramps.items()},
        )

    def path_of(self, tap: str, member: str | None = None) -> str | None:
        """Return what a tap of a member is, of None that of all members; None where there is none.

        >>> plan = Plan(taps=dict(feat='auto:feature'), member_taps=dict(teacher=dict(feat='neck')))
        >>> plan.path_of('feat', 'student'), plan.path_of('feat', 'teacher'), plan.path_of('logits')
        ('auto:feature', 'neck', None)
        """
        return self.member_taps.get(member or '', {}).get(tap, self.taps.get(tap))

    def with_taps_renamed(self, names: Mapping[str, str]) -> 'Plan':
        """Return the plan with other names of taps, wherever they stand.

        >>> plan = Plan(dict(a=dict(on='feat', loss={})), taps=dict(feat='auto:feature'))
        >>> plan = plan.with_taps_renamed(dict(feat='two_feat'))
        >>> plan.objectives['a']['on'], plan.taps
        ('two_feat', {'two_feat': 'auto:feature'})
        """
        return replace(
            self,
            objectives={name: _retapped(one, names) for name, one in self.objectives.items()},
            taps=_with_keys(self.taps, names),
            member_taps={
                member: _with_keys(taps, names) for member, taps in self.member_taps.items()
            },
        )


def _with_keys(taps: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {names.get(tap, tap): path for tap, path in taps.items()}


def _retapped(node: Any, names: Mapping[str, str], key: str = '') -> Any:
    """Rename the taps that an objective reads.

    >>> one = dict(reads=dict(student=['s.feat'], labels='batch.labels'), teacher_head='t.feat')
    >>> _retapped(one, dict(feat='own'))
    {'reads': {'student': ['s.own'], 'labels': 'batch.labels'}, 'teacher_head': 't.own'}
    """
    if isinstance(node, dict):
        return {
            name: _retapped(value, names, key if key in REFERENCES else name)
            for name, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [_retapped(one, names, key) for one in node] if key in REFERENCES else node
    if key in REFERENCES and isinstance(node, str):
        member, dot, tap = node.partition('.')
        return f'{member}{dot}{names.get(tap, tap)}'
    return names.get(node, node) if key == 'on' else node


def _renamed(node: Any, names: Mapping[str, str], key: str = '') -> Any:
    """Rename the objectives that phases and schedules name."""
    if isinstance(node, dict):
        return {name: _renamed(value, names, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_renamed(one, names, key) for one in node]
    if key == 'target':
        name, dot, rest = str(node).partition('.')
        return f'{names.get(name, name)}{dot}{rest}'
    if key == 'watch':  # a pattern of names, which all get the same beginning
        found = next((name for name in names if fnmatch(name, node)), '')
        return f'{names.get(found, "").removesuffix(found)}{node}'
    return names.get(node, node) if key in ('objectives', 'critics', 'levels') else node


@dataclass(frozen=True)
class Needs:
    """What a pair must be for a method.

    Args:
        teachers: ``'one'``, ``'several'``, ``'none, but peers'`` or ``'none'``: a student that
            teaches itself, whoever else does.
        tasks: Kinds of what students learn, see :attr:`mmkd.methods.pair.Pair.kind`; () for any.
        paper: Authors, where and when, and its number at arXiv.
        cost: What a step takes with it beyond the objectives, whose share is recorded in
            ``costs.json``, as it was measured; '' where it was not.
        hands_on_to: The method that gets the options which this one takes as ``**options``.
    """

    teachers: str = ONE
    tasks: tuple[str, ...] = ()
    paper: str = '–'
    cost: str = ''
    hands_on_to: Callable[..., 'Plan'] | None = None


def needs(
    teachers: str = ONE,
    tasks: tuple[str, ...] = (),
    paper: str = '–',
    cost: str = '',
    hands_on_to: Callable[..., Plan] | None = None,
) -> Callable[[Function], Function]:
    """Say what a pair must be for a method; what is not said is what most methods need.

    Args:
        teachers: ``'one'``, ``'several'``, ``'none, but peers'`` or ``'none'``.
        tasks: Kinds of what students learn; () for any.
        paper: Authors, where and when, and its number at arXiv.
        cost: What a step takes with it beyond the objectives, whose share is recorded in
            ``costs.json``, as it was measured; '' where it was not.
        hands_on_to: The method that gets the options which this one takes as ``**options``.
    """

    def mark(function: Function) -> Function:
        function.needs = Needs(teachers, tasks, paper, cost, hands_on_to)  # type: ignore[attr-defined]
        return function

    return mark


def needs_of(function: Callable[..., Plan]) -> Needs:
    """Return what a method needs.

    >>> needs_of(lambda pair: Plan())
    Needs(teachers='one', tasks=(), paper='–', cost='', hands_on_to=None)
    """
    return getattr(function, 'needs', Needs())


def adam(lr: float, **options: Any) -> dict[str, Any]:
    """Return the config of an optimizer of its own, as critics have.

    >>> adam(1e-3)
    {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 0.001}}
    """
    return dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=lr, **options))


def of_task(pair: Pair, given: Any, **by_kind: Any) -> Any:
    """Return an option as it was given, else the default of the pair's task.

    >>> from mmkd.tasks import Segmentation
    >>> of_task(Pair(Segmentation()), None, segmentation=10.0, classification=0.9)
    10.0
    """
    return by_kind.get(pair.kind) if given is None else given


def last_map(pair: Pair) -> str:
    """Return the point of the last map: a classifier of images reads it pooled, as a vector.

    >>> from mmkd.tasks import Classification, Segmentation
    >>> last_map(Pair(Classification())), last_map(Pair(Segmentation()))
    ('auto:stages[-1]', 'auto:feature')
    """
    return 'auto:stages[-1]' if pair.kind == 'classification' else 'auto:feature'
