"""From ``method='kd'`` to taps, objectives and all else that a config would say."""

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmengine.logging import print_log

from mmkd.methods.pair import Pair, read_pair
from mmkd.methods.plan import ITSELF, ONE, PEERS, SEVERAL, Plan, needs_of
from mmkd.methods.ramps import RAMPS, hooks_of, leaves_out, with_ramp
from mmkd.registry import HOOKS, KINDS, METHODS, build_part
from mmkd.utils.checks import check_keys, check_non_negative, nearest
from mmkd.utils.config_text import as_text, assignments
from mmkd.utils.kinds import is_made

# of every method; one that has such an option keeps its own
COMMON = (*RAMPS, 'task_weight')
LABELS = ('batch.labels',)  # of classes; batch.valid is known without them
FILES = 'LoadImage'  # what begins the name of a step that loads images alone
ANNOTATIONS = 'Annotation'  # what the name of a step contains that loads labels


@dataclass
class Additions:
    """What an expansion asks of the config around the model.

    Args:
        hooks: For ``custom_hooks``.
        optimizers: Name -> what ``optim_wrapper`` needs, of 'student' besides its own.
        peers: Students that are validated each, where there is no teacher.
        told: What was decided, in words.
    """

    hooks: list[dict] = field(default_factory=list)
    optimizers: dict[str, dict] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    told: list[str] = field(default_factory=list)

    @property
    def beyond_the_model(self) -> list[str]:
        """What no Distiller can give itself, in words: only the config can."""
        hooks = [f'custom_hooks=[dict(type={hook["type"]!r}, …)]' for hook in self.hooks]
        optimizers = [f'optim_wrapper=dict({name}=…)' for name in self.optimizers]
        loops = ["val_cfg=dict(type='mmkd.PeerValLoop')"] * bool(self.peers)
        return [*optimizers, *hooks, *loops]


def expand(
    model: Mapping[str, Any], run: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Additions]:
    """Return the config of a Distiller without ``method``, and what the rest of the config needs.

    Nothing is built. ``taps`` and ``objectives`` beside ``method`` add to what it says and win by
    name; an objective without a loss changes the method's own.

    Args:
        model: ``dict(type='mmkd.Distiller', student=…, teacher=…, method=…)``, left as it is.
        run: The whole config, where there is one: it knows the run's length and its labels.

    Raises:
        KeyError: There is no such method; names the nearest one.
        TypeError: A method that is none, or an option that it does not have.
        ValueError: A pair that the method is not made for; an option out of range.

    >>> small, big = dict(type='Net', head={}, num_classes=3), dict(type='Net', num_classes=3)
    >>> model = dict(type='mmkd.Distiller', student=dict(model=small), teacher=dict(model=big))
    >>> expanded, additions = expand({**model, 'method': dict(type='kd', weight=0.5)})
    >>> expanded['taps'], expanded['task_weight'], expanded['objectives']['kd']['weight']
    ({'logits': 'auto'}, 0.1, 0.5)
    """
    config = {key: value for key, value in _plain(model).items() if key != 'method'}
    asked = [_read_method(one) for one in _as_list(model.get('method'))]
    pair = read_pair(config, run)
    additions = Additions()
    plans: dict[str, Plan] = {}
    for name, options in asked:
        plans[name] = plan_of(name, options, replace(pair, method=name), run)
        if pair.iterations is None and not plans[name].ramps and leaves_out(plans[name], options):
            additions.told.append(
                f'the weights of {name!r} do not rise or fall by themselves: the length of the run '
                'is not known here'
            )
    plan = _join(plans, additions)
    additions.optimizers = plan.optimizers
    if any(needs_of(METHODS.module_dict[name]).teachers == PEERS for name in plans):
        additions.peers = pair.students
    _check_beside(config, plans, plan)
    config = _merge(config, plan, additions)
    additions.hooks = [*plan.hooks, *_ramps(config, plans, plan, additions)]
    return config, additions


