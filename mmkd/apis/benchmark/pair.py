"""The models of a config, ready to be measured: ours, the student alone, both as peers do."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from mmkd.apis.methods import expand_config
from mmkd.apis.prepare import hand_down_preprocessor, is_distiller
from mmkd.apis.settings import optim_wrappers
from mmkd.distiller import Distiller
from mmkd.distiller.assembly import Settings, assemble, read_taps, streams_of
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import as_dict, network_of
from mmkd.distiller.members.run import students_of, teachers_of
from mmkd.distiller.objectives.objective import stand_in
from mmkd.distiller.phases.phase import Phase
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record
from mmkd.tasks.base import task_of
from mmkd.tasks.generated import generated_batch
from mmkd.utils.checks import check_choice
from mmkd.utils.kinds import bare_name, is_made

AMP = {'fp32': 'OptimWrapper', 'bf16': 'mmkd.Bf16OptimWrapper', 'fp16': 'AmpOptimWrapper'}
LAYOUTS = ('none', 'student', 'teacher', 'both')


@dataclass(frozen=True)
class Options:
    """How a pair runs; None leaves what the config says.

    >>> Options(channels_last='student', compile=True).member('teacher')
    {'channels_last': False, 'compile': True}

    Args:
        amp: Precision of the student: 'fp32', 'bf16' (autocast) or 'fp16' (autocast and gradient
            scaler, CUDA only).
        channels_last: 'none', 'student', 'teacher' or 'both'.
        teacher_precision: 'fp32', 'bf16' or 'fp16' weights.
        fuse_bn: Fold the teacher's BatchNorm.
        compile: torch.compile the teacher.
    """

    amp: str | None = None
    channels_last: str | None = None
    teacher_precision: str | None = None
    fuse_bn: bool | None = None
    compile: bool | None = None

    def __post_init__(self) -> None:
        check_choice('amp', self.amp, (None, *AMP))
        check_choice('channels_last', self.channels_last, (None, *LAYOUTS))

    def member(self, role: str) -> dict[str, Any]:
        """Return the options that these set for a member of this role."""
        chosen: dict[str, Any] = {}
        if self.channels_last is not None:
            chosen['channels_last'] = self.channels_last in (role, 'both')
        if role == 'teacher':
            own = dict(precision=self.teacher_precision, fuse_bn=self.fuse_bn, compile=self.compile)
            chosen |= {key: value for key, value in own.items() if value is not None}
        return chosen


class Pair:
    """A config's members, untrained and without downloads, and one function a thing to measure.

    Objectives and optimizers are the config's; only the learning rates are tiny, for every step
    sees the same batch.

    Args:
        cfg: A config whose model is a Distiller.
        options: How the pair runs.
        size: Height and width; None takes the data preprocessor's, else the config's ``crop_size``.
        batch_size: Images; None takes the config's.
        device: Where.

    Raises:
        ValueError: The config's model is no Distiller; no size is known.
    """

    def __init__(
        self,
        cfg: Config,
        options: Options,
        size: tuple[int, int] | None = None,
        batch_size: int | None = None,
        device: str | torch.device = 'cpu',
    ) -> None:
        refuse_plain(cfg)
        cfg = copy.deepcopy(cfg)
        expand_config(cfg)
        hand_down_preprocessor(cfg)
        self.device = torch.device(device)
        settings = Settings.of(cfg.model.to_dict())
        members = {role: offline_members(settings, role, size) for role in ('student', 'teacher')}
        if size is not None and isinstance(settings.data_preprocessor, dict):
            pad_to(settings.data_preprocessor, size)
        own: dict[str, dict] = {}
        for role, named in members.items():
            chosen = options.member(role)
            own[role] = {
                name: member if is_made(member) else {**member, **chosen}
                for name, member in named.items()
            }
        settings = replace(
            settings,
            student=None,
            teacher=None,
            students=own['student'],
            teachers=own['teacher'],
        )
        self.settings, self.parts = settings, assemble(settings)
        self.full: Any = self._ready(Distiller.of(self.parts, settings))
        stand_in(self.full.objectives.values())
        self.lean = self._without_critics()
        self.layouts = [
            torch.channels_last if member.get('channels_last') else torch.contiguous_format
            for member in own['student'].values()
        ]
        self.plain = [self._alone(member) for member in members['student'].values()]
        for model, layout in zip(self.plain, self.layouts, strict=True):
            model.to(memory_format=layout)
        self.peer_students = [self._alone(member) for member in members['student'].values()]
        trained = [one for one in members['teacher'].values() if not is_made(one)]
        self.peer_teachers = [self._alone(member).eval() for member in trained]
        self.optimizers = quiet_optimizers(cfg.optim_wrapper.to_dict(), options.amp)
        self.peer_optimizers = quiet_optimizers(self.optimizers, 'fp32')

        source = self.full.data_preprocessor
        size = size or getattr(source, 'size', None) or cfg.get('crop_size')
        task = task_of(self.plain[0], source)
        if size is None and not task.sized:
            size = task.size
        if size is None:
            raise ValueError('the data preprocessor has no size. Mend: --size H W')
        self.size, self.batch_size = tuple(size), batch_size or cfg.train_dataloader.batch_size
        self.data = generated_batch(self.batch_size, self.size, task, device=self.device)

    def cases(self) -> dict[str, Callable[[], Any]]:
        """Return name -> function.

        ``student`` and ``teacher`` as this config runs them; ``noise`` on what students see and
        ``noisy_teacher`` where there are such noises; ``objectives`` and ``critics`` alone;
        ``step`` without the critics, ``step_with_critic`` where there are some; ``peer_student``
        and ``peer_teacher`` in float32 and NCHW, the latter with its losses.
        """
        inputs = self.full.data_preprocessor(copy.deepcopy(self.data), True)
        batch = Batch(inputs['inputs'], inputs['data_samples'])
        own = self._with_optimizers(self.plain, self.optimizers)
        peers = self._with_optimizers(self.peer_students, self.peer_optimizers)
        nchw = [torch.contiguous_format] * len(peers)
        teachers = teachers_of(self.full.runs)
        noisy = [run for run in students_of(self.full.runs) if run.noises]
        cases: dict[str, Callable[[], Any]] = dict(
            student=lambda: step_all(own, self.layouts, self.data),
            teacher=lambda: {run.name: run.watch(batch) for run in teachers if run.heard},
        )
        if noisy:
            cases['noise'] = lambda: [run.noises.on_batch(batch) for run in noisy]
        if any(run.noises for run in teachers):
            cases['noisy_teacher'] = lambda: [run.observe(batch) for run in teachers if run.heard]
        objectives = self.full.objectives.values()
        plain = [objective for objective in objectives if not objective.adversarial]
        adversarial = [objective for objective in objectives if objective.adversarial]
        observed = self._observed(batch)
        if plain:
            cases['objectives'] = lambda: _objectives_alone(plain, *observed())
        if adversarial:
            cases['critics'] = lambda: _critics_alone(adversarial, *observed())
        critics = bool(adversarial)
        for name, distiller in (
            ('step', self.lean if critics else self.full),
            ('step_with_critic', self.full if critics else None),
        ):
            if distiller is not None:
                cases[name] = partial(distiller.train_step, self.data, self.wrapper(distiller))
        cases['peer_student'] = lambda: step_all(peers, nchw, self.data)
        cases['peer_teacher'] = lambda: _forward_with_losses(self.peer_teachers, batch)
        return cases

    def _with_optimizers(self, models: list[Any], optimizers: dict) -> list[tuple[Any, Any]]:
        named = zip(self.full.students, models, strict=True)
        return [(model, self.plain_wrapper(name, model, optimizers)) for name, model in named]

    def _observed(self, batch: Batch) -> Callable[[], tuple[Record, dict[str, Any]]]:
        """Return what gives the record of one forward of the members, and what teachers' taps saw.

        The student's part are leaves of a graph.
        """

        @cache  # the members run in the first call, which is not timed
        def observed() -> tuple[Record, dict[str, Any]]:
            with torch.no_grad():
                record, _ = self.full.observe(batch.inputs, batch.data_samples)
            seen = {}
            for run in teachers_of(self.full.runs):
                seen[run.name] = run.watch(batch)
            for run in students_of(self.full.runs):
                mine = record[run.name]
                record[run.name] = {tap: x.requires_grad_() for tap, x in mine.items()}
            return record, seen

        return observed

    def wrapper(self, distiller: nn.Module) -> OptimWrapper:
        """Return the config's optimizers for a Distiller."""
        return build_optim_wrapper(distiller, copy.deepcopy(self.optimizers))

    def plain_wrapper(self, name: str, model: nn.Module, optimizers: dict) -> OptimWrapper:
        """Return the optimizer of a student's own losses for the student alone."""
        own = next(phase.optimizer for phase in self.full.phases if name in phase.task)
        kept = {
            key: value
            for key, value in optimizers.items()
            if key == own or not (isinstance(value, dict) and 'optimizer' in value)
        }
        return build_optim_wrapper(model, copy.deepcopy(kept))

    def _ready(self, model: nn.Module) -> Any:
        # init_weights, which would download, is never called: torch's own initialisation serves for
        # timing.
        return revert_sync_batchnorm(model).to(self.device).train()

    def _alone(self, member: dict) -> Any:
        plain = {key: member[key] for key in ('model', 'scope')}
        return self._ready(Member.parse('student', 'student', plain).build())

    def _without_critics(self) -> Distiller | None:
        """Return a Distiller without the adversarial objectives; None where there are none."""
        others = {n: o for n, o in self.parts.objectives.items() if not o.adversarial}
        if len(others) in (0, len(self.parts.objectives)):
            return None
        phases = _lean_phases(self.parts.phases, others)
        runs = dict(self.parts.runs)
        for run in students_of(runs):  # of the teachers nothing is left out
            runs[run.name] = copy.copy(run)
            runs[run.name].taps = run.taps.only(read_taps(run.name, others, self.parts.combined))
        streams = streams_of(others, self.parts.students, self.parts.combined)
        read = {reference for one in others.values() for reference in one.references}
        combined = {name: one.only(read) for name, one in self.parts.combined.items()}
        parts = replace(
            self.parts,
            objectives=others,
            runs=runs,
            combined=combined,
            streams=streams,
            phases=phases,
            fitted=[],
        )
        return self._ready(Distiller.of(parts, self.settings))


