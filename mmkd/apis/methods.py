"""``method=`` of a config, written out before a run."""

import inspect
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from rich.console import Console

from mmkd.apis.settings import optim_wrappers
from mmkd.methods.expand import (
    Additions,
    common_options,
    expand,
    expansion_text,
    find_method,
    options_of,
)
from mmkd.methods.facts import all_facts, facts_of
from mmkd.methods.plan import ITSELF, ONE, PEERS, SEVERAL, needs_of
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import bare_name
from mmkd.utils.tables import print_table

CONSTRUCTOR = 'mmkd.PhaseOptimWrapperConstructor'
OF_STUDENT = 'mmkd.StudentOptimWrapperConstructor'
SCHEDULES = 'ScheduleHook'
AROUND = ('custom_hooks', 'optim_wrapper', 'val_cfg', 'test_cfg', 'default_hooks')


def expand_config(cfg: Config) -> Additions | None:
    """Write out the method of a Distiller, and give the config the hooks and optimizers it needs.

    What the config says itself wins: an optimizer of that name, a hook of that type, a schedule of
    that target, loops of one's own. The expansion is logged as it could be written in place of
    ``method=``.

    A constructor of an optimizer that is none of mmkd's or mmengine's sees the student alone.

    Args:
        cfg: A config, changed in place; one of a plain model is left alone.

    Returns:
        What was added; None where nothing was.

    Raises:
        KeyError: There is no such method.
        TypeError: An option that it does not have.
        ValueError: A pair that it is not made for; an ``optim_wrapper`` with a constructor of its
            own where several optimizers are needed.
    """
    asked = cfg.get('model')
    distils = isinstance(asked, dict) and bare_name(asked.get('type')) == 'Distiller'
    additions = None
    if distils and asked.get('method') is not None:
        text, changed, additions = _expand(cfg)
        print_log(text, logger='current')
        for line in changed:
            print_log(f'mmkd: {line}', logger='current')
    if distils:
        _show_student(cfg)
    return additions


def _show_student(cfg: Config) -> None:
    """Let the constructor of an optimizer that knows models by their names see the student."""
    wrapper = cfg.get('optim_wrapper')
    constructor = wrapper.get('constructor') if isinstance(wrapper, dict) else None
    known = (CONSTRUCTOR, OF_STUDENT, 'DefaultOptimWrapperConstructor')
    if constructor and bare_name(constructor) not in map(bare_name, known):
        wrapper.update(constructor=OF_STUDENT, of=constructor)


def _expand(cfg: Config) -> tuple[str, list[str], Additions]:
    """Expand the method of a config, in place; return it as text, and what changed beside it."""
    method = cfg.model.to_dict()['method']
    before = {key: repr(cfg.get(key)) for key in AROUND}
    model, additions = expand(cfg.model, cfg)
    cfg.model = model
    changed = [
        *_add_hooks(cfg, additions),
        *_add_optimizers(cfg, additions),
        *_validate_peers(cfg, additions),
    ]
    return expansion_text(method, model, additions, _around(before, cfg)), changed, additions


def _around(before: dict[str, str], cfg: Config) -> dict[str, Any]:
    """Return the settings beside the model that an expansion changed, to be written into a file."""
    now = cfg.to_dict()
    around = {key: now[key] for key in AROUND if repr(cfg.get(key)) != before[key]}
    if 'optim_wrapper' in around:  # one optimizer of a _base_ does not merge with several
        around['optim_wrapper'] = {'_delete_': True, **around['optim_wrapper']}
    if 'default_hooks' in around:
        best = now['default_hooks']['checkpoint']['save_best']
        around['default_hooks'] = dict(checkpoint=dict(save_best=best))
    return around