def expansion_text(
    method: Any,
    model: Mapping[str, Any],
    additions: Additions,
    around: Mapping[str, Any] | None = None,
) -> str:
    """Return what a method expanded to, as it could be written in its place.

    Args:
        method: As the config said it.
        model: The Distiller without it.
        additions: What the rest of the config needs.
        around: Settings beside the model that have what it needs; None: that alone.
    """
    keys = ('taps', 'objectives', 'phases', 'noise', 'task_weight')
    own = {key: model[key] for key in keys if model.get(key) is not None}
    for role in ('student', 'teacher', 'students', 'teachers'):
        taps = _own_taps(model.get(role))
        own |= {role: taps} if taps else {}
    made = {name: one for name, one in _named(model.get('teachers')) if is_made(one)}
    if made:
        own['teachers'] = {**own.get('teachers', {}), **made}
    said = [f'mmkd: method={as_text(method)} is', f'model = {as_text(own, len("model = "))}']
    if around is None:
        needed = dict(custom_hooks=additions.hooks, optim_wrapper=additions.optimizers)
        around = {key: one for key, one in needed.items() if one}
    said += [assignments(around)] if around else []
    return '\n'.join([*said, *(f'# {line}' for line in additions.told)])


def tell_expansion(method: Any, model: Mapping[str, Any], additions: Additions) -> None:
    """Log what a method expanded to, and what of it no Distiller can give itself."""
    print_log(expansion_text(method, model, additions), logger='current')
    if additions.beyond_the_model:
        print_log(
            f'mmkd: method={as_text(method)} needs what only the config of the run can have: '
            f'{", ".join(additions.beyond_the_model)}. Mend: prepare_config of mmkd.apis.prepare, '
            'as the tools do; or write them',
            logger='current',
            level=logging.WARNING,
        )


def _named(members: Any) -> list[tuple[str, Mapping]]:
    pairs = members.items() if isinstance(members, Mapping) else ()
    return [(name, one) for name, one in pairs if isinstance(one, Mapping)]


def _own_taps(member: Any) -> dict[str, Any]:
    """Return the taps of a member, or of each of several, that are written there."""
    if not isinstance(member, Mapping):
        return {}
    if 'taps' in member:
        return dict(taps=member['taps'])
    return {name: taps for name, one in member.items() if (taps := _own_taps(one))}


# ---------------------------------------------------------------------- one method


def known_methods() -> dict[str, Callable[..., Plan]]:
    """Return name -> function of every method, those of one's own as well."""
    METHODS.import_from_location()
    return dict(METHODS.module_dict)


def find_method(name: str) -> Callable[..., Plan]:
    """Return a method by its name.

    Raises:
        KeyError: There is none; names the nearest one.
    """
    methods = known_methods()
    if name not in methods:
        known, colon, options = name.partition(':')
        if colon and known in methods:
            raise KeyError(
                f'there is no method {name!r}: options are no part of a name. Mend: '
                f'method=dict(type={known!r}, {options}); --method {name} is of mmkd distill'
            )
        raise KeyError(
            f'there is no method {name!r}{nearest(name, methods, otherwise=".")} Mend: one '
            f'of {", ".join(sorted(methods))}'
        )
    return methods[name]


def options_of(function: Callable[..., Plan]) -> dict[str, Any]:
    """Return option -> default of a method.

    >>> options_of(find_method('quest'))['tau']
    'auto'
    """
    options = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind != parameter.VAR_KEYWORD:
            options[parameter.name] = parameter.default
    other = needs_of(function).hands_on_to
    return {**options, **(options_of(other) if other else {})}


def common_options(function: Callable[..., Plan]) -> list[str]:
    """Return the options that every method has, less those that this one means itself.

    >>> common_options(find_method('kd'))
    ['warm_up', 'decay']
    >>> common_options(find_method('cwd'))
    ['warm_up', 'decay', 'task_weight']
    """
    return [option for option in COMMON if option not in options_of(function)]


