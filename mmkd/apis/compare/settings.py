"""The config of each run of a comparison, out of the config of the pair."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmkd.apis.compare.specs import Spec
from mmkd.apis.launch import load_config
from mmkd.apis.length import follow_length, scaled
from mmkd.apis.methods import expand_config
from mmkd.apis.prepare import is_distiller, set_amp
from mmkd.apis.runs import digest_of, digest_of_file
from mmkd.apis.settings import optim_wrappers
from mmkd.distiller.export import student_config
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import as_dict
from mmkd.engine.runner.peer_loops import ENSEMBLE, MEAN
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import bare_name, is_made, is_stored
from mmkd.utils.plain_values import with_plain_values
from mmkd.utils.stored.manifest import read_manifest

MEMBERS = ('student', 'teacher', 'students', 'teachers')
# of the pair's Distiller, what does not belong to its method
KEPT = (*MEMBERS, 'type', 'data_preprocessor', 'predict_with', 'init_cfg', 'train_cfg', 'test_cfg')
HOOKS = ('RunRecordHook', 'StepClockHook')  # every run has them
MIXED = 'WithUnlabelled'  # a training set that holds images without labels
LABELS_ALONE = 'trained on the labelled images alone, by whole batches of them'
EXACT = 'ExactResumeHook'
SCALARS = 'LocalVisBackend'  # writes what a run was validated at
SCHEDULES = 'ScheduleHook'  # goes with the objectives that it changes
LOGGED = 6  # times at least that a short run is logged


def read_pair_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a pair: members, data, schedule and runtime, without its method.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: Its model is no Distiller of a student and a teacher; it has no test set; an
            option is of what is left out.
    """
    for key in options or {}:
        part = key.split('.')[1] if key.startswith('model.') else 'type'
        if part not in KEPT:
            raise ValueError(
                f'--cfg-options {key}: the {part} of the pair is left out, since every method '
                'brings its own. Mend: --methods NAME:option=value,…'
            )
    cfg = with_plain_values(load_config(path, dict(options or {})))
    if not is_distiller(cfg):
        raise ValueError(
            f'{path}: the pair is the config of a Distiller, which has a student and a teacher, '
            f'but its model is {(cfg.get("model") or {}).get("type")!r}. Mend: mmkd distill '
            'STUDENT.py TEACHER.py TEACHER.pth --dry-run writes one'
        )
    model = cfg.model.to_dict()
    if len(named(model, 'student')) != 1 or not named(model, 'teacher'):
        raise ValueError(
            f'{path}: a comparison needs one student and a teacher, got the students '
            f'{list(named(model, "student"))} and the teachers {list(named(model, "teacher"))}. '
            'Mend: student=dict(cfg=…), teacher=dict(cfg=…, checkpoint=…)'
        )
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            f'{path}: every method is tested, but the config has no test_dataloader. Mend: '
            'test_dataloader, test_cfg and test_evaluator'
        )
    cfg.model = ConfigDict({key: model[key] for key in model if key in KEPT})
    _without_parts_of_the_method(cfg)
    return cfg