def refuse_plain(cfg: Config) -> None:
    """Refuse a config whose model is no Distiller.

    Raises:
        ValueError: Names its type.
    """
    if not is_distiller(cfg):
        raise ValueError(
            'the benchmark compares students and teachers, but the model of this config is '
            f"{cfg.model.get('type')!r}. Mend: a config with model=dict(type='mmkd.Distiller', …)"
        )


def _lean_phases(phases: list[Phase], objectives: dict) -> list[Phase]:
    """Return the phases that have something to do without critics."""
    kept = []
    for phase in phases:
        own = tuple(name for name in phase.objectives if name in objectives)
        if phase.task or own:
            kept.append(replace(phase, objectives=own, critics=()))
    return kept


def quiet_optimizers(config: dict, amp: str | None) -> dict:
    """Return ``optim_wrapper`` with tiny learning rates and the chosen precision."""
    config = copy.deepcopy(config)
    for _, wrapper in optim_wrappers(config):
        wrapper['optimizer']['lr'] = 1e-8
        if amp is not None:
            for key in ('dtype', 'loss_scale'):
                wrapper.pop(key, None)
            wrapper['type'] = AMP[amp]
    return config


def offline_members(settings: Settings, role: str, size: tuple[int, int] | None) -> dict[str, dict]:
    """Return the members of a role, without checkpoints and at another size."""
    named = settings.named(role).items()
    return {name: _offline(name, role, value, size) for name, value in named}