def _add_hooks(cfg: Config, additions: Additions) -> list[str]:
    own = list(cfg.get('custom_hooks') or [])
    there = {bare_name(hook.get('type')) for hook in own if isinstance(hook, dict)}
    schedules = [h for h in own if isinstance(h, dict) and bare_name(h.get('type')) == SCHEDULES]
    new, said = [], []
    for hook in additions.hooks:
        # one schedule beside another is two hooks; all else is there once
        if bare_name(hook['type']) == SCHEDULES:
            hook, won = _without_own(hook, schedules)
            said += [f'the schedule of {target} of the config wins' for target in won]
            new += [hook] if hook.get('schedules') or hook.get('levels') else []
        elif bare_name(hook['type']) not in there:
            new.append(hook)
    if new:
        cfg.custom_hooks = [*own, *new]
    return [*said, *(f'custom_hooks gets {hook["type"]}' for hook in new)]


def _without_own(hook: dict, schedules: list[dict]) -> tuple[dict, list[str]]:
    """Return a method's schedules without those that the config has, and the targets of these.

    >>> tau, weight = dict(target='kd.loss.tau'), dict(target='kd.weight')
    >>> _without_own(dict(schedules=[tau, weight]), [dict(schedules=[tau])])
    ({'schedules': [{'target': 'kd.weight'}]}, ["'kd.loss.tau'"])
    """
    own = [one.get('target') for other in schedules for one in other.get('schedules') or ()]
    for other in schedules:  # a level sets the weights of what it names
        levels = (other.get('levels') or {}).get('levels') or ()
        own += [f'{name}.weight' for level in levels for name in level]
    hook, won = dict(hook), []
    if hook.get('schedules'):
        won = [repr(one['target']) for one in hook['schedules'] if one['target'] in own]
        hook['schedules'] = [one for one in hook['schedules'] if one['target'] not in own]
    if hook.get('levels') and any(other.get('levels') for other in schedules):
        won.append('levels')
        del hook['levels']
    return hook, won


def _add_optimizers(cfg: Config, additions: Additions) -> list[str]:
    if not additions.optimizers or cfg.get('optim_wrapper') is None:
        return []
    own = cfg.optim_wrapper.to_dict()
    wanted = {name: one for name, one in additions.optimizers.items() if name != 'student'}
    named = dict(optim_wrappers(own))
    alone = '' in named
    if wanted and alone:
        constructor = own.pop('constructor', CONSTRUCTOR)
        if bare_name(constructor) != bare_name(CONSTRUCTOR):
            raise ValueError(
                f'the method needs the optimizers {["student", *wanted]}, but optim_wrapper has '
                f'the constructor {constructor!r}, which makes one. Mend: optim_wrapper=dict('
                f'constructor={CONSTRUCTOR!r}, student=dict(…), …), without the other one'
            )
        own = dict(constructor=CONSTRUCTOR, student=own)
    said = [f'optim_wrapper gets the optimizer {name!r}' for name in wanted if name not in own]
    said += [f'the optimizer {name!r} of the config wins' for name in wanted if name in own]
    new = {name: dict(one) for name, one in wanted.items() if name not in own}
    own = {**own, **new}
    student = own.get('student') if 'student' in own else own
    said += _accumulate_alike(student, new)
    for key, value in additions.optimizers.get('student', {}).items():
        if isinstance(student, dict) and student.get(key) is None:
            student[key] = value
            said.append(f'the optimizer of the student gets {key}={value}')
    cfg.optim_wrapper = own
    return said


def _accumulate_alike(student: Any, new: dict[str, dict]) -> list[str]:
    """Let optimizers that were added step as often as the student's."""
    counts = student.get('accumulative_counts', 1) if isinstance(student, dict) else 1
    alike = [name for name, one in new.items() if counts != 1 and 'accumulative_counts' not in one]
    for name in alike:
        new[name]['accumulative_counts'] = counts
    return [
        f'the optimizer {name!r} gets accumulative_counts={counts} of the student' for name in alike
    ]