def named(model: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Return name -> member of a role.

    >>> named(dict(student=1), 'student'), named(dict(teachers=dict(a=1, b=2)), 'teacher')
    ({'student': 1}, {'a': 1, 'b': 2})
    """
    if model.get(role) is not None:
        return {role: model[role]}
    return dict(model.get(f'{role}s') or {})


def _without_parts_of_the_method(cfg: Config) -> None:
    """Take out the schedules and optimizers of the objectives that are taken out."""
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [one for one in hooks if _kind(one) != SCHEDULES]
    usual = cfg.get('default_hooks') or {}
    for name in [name for name, one in usual.items() if _kind(one) == SCHEDULES]:
        del usual[name]
    add_recorders(cfg)
    optimizers = dict(optim_wrappers(cfg.get('optim_wrapper')))
    if 'student' in optimizers:
        shared = cfg.optim_wrapper.get('paramwise_cfg')  # of every optimizer without its own
        own = dict(optimizers['student'])
        own.pop('params', None)  # of a single optimizer they are all
        cfg.optim_wrapper = own if shared is None else {'paramwise_cfg': shared, **own}
    schedules = cfg.get('param_scheduler')
    if isinstance(schedules, dict) and 'student' in schedules and 'type' not in schedules:
        cfg.param_scheduler = schedules['student']


def add_recorders(cfg: Config) -> None:
    """Give a config the hooks that write what a run took, where it has none."""
    hooks = list(cfg.get('custom_hooks') or [])
    there = {_kind(one) for one in _hooks(cfg)}
    new = [ConfigDict(type=f'mmkd.{name}') for name in HOOKS if name not in there]
    cfg.custom_hooks = [*hooks, *new]
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    # what a run was validated at is read from its file; mmengine's default has it
    if backends is not None and SCALARS not in map(_kind, backends):
        cfg.visualizer.vis_backends = [*backends, dict(type=SCALARS)]


def _hooks(cfg: Config) -> list[Any]:
    return [*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values()]


def _schedule_hooks(cfg: Config) -> list[Any]:
    return [one for one in _hooks(cfg) if _kind(one) == SCHEDULES]


def _kind(hook: Any) -> str:
    return bare_name(hook.get('type')) if isinstance(hook, dict) else ''


# ---------------------------------------------------------------------- length


def iterations_of(cfg: Config) -> int | None:
    """Return the length of a run in iterations; None of one that counts epochs."""
    return (cfg.get('train_cfg') or {}).get('max_iters')


def set_length(cfg: Config, iters: int) -> None:
    """Give a run another length, and scale with it what is counted in iterations.

    Raises:
        ValueError: Its loop counts epochs.
    """
    own = iterations_of(cfg)
    if own is None:
        raise ValueError(
            f'{cfg.filename} does not say train_cfg.max_iters: it counts epochs, so --iters and '
            '--seconds have nothing to change. Mend: leave them out, or write train_cfg=dict('
            "type='IterBasedTrainLoop', max_iters=…)"
        )
    cfg.train_cfg.max_iters = iters
    factor = iters / own
    if factor != 1 and cfg.get('param_scheduler'):
        cfg.param_scheduler = scaled(_plain(cfg.param_scheduler), factor)
    _scale_validations(cfg, factor)
    for hook in _schedule_hooks(cfg) if factor != 1 else ():
        _scale_lengths(hook, factor)
    for hook in _hooks(cfg):
        if _kind(hook) == 'EMAHook' and hook.get('begin_iter'):
            hook['begin_iter'] = min(iters - 1, round(hook['begin_iter'] * factor))


def _scale_validations(cfg: Config, factor: float) -> None:
    """Scale when a run is validated, and from where on its checkpoints are kept."""
    loop, hook = cfg.train_cfg, (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if loop.get('val_interval'):
        loop.val_interval = _between_steps(cfg, max(1, round(loop.val_interval * factor)))
    if loop.get('dynamic_intervals'):
        loop.dynamic_intervals = [
            (round(begin * factor), _between_steps(cfg, max(1, round(interval * factor))))
            for begin, interval in loop.dynamic_intervals
        ]
    for part, key in ((loop, 'val_begin'), (hook, 'save_begin')):
        if part.get(key):
            part[key] = max(1, round(part[key] * factor))


def _scale_lengths(hook: dict[str, Any], factor: float) -> None:
    """Scale what the schedules of objectives and their levels count in iterations.

    >>> hook = dict(schedules=[dict(begin=0, length=9), dict(points=[(0, 0.), (6, 2.)])],
    ...             levels=dict(length=[30, 60]))
    >>> _scale_lengths(hook, 1 / 3)
    >>> hook['schedules'][0], hook['schedules'][1]['points'], hook['levels']
    ({'begin': 0, 'length': 3}, [(0, 0.0), (2, 2.0)], {'length': [10, 20]})
    """
    for part in (*(hook.get('schedules') or ()), hook.get('levels') or {}):
        for key in ('begin', 'length'):
            if part.get(key):
                part[key] = _scaled_counts(part[key], factor)
        if 'points' in part:
            part['points'] = _scaled_points(part['points'], factor)


def _scaled_points(points: Sequence[Any], factor: float) -> list[tuple[int, Any]]:
    """Scale the iterations of points, which rise however short a run is.

    >>> _scaled_points([(0, 0.0), (30, 1.0), (60, 1.0), (63, 0.0)], 0.1)
    [(0, 0.0), (3, 1.0), (6, 1.0), (7, 0.0)]
    """
    found: list[tuple[int, Any]] = []
    for step, value in points:
        at = round(step * factor)
        found.append((max(at, found[-1][0] + 1) if found else at, value))
    return found


def _scaled_counts(counts: Any, factor: float) -> Any:
    if isinstance(counts, list | tuple):
        return [_scaled_counts(one, factor) for one in counts]
    return max(1, round(counts * factor))


def _between_steps(cfg: Config, interval: int) -> int:
    """Return an interval at which every optimizer steps, the next one.

    ``ExactResumeHook`` refuses checkpoints that cut an accumulation. At the end of the run all of
    them step.
    """
    if EXACT not in map(_kind, _hooks(cfg)) or interval >= (iterations_of(cfg) or interval):
        return interval
    wrappers = [one for _, one in optim_wrappers(cfg.get('optim_wrapper'))]
    counts = math.lcm(*(one.get('accumulative_counts', 1) for one in wrappers))
    return -(-interval // counts) * counts


def _plain(value: Any) -> Any:
    return Config(dict(value=value))._cfg_dict.to_dict()['value']


def _log_and_save_often(cfg: Config) -> None:
    """Let a short run log a few times, and a killed one go on from its last validation."""
    length = iterations_of(cfg)
    if length is None:
        return
    hooks = cfg.get('default_hooks') or ConfigDict()
    cfg.default_hooks = hooks
    logger = hooks.get('logger')
    if isinstance(logger, dict):
        logger['interval'] = max(1, min(logger.get('interval', 10), length // LOGGED))
    checkpoint = hooks.get('checkpoint')
    interval = cfg.train_cfg.get('val_interval')
    if isinstance(checkpoint, dict) and not checkpoint.get('by_epoch', True) and interval:
        own = checkpoint.get('interval', -1)
        checkpoint['interval'] = _between_steps(cfg, min(own, interval) if own > 0 else interval)


# ---------------------------------------------------------------------- one run


def run_config(
    base: Config,
    spec: Spec,
    seed: int,
    iters: int | None = None,
    factor: float = 1.0,
    shares_every: int | None = None,
    amp: bool = False,
) -> Config:
    """Return the config of one run, its method written out; the work dir is left to the caller.

    Args:
        base: The pair, as :func:`read_pair_config` returns it, or the recipe of a row, as
            :func:`mmkd.apis.compare.recipes.read_recipe_config` does; left as it is.
        spec: The method, the student alone, or a recipe.
        seed: Of the run.
        iters: Its length; None: that of the base.
        factor: Of the weights of the method's objectives.
        shares_every: Iterations between two measurements of gradient shares; None: there is none.
        amp: Mixed precision for every optimizer.

    Raises:
        KeyError: There is no such method; names the nearest one. No optimizer to be made mixed.
        TypeError: An option that it does not have.
        ValueError: A pair that it is not made for; a length that the loop does not have.
    """
    cfg = copy.deepcopy(base)
    cfg.pop('work_dir', None)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if iters is not None:
        if spec.recipe is not None:  # iterations that its method's options count are scaled too
            expand_config(cfg)
        set_length(cfg, iters)
    follow_length(cfg)
    _log_and_save_often(cfg)
    # of each run its own folder holds all, also where the pair saves elsewhere
    ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).pop('out_dir', None)
    if spec.alone:
        _leave_alone(cfg)
    else:
        _teach(cfg, spec, factor, shares_every)
    if amp:  # of the optimizers that a method brings too
        set_amp(cfg)
    return cfg


def _teach(cfg: Config, spec: Spec, factor: float, shares_every: int | None) -> None:
    """Write out what a run learns from a method, or by its recipe."""
    if spec.methods:
        cfg.model.method = spec.method
    expand_config(cfg)
    evaluate_one_student(cfg)
    if factor != 1:
        multiply_weights(cfg, factor)
    if shares_every is not None and cfg.model.get('objectives'):
        cfg.custom_hooks.append(ConfigDict(type='mmkd.GradientShareHook', every=shares_every))


def evaluate_one_student(cfg: Config) -> None:
    """Evaluate the student that predicts, where the loops of a config would evaluate all peers.

    >>> cfg = Config(dict(
    ...     model=dict(students=dict(a=1, b=2)), val_cfg=dict(type='mmkd.PeerValLoop'),
    ...     default_hooks=dict(checkpoint=dict(save_best=['a/mIoU', 'b/mIoU']))))
    >>> evaluate_one_student(cfg)
    >>> cfg.val_cfg.type, cfg.default_hooks.checkpoint.save_best
    ('ValLoop', 'mIoU')
    """
    loops = [cfg.get(key) or {} for key in ('val_cfg', 'test_cfg')]
    peers = [one for one in loops if bare_name(one.get('type')).startswith('Peer')]
    for loop in peers:
        loop['type'] = bare_name(loop['type']).removeprefix('Peer')
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best = hook.get('save_best')
    if peers and best and best != 'auto':
        names = [best] if isinstance(best, str) else best
        whose = [*named(cfg.model, 'student'), MEAN, ENSEMBLE]
        kept = list(dict.fromkeys(_without_peer(name, whose) for name in names))
        hook['save_best'] = kept[0] if len(kept) == 1 else kept


def _without_peer(metric: str, peers: Sequence[str]) -> str:
    first, _, rest = metric.partition('/')
    return rest if first in peers else metric


def multiply_weights(cfg: Config, factor: float) -> None:
    """Multiply the weight of every objective, and of the schedules that set one.

    >>> cfg = Config(dict(model=dict(objectives=dict(a=dict(weight=2.0), b=dict())), custom_hooks=[
    ...     dict(type='mmkd.ScheduleHook', schedules=[dict(target='a.weight', start=1., end=0.)])]))
    >>> multiply_weights(cfg, 3.0)
    >>> [one['weight'] for one in cfg.model.objectives.values()]
    [6.0, 3.0]
    >>> cfg.custom_hooks[0].schedules[0]['start'], cfg.custom_hooks[0].schedules[0]['end']
    (3.0, 0.0)
    """
    for one in cfg.model.objectives.values():
        one['weight'] = one.get('weight', 1.0) * factor
    for hook in _schedule_hooks(cfg):
        for schedule in hook.get('schedules') or ():
            if str(schedule.get('target', '')).endswith('.weight'):
                _scale_schedule(schedule, factor)


def _scale_schedule(schedule: dict[str, Any], factor: float) -> None:
    if 'points' in schedule:
        schedule['points'] = [(step, value * factor) for step, value in schedule['points']]
        return
    ends = [key for key in ('start', 'end') if key in schedule]
    if not ends:
        raise ValueError(
            f'the schedule of {schedule["target"]!r} has no start and end to be multiplied. '
            'Mend: leave this method out of --tune'
        )
    for key in ends:
        schedule[key] = schedule[key] * factor


def is_mixed(cfg: Config) -> bool:
    """Return whether images without labels stand beside the labelled ones of a training set.

    >>> mixed = dict(type='mmkd.WithUnlabelled', dataset={}, unlabelled={})
    >>> repeated = dict(type='RepeatDataset', times=2, dataset=mixed)
    >>> [is_mixed(Config(dict(train_dataloader=dict(dataset=one)))) for one in (repeated, {})]
    [True, False]
    """
    return _holds_unlabelled((cfg.get('train_dataloader') or {}).get('dataset'))


def _holds_unlabelled(dataset: Any) -> bool:
    if isinstance(dataset, list | tuple):
        return any(map(_holds_unlabelled, dataset))
    if not isinstance(dataset, dict):
        return False
    inside = (dataset.get('dataset'), dataset.get('datasets'))
    return _kind(dataset) == MIXED or any(map(_holds_unlabelled, inside))


def _leave_out_unlabelled(cfg: Config) -> None:
    """Train on the labelled set alone, by whole batches of it."""
    loader = cfg.train_dataloader
    if _kind(loader.dataset) != MIXED:
        outer = loader.dataset.type
        raise ValueError(
            f'alone is {LABELS_ALONE}, but {MIXED} stands inside of {outer}, which would then '
            f"be of other images. Mend: dict(type='mmkd.{MIXED}', dataset=dict(type={outer!r}, …), "
            'unlabelled=…) in train_dataloader; or leave alone out'
        )
    loader.dataset = loader.dataset.dataset
    if _kind(loader.get('sampler')) == 'MixedSampler':
        loader.sampler = ConfigDict(type='InfiniteSampler', shuffle=True)


def _leave_alone(cfg: Config) -> None:
    """Put the student in place of the Distiller; images without labels are nothing to it."""
    if is_mixed(cfg):
        _leave_out_unlabelled(cfg)
    model = cfg.model
    name, value = next(iter(named(model, 'student').items()))
    member = Member.parse(name, 'student', value)
    if isinstance(member.model, nn.Module):
        raise ValueError(
            f'{member.where} was given as a built model, which no run can be made of. Mend: '
            "dict(cfg='….py') or dict(model=dict(…))"
        )
    alone = ConfigDict(copy.deepcopy(member.model))
    if isinstance(model.get('data_preprocessor'), dict):
        alone.data_preprocessor = model.data_preprocessor
    elif member.cfg is not None and member.cfg.get('data_preprocessor') is not None:
        alone.setdefault('data_preprocessor', member.cfg.data_preprocessor)
    if member.scope != (cfg.get('default_scope') or 'mmseg'):
        alone['_scope_'] = member.scope
    cfg.model = alone
    _rename_parameters(cfg, f'students.{name}.')
    if member.checkpoint is not None:
        cfg.load_from = member.checkpoint


def _rename_parameters(cfg: Config, prefix: str) -> None:
    """Let options of a Distiller's parameters by name reach those of the student alone."""
    for _, wrapper in optim_wrappers(cfg.get('optim_wrapper')):
        options = wrapper.get('paramwise_cfg') or {}
        keys = options.get('custom_keys') or {}
        renamed = {key.removeprefix(prefix): value for key, value in keys.items()}
        if renamed != dict(keys):
            options['custom_keys'] = renamed


def teacher_configs(pair: Config) -> dict[str, tuple[Config, str | None]]:
    """Return for each teacher the plain config that it is tested by, and its checkpoint."""
    run = copy.deepcopy(pair)
    run.pop('model')
    run.pop('data_preprocessor', None)
    found = {}
    for name, value in named(pair.model, 'teacher').items():
        if is_made(value):  # there is nothing to test before a training
            continue
        if is_stored(value) and value.get('verify') is None:
            continue  # there is no network to test
        member = Member.parse(name, 'teacher', value)
        cfg = student_config(member, run)
        for key in ('default_hooks', 'custom_hooks', 'log_processor', 'randomness'):
            if pair.get(key) is not None:
                cfg[key] = copy.deepcopy(pair[key])
        found[name] = cfg, member.checkpoint
    return found


# ---------------------------------------------------------------------- what it is known by


def digest_of_run(cfg: Config) -> str:
    """Return a digest of what decides on a run's numbers, wherever it lies.

    Members that are given by files count by what these say, and the teacher's weights by their
    bytes, so that another teacher under the same name is another run.
    """
    settings = {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}
    model = settings['model']
    for role in ('student', 'teacher'):
        for name, value in named(model, role).items():
            model[f'{role} {name}'] = _content(value)
    for key in MEMBERS:
        model.pop(key, None)
    if isinstance(settings.get('load_from'), str):
        settings['load_from'] = digest_of_file(settings['load_from'])
    return digest_of(settings)


def digest_of_pair(pair: Config) -> str:
    """Return a digest of what all rows of a pair share, whatever their method, seed and length."""
    cfg = copy.deepcopy(pair)
    cfg.pop('randomness', None)
    return digest_of_run(cfg)


def _content(value: Any) -> dict[str, Any]:
    member = as_dict(value, 'a member')
    if is_stored(member):
        return {**member, 'path': read_manifest(member['path']).facts}
    if isinstance(member.get('cfg'), str | Path):
        member['cfg'] = read_config(str(member['cfg'])).to_dict().get('model')
    if member.get('checkpoint') is not None:
        member['checkpoint'] = digest_of_file(str(member['checkpoint']))
    return member
