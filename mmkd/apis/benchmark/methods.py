"""What the objectives of each method cost, on what one forward of the members left."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmkd.apis.benchmark.pair import offline_members, quiet_optimizers, refuse_plain, step_all
from mmkd.apis.settings import optim_wrappers
from mmkd.distiller.assembly import Parts, Settings, assemble, set_size
from mmkd.distiller.members.member import Member
from mmkd.distiller.objectives.objective import stand_in
from mmkd.methods.expand import expand, find_method, known_methods
from mmkd.methods.pair import read_pair
from mmkd.methods.plan import PEERS, SEVERAL, needs_of
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record
from mmkd.tasks.base import task_of
from mmkd.tasks.generated import generated_batch
from mmkd.utils.timing import interleaved_times, peak_memory

CONFIG = 'mmkd::pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
PROBED = (64, 128)  # size of the images that methods without critics are wired on
ENSEMBLE = 3  # members of what is made for methods of several teachers
# Shares of the student's step that objectives should stay below, without and with weights of their
# own, and memory, in maps, besides gradients and what is kept for the backward.
AIMS = dict(share=0.03, share_with_modules=0.10, memory=2.0)


@dataclass(frozen=True)
class Cost:
    """What the objectives of a method cost in one step.

    Args:
        seconds: Forward and backward, critics and noises on images included.
        share: The same of the student's own step.
        peak: Bytes of the objectives at their peak ÷ bytes of the maps that are read of one member,
            of the one with the largest.
        memory: The same without gradients and what is kept for the backward.
        growth: Time at twice the positions, of the time; None where what is read is no map.
        parameters: What is trained beside the student.
        read: Shapes of what is read of the student.
    """

    seconds: float
    share: float
    peak: float
    memory: float
    growth: float | None
    parameters: int
    read: tuple[tuple[int, ...], ...]

    def missed(self) -> list[str]:
        """Return which aims are missed.

        >>> Cost(0.1, 0.05, 3.0, 2.5, 2.0, 0, ()).missed(), Cost(0.1, 0.05, 3, 2, 2, 9, ()).missed()
        (['share', 'memory'], [])
        """
        aim = AIMS['share_with_modules' if self.parameters else 'share']
        large = round(self.memory, 1) > AIMS['memory']  # some bytes are those of scalars
        return ['share'] * (self.share > aim) + ['memory'] * large


def method_costs(
    cfg: Config,
    names: Iterable[str] = (),
    iters: int = 5,
    warmup: int = 1,
    size: tuple[int, int] | None = None,
    batch_size: int = 2,
    device: str | torch.device = 'cpu',
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """Measure every method alone on the pair of a config.

    The members are built once and run once for each tap. Objectives see what those forwards left.

    Args:
        cfg: A config whose model is a Distiller; what it says of methods and objectives is let go.
        names: Of the methods; none: all that serve the student's task.
        iters: Rounds that count, each of every method and of the student's step.
        warmup: Rounds before them.
        size: Height and width; None takes the data preprocessor's.
        batch_size: Images.
        device: Where.
        clock: ``time.process_time`` where other programs use the same processor.

    Returns:
        ``dict(size, batch_size, step, aims, methods)``: seconds of the student's step, and for each
        method a :class:`Cost` as a dict with what it misses, or ``dict(error)``.

    Raises:
        KeyError: There is no such method; names the nearest one.
        ValueError: The config's model is no Distiller.
    """
    members = Members(cfg, size, batch_size, device)
    names = [*names] or members.serving()
    for name in names:
        find_method(name)
    built: dict[str, Method | str] = {name: members.method(name) for name in names}
    methods = {name: one for name, one in built.items() if isinstance(one, Method)}
    cases: dict[str, Callable[[], Any]] = {'the student': members.step}
    for name, one in methods.items():
        cases[name] = one.run
        if one.wider is not None:
            cases[f'{name} at twice the positions'] = partial(one.run, one.wider)
    seconds = interleaved_times(cases, iters, warmup, device, clock)
    step = seconds['the student']
    rows: dict[str, dict] = {}
    for name, made in built.items():
        if isinstance(made, str):
            rows[name] = dict(error=made)
            continue
        cost = made.cost(seconds[name], step, seconds.get(f'{name} at twice the positions'))
        rows[name] = dict(asdict(cost), missed=cost.missed())
    return dict(
        size=list(members.size),
        batch_size=batch_size,
        ensemble=ENSEMBLE,
        step=step,
        aims=AIMS,
        methods=rows,
    )


class Members:
    """Student and teacher of a config, untrained, built once, and what their taps saw.

    Args:
        cfg: A config whose model is a Distiller.
        size: Height and width; None takes the data preprocessor's, else the config's ``crop_size``.
        batch_size: Images.
        device: Where.
    """

    def __init__(
        self,
        cfg: Config,
        size: tuple[int, int] | None,
        batch_size: int,
        device: str | torch.device,
    ) -> None:
        refuse_plain(cfg)
        self.cfg, self.device = cfg, torch.device(device)
        settings = Settings.of(cfg.model.to_dict())
        self._plain: dict[str, dict] = {}
        self._kept: list[Any] = []  # built for one method: what was seen is known by them
        self.student = self._build(settings, 'student')
        self.teacher = self._build(settings, 'teacher') if settings.named('teacher') else None
        self.kind = read_pair(cfg.model, cfg).kind
        source = self.student.data_preprocessor
        self.task = task_of(self.student, source)
        found = size or getattr(source, 'size', None) or cfg.get('crop_size')
        if found is None and self.task.sized:
            raise ValueError('the data preprocessor has no size. Mend: --size H W')
        height, width = self.size = tuple(found or self.task.size)
        self.data = generated_batch(batch_size, self.size, self.task, device=self.device)
        self.batch = self._preprocessed(source, self.data, self.size)
        wide = generated_batch(batch_size, (height, 2 * width), self.task, device=self.device)
        self.wider = self._preprocessed(source, wide, (height, 2 * width))
        self._seen: dict[tuple[int, str], Any] = {}
        optimizers = quiet_optimizers(_of_the_student(cfg.optim_wrapper.to_dict()), None)
        self._wrapper = build_optim_wrapper(self.student, optimizers)

    def _build(self, settings: Settings, role: str) -> Any:
        """Build the first member of a role."""
        name, member = next(iter(offline_members(settings, role, None).items()))
        plain = {key: member[key] for key in ('model', 'scope')}
        self._plain[role] = plain
        model = Member.read(name, role, plain).build()
        return _ready(model, self.device)

    def _preprocessed(self, source: nn.Module, data: dict, size: tuple[int, int]) -> Batch:
        source = copy.deepcopy(source)
        _pad_to(source, size)
        ready = source(copy.deepcopy(data), True)
        return Batch(ready['inputs'], ready['data_samples'], self.task.ignore_index, self.task)

    def serving(self) -> list[str]:
        """Return the methods that are made for what the student learns."""
        methods = known_methods().items()
        return sorted(
            name
            for name, function in methods
            if not needs_of(function).tasks or self.kind in needs_of(function).tasks
        )

    def step(self) -> None:
        """Step the student by its own losses, on images of the same size as its objectives.

        Whoever built a method with this student has changed what its preprocessor pads to.
        """
        _pad_to(self.student.data_preprocessor, self.size)
        step_all([(self.student, self._wrapper)], [torch.preserve_format], self.data)

    def method(self, name: str) -> 'Method | str':
        """Return a method on this pair, or why it cannot be built."""
        try:
            return self._method(self._distiller(name))
        except Exception:  # one that changes a member needs its config, and the teacher's file
            try:
                return self._method_of_configs(name)
            except Exception as error:  # of whatever kind: the row says it
                return f'{type(error).__name__}: {error}'.splitlines()[0][:300]

    def _method(self, config: dict[str, Any]) -> 'Method':
        model, _ = expand(config, self.cfg)
        # the coarsest level of a detector would be a single place there
        parts = assemble(Settings.of(model), size=self.size if self.kind == 'detection' else PROBED)
        if any(one.adversarial for one in parts.objectives.values()):
            # A critic has as many strides as the size of its map allows.
            parts = assemble(Settings.of(model), size=self.size)
        for run in parts.runs.values():
            _ready(run.model, self.device)
        for objective in parts.objectives.values():
            objective.to(self.device)
        stand_in(parts.objectives.values())
        made = Method(parts, self)
        made.objectives_alone()
        return made

    def _method_of_configs(self, name: str) -> 'Method':
        """Return a method on members that are built from their configs, for it alone."""
        config = self._distiller(name)
        with TemporaryDirectory() as folder:
            for role in self._plain.keys() & config.keys():
                config[role] = dict(self._plain[role])
            if self.teacher is not None and 'teacher' in config:
                path = Path(folder, 'teacher.pth')
                torch.save(dict(state_dict=self.teacher.state_dict()), path)
                config['teacher'].update(checkpoint=str(path))
            made = self._method(config)
        self._kept.append(made.runs)
        return made

    def _distiller(self, name: str) -> dict[str, Any]:
        wanted = needs_of(find_method(name)).teachers
        config: dict[str, Any] = dict(type='mmkd.Distiller', method=name)
        if wanted == PEERS:
            other = copy.deepcopy(self.student)
            return config | dict(students=dict(a=self.student, b=other), predict_with='a')
        config['student'] = dict(model=self.student)
        if wanted == SEVERAL and self.teacher is not None:
            return config | dict(
                teachers={f't{n}': dict(model=self.teacher) for n in range(ENSEMBLE)}
            )
        return config | (dict(teacher=dict(model=self.teacher)) if self.teacher else {})

    @torch.no_grad()
    def seen(self, run: Any) -> dict[str, Any]:
        """Return what the taps of a member saw of the batch; each is run for once.

        Those of students are leaves of a graph.
        """
        keys = {tap: (id(run.model), path.text) for tap, path in run.taps.paths.items()}
        missing = [tap for tap, key in keys.items() if key not in self._seen]
        if missing:
            alone = copy.copy(run)
            alone.taps, teaches = run.taps.only(missing), run.role == 'teacher'
            found = alone.watch(self.batch) if teaches else alone.run(self.batch)[0]
            for tap in missing:
                self._seen[keys[tap]] = _each(found[tap], partial(_leaf, learns=not teaches))
        return {tap: self._seen[key] for tap, key in keys.items()}


def _ready(model: nn.Module, device: torch.device) -> nn.Module:
    return revert_sync_batchnorm(model).to(device).train()


def _pad_to(preprocessor: Any, size: tuple[int, int]) -> None:
    """Have a preprocessor that pads to a size pad to this one."""
    if getattr(preprocessor, 'size', None) is not None:
        set_size(preprocessor, size)


def _of_the_student(optimizers: dict) -> dict:
    """Return the optimizer of a student alone."""
    wrappers = dict(optim_wrappers(optimizers))
    return copy.deepcopy(wrappers.get('student') or next(iter(wrappers.values())))


class Method:
    """One method on a pair: its objectives, and what they read.

    Args:
        parts: Of the Distiller.
        members: What the members are and have seen.
    """

    def __init__(self, parts: Parts, members: Members) -> None:
        self.objectives = list(parts.objectives.values())
        self.runs = parts.runs
        self.batch = members.batch
        self.record = Record(members.batch)
        for name, run in parts.runs.items():
            self.record[name] = members.seen(run)
        with torch.no_grad():
            for name, one in parts.combined.items():
                learns = one.rule.learns
                self.record[name] = {tap: _leaf(x, learns) for tap, x in one(self.record).items()}
        self.students = [name for name, run in parts.runs.items() if run.role == 'student']
        self.maps = _maps(self.record, self.students)
        self.parameters = [
            p for one in self.objectives for p in one.parameters() if p.requires_grad
        ]
        self.wider = self._wide(members.wider)

    def _wide(self, batch: Batch) -> Record | None:
        """Return what is read with every map twice as wide; None where something is no map."""
        record = Record(batch)
        height, width = self.batch.inputs.shape[-2:]
        if not all(_is_map(x, height, width) for x in _maps(self.record, self.runs)):
            return None
        for name in [name for name in self.record if name != 'batch']:
            taps = self.record[name].items()
            record[name] = {tap: _each(value, _twice) for tap, value in taps}
        return record

    def losses(self, record: Record | None = None) -> list[Tensor]:
        """Return all losses, those of critics as well."""
        record = self.record if record is None else record
        losses = []
        for one in self.objectives:
            for stream in one.running():
                record[stream.key] = stream.collect({n: record[n] for n in self.runs})
            losses.append(one(record)[f'{one.name}.loss'])
            if one.adversarial:
                losses += one.critic_loss(record).values()
        return losses

    def run(self, record: Record | None = None) -> None:
        """Make images noisy where a noise does, then forward and backward of all objectives."""
        for name in self.students:
            if self.runs[name].noises:
                self.runs[name].noises.on_batch(self.batch if record is None else record.batch)
        self.objectives_alone(record)

    def objectives_alone(self, record: Record | None = None) -> None:
        """Forward and backward of all objectives."""
        maps = self.maps if record is None else _maps(record, self.students)
        total = torch.stack([loss.float() for loss in self.losses(record)]).sum()
        torch.autograd.grad(total, [*maps, *self.parameters], allow_unused=True)

    def cost(self, seconds: float, step: float, wider: float | None) -> Cost:
        """Return what it costs.

        Args:
            seconds: Of a run.
            step: Of the student's step.
            wider: Of a run at twice the positions; None where there is none.
        """
        size = max(sum(map(_bytes, _maps(self.record, [name]))) for name in self.runs)
        peak = peak_memory(self.objectives_alone, self.batch.inputs.device)
        there = {x.untyped_storage().data_ptr() for x in self._there()}
        gradients = sum(map(_bytes, (*self.maps, *self.parameters)))
        needed = gradients + saved_bytes(self.losses, there)
        return Cost(
            seconds=seconds,
            share=seconds / step,
            peak=peak / size,
            memory=max(0.0, peak - needed) / size,
            growth=None if wider is None else wider / seconds,
            parameters=sum(p.numel() for p in self.parameters),
            read=tuple(tuple(x.shape) for x in self.maps),
        )

    def _there(self) -> Iterator[Tensor]:
        yield from _maps(self.record, self.runs)
        for one in self.objectives:
            yield from (*one.parameters(), *one.buffers())
        yield self.batch.inputs


def saved_bytes(function: Callable[[], Any], there: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Return the bytes of tensors that a function keeps for its backward.

    Args:
        function: What is run.
        there: ``data_ptr`` of storages that were there before.

    >>> x = torch.ones(256, requires_grad=True)
    >>> saved_bytes(lambda: x.exp().sum()), saved_bytes(lambda: (x + 1).sum())
    (1024, 0)
    """
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept.setdefault(x.untyped_storage().data_ptr(), x)  # held: its address is not used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = function()
    del result
    return sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in there)


def _maps(record: Mapping[str, Any], names: Iterable[str]) -> list[Tensor]:
    return [x for name in names for value in record[name].values() for x in _tensors(value)]


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return function(value) if isinstance(value, Tensor) else [function(x) for x in value]


def _leaf(x: Tensor, learns: bool) -> Tensor:
    return x.detach().clone().requires_grad_(learns)


def _twice(x: Tensor) -> Tensor:
    """Return a map beside itself."""
    return torch.cat([x, x], -1).detach().requires_grad_(x.requires_grad)


def _is_map(x: Tensor, height: int, width: int) -> bool:
    """Return whether a tensor (N, C, h, w) has the shape of images of this size."""
    return x.dim() == 4 and abs(x.shape[-2] * width - x.shape[-1] * height) < max(height, width)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