def plan_of(
    name: str, options: Mapping[str, Any], pair: Pair, run: Mapping[str, Any] | None = None
) -> Plan:
    """Return what a method makes of a pair, every part of it tried.

    Raises:
        KeyError: There is no such method; names the nearest one.
        TypeError: An option that it does not have.
        ValueError: A pair that it is not made for; an option out of range.
    """
    function = find_method(name)
    common = common_options(function)
    check_keys(options, (*options_of(function), *common), f'method {name!r}')
    _check_pair(pair, function)
    own = {key: value for key, value in options.items() if key not in common}
    asked = {key: value for key, value in options.items() if key in common}
    plan = function(pair, **own)
    if not plan.objectives:
        raise ValueError(
            f'method {name!r} teaches nothing by {as_text(own)}: every term of it is left out. '
            'Mend: a weight above 0 for one of them'
        )
    plan = _with_task_weight(plan, asked.pop('task_weight', None), name)
    plan = replace(plan, weight_asked=options.get('task_weight') is not None)
    plan = with_ramp(plan, pair, asked)
    with _named_after(name), torch.random.fork_rng(devices=[]):
        _try_parts(plan)
    if reads_labels(plan):
        _check_labels(pair, run)
    return plan


def _with_task_weight(plan: Plan, task_weight: float | None, name: str) -> Plan:
    if task_weight is None:
        return plan
    check_non_negative(f'method {name!r}: task_weight', task_weight)
    return replace(plan, task_weight=task_weight)


def reads_labels(plan: Plan) -> bool:
    """Return whether an objective or a teacher reads classes, or a noise changes them."""
    reads = [one.get('reads') or {} for one in plan.objectives.values()]
    if any(part.labels for one in plan.objectives.values() for part in parts_of_where(one)):
        return True
    if any(
        getattr(KINDS.get(one['kind']), 'reads_labels', False) for one in plan.teachers.values()
    ):
        return True
    changed = any(str(one.get('type')).endswith('LabelFlip') for one in plan.noise)
    return changed or any(value in LABELS for read in reads for value in read.values())


def parts_of_where(objective: Mapping[str, Any]) -> list[Any]:
    """Return the parts of ``where=`` of an objective's config, built.

    >>> [part.labels for part in parts_of_where(dict(where=dict(type='BoundaryBand')))]
    [True]
    """
    where = objective.get('where')
    each = where if isinstance(where, list | tuple) else [where] if where is not None else []
    return [build_part(one, 'where') for one in each]


def _read_method(value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get('type'), str):
        return value['type'], {key: one for key, one in value.items() if key != 'type'}
    raise TypeError(
        f"method must be a name, dict(type='kd', …) or a list of them, got {value!r:.80}. Mend: "
        "method='kd'"
    )


def _as_list(value: Any) -> list:
    methods = list(value) if isinstance(value, list | tuple) else [value]
    names = [_read_method(one)[0] for one in methods]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f'method names {name!r} twice. Mend: once; a second set of its objectives under '
                'names of your own in objectives='
            )
    if not names:
        raise ValueError("method is an empty list. Mend: method='kd', or leave it out")
    return methods