def _offline(name: str, role: str, value: Any, size: tuple[int, int] | None) -> dict:
    if is_made(value):
        return dict(value)
    value = dict(network_of(as_dict(value, f'{role} {name!r}'), f'{role} {name!r}'))
    value.pop('checkpoint', None)
    if role == 'teacher':
        value['allow_untrained'] = True
    member = Member.parse(name, role, value)
    model = copy.deepcopy(member.model)
    if size is not None and model.get('data_preprocessor'):
        pad_to(model['data_preprocessor'], size)
    return dict(model=model, scope=member.scope, taps=member.taps, **member.options)


def pad_to(preprocessor: dict, size: tuple[int, int]) -> None:
    """Have the config of a preprocessor that pads to a size pad to this one.

    Others take images as they come, and generated ones have the size.

    >>> one = dict(type='mmseg.SegDataPreProcessor', size_divisor=32)
    >>> pad_to(one, (8, 8))
    >>> one
    {'type': 'mmseg.SegDataPreProcessor', 'size': (8, 8)}
    """
    if bare_name(preprocessor.get('type')) == 'SegDataPreProcessor':
        preprocessor.pop('size_divisor', None)  # mmseg takes one of the two
        preprocessor['size'] = size


def _objectives_alone(objectives: list[Any], record: Record, seen: dict[str, Any]) -> None:
    """Running statistics of ensembles, then forward and backward of objectives."""
    for objective in objectives:
        for stream in objective.running():
            record[stream.key] = stream.collect(seen)
    sum(objective(record)[f'{objective.name}.loss'] for objective in objectives).backward()


def _critics_alone(objectives: list[Any], record: Record, seen: dict[str, Any]) -> None:
    """Forward and backward of what students get from critics, and of what critics learn from."""
    _objectives_alone(objectives, record, seen)
    sum(
        objective.critic_loss(record)[f'{objective.name}.critic_loss'] for objective in objectives
    ).backward()


def step_all(
    students: list[tuple[Any, OptimWrapper]], layouts: list[torch.memory_format], data: dict
) -> None:
    """Step every student as ``BaseModel.train_step`` does, its inputs in its layout."""
    for (model, wrapper), layout in zip(students, layouts, strict=True):
        with wrapper.optim_context(model):
            batch = model.data_preprocessor(data, True)
            losses = model(
                batch['inputs'].to(memory_format=layout), batch['data_samples'], mode='loss'
            )
        if losses:  # a backbone without a head has none of its own
            wrapper.update_params(model.parse_losses(losses)[0])


@torch.no_grad()
def _forward_with_losses(teachers: list[nn.Module], batch: Batch) -> None:
    for teacher in teachers:
        teacher(batch.inputs, batch.data_samples, mode='loss')
