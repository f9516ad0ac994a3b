"""What a method reads, needs and costs: found out from what it makes of pairs, and measured."""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmkd.methods.expand import (
    find_method,
    known_methods,
    parts_of_where,
    plan_of,
    reads_labels,
)
from mmkd.methods.pair import Pair
from mmkd.methods.plan import ITSELF, PEERS, SEVERAL, Plan, needs_of
from mmkd.registry import KINDS, MODELS
from mmkd.tasks import Classification, Depth, Described, Detection, Segmentation, Task, Text

LAYERS = dict(num_layers=4, out_indices=(0, 1, 2, 3))
# a task, and a model of it that has all that a method may ask of a config
# three classes: of two some methods say less, or nothing
EXAMPLES: tuple[tuple[Task, dict], ...] = (
    (Segmentation(3), dict(backbone=LAYERS, decode_head=dict(channels=8))),
    (Classification(3), dict(type='ImageClassifier', in_channels=8, backbone=LAYERS)),
    (Text(2), dict(options=dict(num_hidden_layers=4))),
    (Depth(), dict(backbone=LAYERS)),
    (Detection(2), dict(neck=dict(num_outs=5), bbox_head=dict(type='FCOSHead'))),
)
LENGTH = 300  # of the examples' runs
COSTS = Path(__file__).with_name('costs.json')  # by mmkd benchmark --methods --json
# argument -> what a loss that has it trains: parts of so many channels, or what begins there
OWN_PARTS = dict(
    student_channels='layers',
    channels='variances',
    raw='temperature',
    mask_ratio='generator',
    softness='attention',
    blocks='context blocks',
)


@dataclass(frozen=True)
class Facts:
    """What is told of a method.

    Args:
        name: Its name.
        about: Its first sentence.
        paper: Authors, where and when.
        members: Which teachers it has.
        tasks: Kinds of what students learn.
        reads: Points of the members, and inputs and labels of the batch.
        labels: Whether it reads classes.
        weights: What of it is trained beside the student: critics, layers of losses, connectors.
        cost: What a step takes with it, as it was measured; '' where it was not.
        ramps: How the weights rise and fall unless the method is told, in words, task by task.
    """

    name: str
    about: str
    paper: str
    members: str
    tasks: tuple[str, ...]
    reads: tuple[str, ...]
    labels: bool
    weights: tuple[str, ...]
    cost: str
    ramps: tuple[str, ...] = ()


def facts_of(name: str) -> Facts:
    """Return what is told of a method.

    >>> facts = facts_of('skd')
    >>> facts.tasks, facts.labels, facts.weights
    (('segmentation', 'depth', 'detection'), False, ('critic',))

    Raises:
        KeyError: There is no such method.
        ValueError: It serves no task that is known.
    """
    function = find_method(name)
    plans = dict(_plans(name))
    if not plans:
        raise ValueError(f"method {name!r} serves none of mmkd's tasks, so nothing is known of it")
    reads = [point for plan in plans.values() for point in _reads(plan)]
    weights = [part for plan in plans.values() for part in _weights(plan)]
    text = inspect.getdoc(function) or name
    wanted = needs_of(function)
    return Facts(
        name=name,
        about=text.partition('\n')[0],
        paper=wanted.paper,
        members='peers' if wanted.teachers == PEERS else wanted.teachers,
        tasks=tuple(plans),
        reads=tuple(dict.fromkeys(reads)),
        labels=any(map(reads_labels, plans.values())),
        weights=tuple(dict.fromkeys(weights)),
        cost='; '.join(filter(None, (measured_cost(name), wanted.cost))),
        ramps=tuple(
            f'{task}: warm_up={plan.warm_up!r}, decay={plan.decay!r}'
            for task, plan in plans.items()
            if plan.ramps
        ),
    )


def measured_cost(name: str) -> str:
    """Return which share of a student's step the objectives of a method took, '' if not measured.

    It is that of the pair which ``mmkd benchmark --methods`` takes, as it was recorded last.
    """
    row = _measured().get(name, {})
    if 'share' not in row:
        return ''
    share = row['share']
    return f'{share:.3f} of the step' if share >= 0.0005 else 'below 0.001 of the step'


@cache
def _measured() -> dict[str, dict]:
    return json.loads(COSTS.read_text(encoding='utf-8'))['methods'] if COSTS.exists() else {}


def all_facts() -> list[Facts]:
    """Return what is told of every method, by name."""
    return [facts_of(name) for name in sorted(known_methods())]


def _plans(name: str) -> Iterator[tuple[str, Plan]]:
    """Yield the tasks that a method serves, and what it makes of a pair of each."""
    wanted = needs_of(find_method(name))
    teachers: tuple[str, ...] = ('teacher',)
    if wanted.teachers == SEVERAL:
        teachers = ('t0', 't1')
    students = ('peer0', 'peer1') if wanted.teachers == PEERS else ('student',)
    if wanted.teachers in (PEERS, ITSELF):
        teachers = ()
    for task, config in EXAMPLES:
        model = Described(config)
        models = dict.fromkeys((*students, *teachers), model)
        files = dict.fromkeys(teachers, 'teacher.pth')  # which none of the methods reads
        pair = Pair(task, students, teachers, models, LENGTH, name, files)
        if not wanted.tasks or pair.kind in wanted.tasks:
            yield pair.kind, plan_of(name, {}, pair)


def _reads(plan: Plan) -> Iterator[str]:
    for taps in (plan.taps, *plan.member_taps.values()):
        for tap, path in taps.items():
            point = tap if path == 'auto' else path.removeprefix('auto:')
            # of many levels one is named: scales.*, not scales.0, scales.1, …
            yield re.sub(r'\.\d+\b', '.*', re.split(r'[\[#:]', point)[0])
    for one in plan.objectives.values():
        reads = (one.get('reads') or {}).values()
        yield from (read for read in reads if isinstance(read, str) and read.startswith('batch.'))
        yield from ('batch.labels' for part in parts_of_where(one) if part.labels)


def _weights(plan: Plan) -> Iterator[str]:
    for one in plan.teachers.values():
        if getattr(KINDS.get(one['kind']), 'learns', False):
            yield f'weights of {one["kind"]}'
    for parts in plan.cfg_options.values():
        yield from (f'layers of {part["type"].split(".")[-1]}' for part in parts.values())
    for one in plan.objectives.values():
        loss: dict[str, Any] = one['loss']
        kind: Any = MODELS.get(loss['type'])
        if loss.get('critic') is not None:
            yield 'critic'
        options = inspect.signature(kind).parameters
        yield from (f'{made} of {loss["type"]}' for c, made in OWN_PARTS.items() if c in options)
        # class logits come after the connector where the teacher's head makes them
        own = None if one.get('teacher_head') else getattr(kind, 'roles', {}).get('student')
        yield from _connectors(one, own)


def _connectors(one: dict[str, Any], role: Any) -> Iterator[str]:
    given = (one.get('connectors') or {}).get('student')
    if given == 'auto' or (isinstance(given, dict) and given.get('type') == 'auto'):
        if role is None or ('channels' in role.alike and not role.class_logits):
            kind = 'conv' if given == 'auto' else given.get('kind', 'conv')
            always = given != 'auto' and given.get('always', True)
            what = '1×1 convolution' if kind == 'conv' else kind
            yield what if always else f'{what} where channels differ'
    elif isinstance(given, str) and given.startswith('auto:'):
        yield given.partition(':')[2]
    elif isinstance(given, dict):
        yield f'layers of {given["type"]}'