def _check_pair(pair: Pair, function: Callable[..., Plan]) -> None:
    """Refuse a pair of other members, or of another task, than the method is made for."""
    wanted = needs_of(function)
    students, teachers = len(pair.students), len(pair.teachers)
    if wanted.teachers == PEERS and teachers:
        pair.fail(
            f'peers teach each other, without a teacher, got {list(pair.teachers)}. Mend: '
            'students=dict(peer0=dict(cfg=…), peer1=dict(cfg=…)) in place of student and teacher'
        )
    if wanted.teachers == PEERS and students < 2:
        pair.fail(
            f'peers teach each other, got one student {list(pair.students)}. Mend: '
            'students=dict(peer0=dict(cfg=…), peer1=dict(cfg=…))'
        )
    if wanted.teachers != PEERS and students != 1:
        pair.fail(
            f'it teaches one student, got {list(pair.students)}. Mend: student=dict(cfg=…); '
            "peers teach each other by method='dml'"
        )
    if wanted.teachers == ONE and teachers != 1:
        have = f'got {list(pair.teachers)}' if teachers else 'but there is none'
        also = "; several teachers: method='end' or 'end2-proxy'" if teachers else ''
        pair.fail(
            f"it needs one teacher, {have}. Mend: teacher=dict(cfg=…, checkpoint='….pth'){also}"
        )
    if wanted.teachers == SEVERAL and teachers < 2:
        pair.fail(
            f'it needs several teachers, got {list(pair.teachers) or "none"}. Mend: '
            "teachers=dict(t0=dict(cfg=…, checkpoint='0.pth'), t1=…) (mmkd train-ensemble "
            "trains them); of one teacher: method='kd'"
        )
    if wanted.tasks and pair.kind not in wanted.tasks:
        serve = [
            name
            for name, other in known_methods().items()
            if pair.kind in needs_of(other).tasks and needs_of(other).teachers == wanted.teachers
        ]
        mend = f'one of {", ".join(sorted(serve))}' if serve else 'objectives of your own'
        learns = pair.kind or 'something that its config does not tell'
        pair.fail(
            f'it is made for {", ".join(wanted.tasks)}, but the student learns {learns}. Mend: '
            f'{mend}'
        )


def _check_labels(pair: Pair, run: Mapping[str, Any] | None) -> None:
    if not pair.task.gives_labels:
        pair.fail(
            f'it reads a class for each pixel or image, which {pair.kind or "this task"} does not '
            'have. Mend: a method that reads no labels'
        )
    loader = (run or {}).get('train_dataloader') or {}
    if loader and loads_no_labels(loader.get('dataset')):
        pair.fail(
            'it reads labels, but the training pipeline of this config loads none. Mend: '
            "dict(type='LoadAnnotations') in train_dataloader.dataset.pipeline; or a method that "
            'reads no labels'
        )


def loads_no_labels(dataset: Any) -> bool:
    """Return whether a data set's pipeline loads images from files, and no labels.

    >>> loads_no_labels(dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Pack')]))
    True
    >>> loads_no_labels(dict(pipeline=[dict(type='Pack')]))  # they come with the images
    False
    """
    if isinstance(dataset, list | tuple):
        return any(map(loads_no_labels, dataset))
    if not isinstance(dataset, Mapping):
        return False
    inside = dataset.get('dataset') or dataset.get('datasets')
    steps = [
        str(step.get('type', '')).split('.')[-1]
        for step in dataset.get('pipeline') or ()
        if isinstance(step, Mapping)
    ]
    if any(ANNOTATIONS in step for step in steps):
        return False
    # an image's class comes with the data set, and is packed by those of classification
    packs = any('Cls' in step or step == 'PackInputs' for step in steps)
    loads = any(step.startswith(FILES) for step in steps)
    return (loads and not packs) or loads_no_labels(inside)