def _validate_peers(cfg: Config, additions: Additions) -> list[str]:
    """Validate every peer, unless the config has loops of its own."""
    said: list[str] = []
    if not additions.peers:
        return said
    for key, plain, peers in (
        ('val_cfg', 'ValLoop', 'mmkd.PeerValLoop'),
        ('test_cfg', 'TestLoop', 'mmkd.PeerTestLoop'),
    ):
        if cfg.get(key) is not None and bare_name(cfg[key].get('type', plain)) == plain:
            cfg[key].type = peers
            said.append(f'{key} validates every peer: {peers}')
    hook: Any = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best = hook.get('save_best')
    if said and best and best != 'auto':
        best = [best] if isinstance(best, str) else list(best)
        hook.save_best = [
            name if name.split('/')[0] in additions.peers else f'{peer}/{name}'
            for name in best
            for peer in additions.peers
        ]
        said.append(f'the best checkpoints are those by {", ".join(hook.save_best)}')
    return said


# ---------------------------------------------------------------------- told on the terminal


def list_methods(console: Console) -> None:
    """Print a table of every method."""
    rows = [
        (
            one.name,
            one.paper,
            ', '.join(one.reads),
            ', '.join(one.tasks),
            one.members,
            'yes' if one.labels else 'no',
            ', '.join(one.weights) or 'none',
            one.cost or '–',
        )
        for one in all_facts()
    ]
    columns = (
        'method',
        'paper',
        'reads',
        'tasks',
        'teachers',
        'labels',
        'weights of its own',
        'cost',
    )
    print_table(console, 'methods', columns, rows)
    console.print('mmkd methods NAME STUDENT.py TEACHER.py prints what one makes of a pair')


def tell_method(
    console: Console, name: str, student: str | None = None, others: Sequence[str] = ()
) -> None:
    """Print what a method is, its options, and what it makes of a pair.

    Args:
        console: Where.
        name: Of the method.
        student: The student's config; None: no pair.
        others: Configs of the teachers, or of the other peers.

    Raises:
        KeyError: There is no such method.
        ValueError: A pair that it is not made for.
    """
    function = find_method(name)
    facts = facts_of(name)
    lines = [
        f'{name}: {inspect.getdoc(function)}',
        '',
        f'Paper: {facts.paper}',
        f'Tasks: {", ".join(facts.tasks)}; teachers: {facts.members}',
        f'Reads: {", ".join(facts.reads)}; labels: {"yes" if facts.labels else "no"}',
        f'Weights of its own: {", ".join(facts.weights) or "none"}',
        f'Cost: {facts.cost or "not measured"} (benchmarks/README.md)',
        f'Options: {", ".join(f"{key}={value!r}" for key, value in options_of(function).items())}',
        f'Of every method: {", ".join(f"{key}=…" for key in common_options(function)) or "none"}; '
        f'unless given, {"; ".join(facts.ramps) or "the weights stay as they are"}',
    ]
    if student is not None:
        _check_number(function, name, len(others))
        run = read_config(student)
        run.model = _pair_of(function, name, student, others)
        lines += ['', _expand(run)[0]]
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)


def _check_number(function: Any, name: str, others: int) -> None:
    """Refuse too few configs in words of the command, not of a config."""
    least, members, files = {
        ONE: (1, 'a student and a teacher', 'STUDENT.py TEACHER.py'),
        SEVERAL: (2, 'a student and several teachers', 'STUDENT.py TEACHER.py TEACHER.py'),
        PEERS: (1, 'two peers or more', 'A.py B.py'),
        ITSELF: (0, 'a student', 'STUDENT.py'),
    }[needs_of(function).teachers]
    if others < least:
        raise ValueError(
            f'{name} takes the configs of {members}, got {others + 1}. Mend: mmkd methods {name} '
            f'{files}'
        )


def _pair_of(function: Any, name: str, student: str, others: Sequence[str]) -> dict[str, Any]:
    members: dict[str, Any] = dict(student=dict(cfg=student))
    if needs_of(function).teachers == PEERS:
        members = dict(students=_numbered('peer', [student, *others]))
    elif len(others) == 1:
        members['teacher'] = dict(cfg=others[0])
    elif others:
        members['teachers'] = _numbered('t', others)
    return dict(type='mmkd.Distiller', **members, method=name)


def _numbered(prefix: str, configs: Sequence[str]) -> dict[str, dict]:
    return {f'{prefix}{n}': dict(cfg=config) for n, config in enumerate(configs)}