@contextmanager
def _named_after(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise type(error)(f'method {name!r}: {text}') from error


def _try_parts(plan: Plan) -> None:
    """Build every part, so that its own checks speak of an option that is out of range."""
    for name, one in plan.objectives.items():
        build_part(one['loss'], f'objective {name!r}: loss')
        parts_of_where(one)
        weight = one.get('weight', 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            raise ValueError(
                f'the weight of its objective {name!r} must be a finite number above 0, got '
                f'{weight!r}. Mend: the option that sets it, above 0'
            )
    for noise in plan.noise:
        build_part(noise, 'noise')
    for hook in plan.hooks:
        HOOKS.build(dict(hook))


# ---------------------------------------------------------------------- several, and what is given


def _join(plans: Mapping[str, Plan], additions: Additions) -> Plan:
    """Return several plans as one; what two of them say alike counts once."""
    joined = Plan()
    for name, plan in plans.items():
        plan = _with_taps_of_its_own(joined, plan, name, additions)
        plan = _without_collisions(joined, plan, name, additions)
        _refuse_two_levels(joined, plan, name)
        for what in ('cfg_options', 'teachers', 'optimizers', 'ramps'):
            _refuse_other(what, getattr(joined, what), getattr(plan, what), name)
        joined = replace(
            joined,
            objectives={**joined.objectives, **plan.objectives},
            taps={**joined.taps, **plan.taps},
            member_taps={**joined.member_taps, **plan.member_taps},
            cfg_options={**joined.cfg_options, **plan.cfg_options},
            teachers={**joined.teachers, **plan.teachers},
            phases=_join_phases(joined, plan, name),
            noise=[*joined.noise, *(one for one in plan.noise if one not in joined.noise)],
            task_weight=_join_weights(joined, plan, name, additions),
            weight_asked=joined.weight_asked or plan.weight_asked,
            hooks=[*joined.hooks, *(one for one in plan.hooks if one not in joined.hooks)],
            optimizers={**joined.optimizers, **plan.optimizers},
            ramps={**plan.ramps, **joined.ramps},
        )
    return joined


def _without_collisions(joined: Plan, plan: Plan, name: str, additions: Additions) -> Plan:
    same = [key for key in plan.objectives if joined.objectives.get(key) == plan.objectives[key]]
    for key in same:
        additions.told.append(f'the objective {key!r} of method {name!r} is there once already')
    taken = [key for key in plan.objectives if key in joined.objectives and key not in same]
    names = {key: f'{name.replace("-", "_")}_{key}' for key in taken}
    for old, new in names.items():
        additions.told.append(
            f'the objective {old!r} of method {name!r} is called {new!r}: another method has an '
            'objective of that name'
        )
    return plan.renamed(names) if names else plan


def _with_taps_of_its_own(joined: Plan, plan: Plan, name: str, additions: Additions) -> Plan:
    """Give a method taps of its own where one before it reads something else by their names."""
    wanted = dict.fromkeys(tap for taps in _all_taps(plan) for tap in taps)
    taken = [tap for tap in wanted if _is_another(joined, plan, tap)]
    names = {tap: f'{name.replace("-", "_")}_{tap}' for tap in taken}
    for old, new in names.items():
        additions.told.append(
            f'the tap {old!r} of method {name!r} is called {new!r}: another method has a tap of '
            'that name'
        )
    return plan.with_taps_renamed(names) if names else plan


def _all_taps(plan: Plan) -> list[dict[str, str]]:
    return [plan.taps, *plan.member_taps.values()]


def _is_another(joined: Plan, plan: Plan, tap: str) -> bool:
    members = (None, *joined.member_taps, *plan.member_taps)
    paths = [(joined.path_of(tap, member), plan.path_of(tap, member)) for member in members]
    return any(None not in (one, other) and one != other for one, other in paths)


def _refuse_two_levels(joined: Plan, plan: Plan, name: str) -> None:
    """Refuse levels beside others, or beside what rises and falls by itself: both set weights."""
    before, own = _levels_of(joined), _levels_of(plan)
    if before and own:
        raise ValueError(
            f'method {name!r} and one before it both learn in levels, which would mute each '
            "other's objectives. Mend: one of them"
        )
    ramps = {**joined.ramps, **plan.ramps}
    both = sorted(ramps.keys() & {one for level in (*before, *own) for one in level})
    if both:
        raise ValueError(
            f'method {name!r}: warm_up or decay sets the weight of {", ".join(both)}, and a level '
            'sets it too. Mend: one of the two'
        )


def _levels_of(plan: Plan) -> list[list[str]]:
    return [level for hook in plan.hooks for level in (hook.get('levels') or {}).get('levels', ())]


def _refuse_other(what: str, one: Mapping, other: Mapping, name: str) -> None:
    for key in one.keys() & other.keys():
        if one[key] != other[key]:
            raise ValueError(
                f'method {name!r} wants {what}.{key}={other[key]!r}, a method before it '
                f'{one[key]!r}. Mend: one of the methods by its objectives'
            )


def _join_phases(joined: Plan, plan: Plan, name: str) -> list[dict] | None:
    if plan.phases is None or joined.phases is None:
        phases = plan.phases if joined.phases is None else joined.phases
        others = joined.objectives if joined.phases is None else plan.objectives
        return phases if phases is None else _with_objectives(phases, others)
    raise ValueError(
        f'method {name!r} and one before it both say what each optimizer steps on. Mend: one of '
        'them by its objectives, and phases= of your own'
    )


def _with_objectives(phases: list[dict], names: Mapping[str, Any]) -> list[dict]:
    """Let the phases of the students' own losses step on more objectives, each on its own's."""
    phases = copy.deepcopy(phases)
    first = next((phase for phase in phases if phase.get('task')), phases[0])
    known = [name for phase in phases for name in phase.get('objectives', ())]
    for name in (name for name in names if name not in known):
        owner = next((one for one in phases if _learner(names[name]) in _takes(one)), first)
        owner['objectives'] = [*owner.get('objectives', ()), name]
    return phases


def _learner(objective: Any) -> str:
    """Return the student that an objective teaches, as far as its config says."""
    read = (objective.get('reads') or {}).get('student') if isinstance(objective, dict) else None
    first = read[0] if isinstance(read, list) and read else read
    return first.partition('.')[0] if isinstance(first, str) else ''


def _takes(phase: Mapping[str, Any]) -> list[str]:
    task = phase.get('task')
    return list(task) if isinstance(task, list | tuple) else []


def _join_weights(joined: Plan, plan: Plan, name: str, additions: Additions) -> float | None:
    """Return the weight that was asked for, else that of the first method that has one."""
    own, other = joined.task_weight, plan.task_weight
    if own is None or other in (None, own):
        return other if own is None else own
    if joined.weight_asked and plan.weight_asked:
        raise ValueError(
            f'method {name!r} is given task_weight={other:g}, a method before it {own:g}, but the '
            "student's own losses have one weight. Mend: task_weight of one of them, or beside "
            'method='
        )
    if plan.weight_asked:
        additions.told.append(f'task_weight={other:g} of {name!r} counts, which was asked for')
        return other
    which = 'that was asked for' if joined.weight_asked else 'of the first method'
    additions.told.append(f'task_weight={own:g} {which} counts, not {other:g} of {name!r}')
    return own


def _check_beside(config: Mapping[str, Any], plans: Mapping[str, Plan], plan: Plan) -> None:
    """Refuse what stands beside a method and would not change it as meant."""
    if isinstance(config.get('noise'), Mapping):
        raise TypeError(
            'noise must be a list of noises, which those of a method are added to, got '
            f"{config['noise']!r}. Mend: noise=[dict(type='GaussianInput', std=0.1)]"
        )
    for name, one in (config.get('objectives') or {}).items():
        if not isinstance(one, Mapping):
            continue
        if 'loss' not in one and name not in plan.objectives:
            raise KeyError(
                f'objective {name!r} has no loss, so it changes one of the method, which has none '
                f'of that name{nearest(name, plan.objectives, otherwise=".")} Mend: '
                f'one of {", ".join(plan.objectives)}; or loss=dict(type=…)'
            )
        loss = one.get('loss')
        if isinstance(loss, Mapping) and 'type' not in loss and name in plan.objectives:
            owner = next((key for key in plans if name in plans[key].objectives), [*plans][-1])
            method = as_text(dict(type=owner, **loss))
            raise TypeError(
                f'objective {name!r} has a loss without a type: it would replace that of the '
                f'method, got loss={as_text(loss)}. Mend: options of a method go into '
                f'method={method}'
            )


def _merge(config: dict[str, Any], plan: Plan, additions: Additions) -> dict[str, Any]:
    """Return the config with the plan below what it says itself."""
    written = config.get('objectives') or {}
    objectives = copy.deepcopy(plan.objectives)
    for name, one in written.items():
        changes = isinstance(one, Mapping) and 'loss' not in one and name in objectives
        objectives[name] = {**objectives[name], **one} if changes else one
        if name in plan.objectives:
            additions.told.append(f'the objective {name!r} of the config wins')
    shared = config.get('taps') or {}
    config['taps'] = {**plan.taps, **shared}
    for member, taps in plan.member_taps.items():
        own = {tap: path for tap, path in taps.items() if tap not in shared}
        _give_member(config, member, 'taps', own)
    for member, options in plan.cfg_options.items():
        _give_member(config, member, 'cfg_options', options)
    _give_teachers(config, plan.teachers)
    config['objectives'] = objectives
    if config.get('phases') is None and plan.phases is not None:
        config['phases'] = _with_objectives(plan.phases, objectives)
    if plan.noise:
        config['noise'] = [*plan.noise, *(config.get('noise') or ())]
    if config.get('task_weight') is None and plan.task_weight is not None:
        config['task_weight'] = plan.task_weight
    return config


def _give_teachers(config: dict[str, Any], teachers: Mapping[str, dict]) -> None:
    """Add teachers that are made of other members; those of the config win by name."""
    if not teachers:
        return
    own = config.get('teachers') or {}
    if config.get('teacher') is not None:
        own = {'teacher': config.pop('teacher'), **own}
    config['teachers'] = {**own, **{name: one for name, one in teachers.items() if name not in own}}


def _ramps(
    config: Mapping[str, Any], plans: Mapping[str, Plan], plan: Plan, additions: Additions
) -> list[dict]:
    """Return the hook by which the methods' own objectives rise and fall."""
    written = config['objectives']
    own = {name: one for name, one in written.items() if _of_method(one, plan.objectives.get(name))}
    ending = {name for name, points in plan.ramps.items() if points[-1][1] == 0}
    if config.get('task_weight') == 0 and ending and ending >= {*written}:
        raise ValueError(
            'task_weight=0 and decay: when the weights have fallen to 0, nothing is learned any '
            'more. Mend: decay=None, or a task_weight above 0'
        )
    if config.get('task_weight') == 0:
        _refuse_own_words(plans, plan, {*written} - {*own})
    return hooks_of(plan.ramps, own)


def _refuse_own_words(plans: Mapping[str, Plan], plan: Plan, others: set[str]) -> None:
    """Refuse a student that learns nothing but what it says itself."""
    of_itself = all(needs_of(METHODS.module_dict[name]).teachers == ITSELF for name in plans)
    if of_itself and not others and not reads_labels(plan):
        raise ValueError(
            f'task_weight=0 and method {", ".join(map(repr, plans))}: the student would learn from '
            'its own words alone, which nothing has taught it. Mend: a task_weight above 0, or a '
            'method with a teacher beside it'
        )


def _of_method(one: Any, other: Any) -> bool:
    return isinstance(one, Mapping) and other is not None and one.get('loss') == other['loss']


def _give_member(config: dict[str, Any], member: str, key: str, given: Mapping[str, Any]) -> None:
    """Give a member taps or options of its own; those that it has win."""
    owner = config
    for many in ('students', 'teachers'):
        if member in (config.get(many) or {}):
            owner = config[many] = dict(config[many])
    value = owner[member]
    if not isinstance(value, Mapping):  # a path, a Config or a model
        value = dict(cfg=value) if not isinstance(value, torch.nn.Module) else dict(model=value)
    elif 'type' in value:
        value = dict(model=value)
    own = value.get(key) or {}
    if key == 'cfg_options':  # what is within a part that the method makes anew is in it already
        own = {name: one for name, one in own.items() if not _within(name, given)}
    owner[member] = {**value, key: {**given, **own}}


def _within(option: str, parts: Iterable[str]) -> bool:
    """Return whether an option is of one of these parts of a config.

    >>> _within('model.head.act', ['model.head']), _within('model.heads', ['model.head'])
    (True, False)
    """
    return any(f'{option}.'.startswith(f'{part}.') for part in parts)


def _plain(model: Mapping[str, Any]) -> dict[str, Any]:
    return model.to_dict() if hasattr(model, 'to_dict') else dict(model)
