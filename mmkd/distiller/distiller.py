"""The Distiller: students, teachers and what flows between them."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd.distiller.draws import Apart, own_draws
from mmkd.distiller.members.blame import blaming
from mmkd.distiller.members.member import Member, Renormalise, name_members
from mmkd.distiller.members.teacher import Teacher, Teachers
from mmkd.distiller.objectives.class_logits import label_set
from mmkd.distiller.objectives.objective import build_objectives, check_name
from mmkd.distiller.objectives.references import Record, references
from mmkd.distiller.phases.phase import PhaseRunner, read_phases
from mmkd.distiller.probe import probe
from mmkd.distiller.taps.taps import Taps
from mmkd.distiller.void_batches import VoidBatches
from mmkd.losses.base import needs_of
from mmkd.losses.quest.fitting import check_vocabularies
from mmkd.noise.base import Host, Noises
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.tasks.base import check_same_classes, check_same_places, task_of
from mmkd.utils.checks import check_dict, check_keys, check_non_negative, nearest

ARGUMENTS = (
    'student',
    'students',
    'teacher',
    'teachers',
    'taps',
    'objectives',
    'phases',
    'noise',
    'task_weight',
    'data_preprocessor',
    'predict_with',
    'init_cfg',
)
_OBJECTIVE = "dict(loss=dict(type='PixelWiseKLLoss'), on='logits')"


@MODELS.register_module()
class Distiller(BaseModel):
    """Train students under teachers: one forward of each member an iteration, objectives on what taps read of it.

    The state dict holds ``students.<name>.`` and ``objectives.<name>.``; teachers are not in it.

    Args:
        student: One member, named ``student``: ``dict(cfg='mmseg::….py' | path | Config,
            checkpoint=…)``, ``dict(model=dict(...))``, a config path, a Config or a model.
        students: Named members, in place of ``student``; the first answers ``mode='predict'``.
        teacher: One member, named ``teacher``; needs a checkpoint unless ``allow_untrained=True``.
        teachers: Named members, in place of ``teacher``.
        taps: Tap name -> path in every member, see :class:`mmkd.distiller.taps.taps.TapPath`; a
            member's own ``taps`` win.
        objectives: Objective name -> ``dict(loss=…, on=…, reads=…, weight=…, connectors=…)``.
        phases: Which objectives each optimizer steps on; None: one phase, and one for the critics
            if there are any.
        noise: Noises of training, such as ``[dict(type='GaussianInput', std=0.1)]``, see
            :mod:`mmkd.noise`. Each acts on every student, or on every teacher, unless its
            ``members`` says which.
        task_weight: Multiplies the students' own losses, 0 or above; 0 learns from the objectives
            alone.
        data_preprocessor: None takes the first student's own.
        predict_with: The student that answers ``mode='predict'`` and ``'tensor'``.
        init_cfg: mmengine's initialisation.

    Raises:
        TypeError: Unknown keys, here or in a member, objective or phase, with the nearest match.
        ValueError: A teacher without checkpoint; shapes that a loss cannot take; see also the
            parts.
        KeyError: A tap, member, objective or module that does not exist, with the nearest match.
    """

    def __init__(
        self,
        student: Any = None,
        students: dict[str, Any] | None = None,
        teacher: Any = None,
        teachers: dict[str, Any] | None = None,
        taps: dict[str, str] | None = None,
        objectives: dict[str, dict] | None = None,
        phases: list[dict] | None = None,
        noise: list | None = None,
        task_weight: float = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        predict_with: str | None = None,
        init_cfg: dict | None = None,
        **unknown: Any,
    ) -> None:
        check_keys(unknown, ARGUMENTS, 'Distiller')
        check_dict('taps', taps, "taps=dict(logits='decode_head.conv_seg')")
        check_dict('objectives', objectives, f'objectives=dict(pixel={_OBJECTIVE})')
        for name, objective in (objectives or {}).items():
            check_dict(
                f'objective {name!r}', objective or str(objective), f'{_OBJECTIVE}; or leave it out'
            )
        student_members = _parse_members('student', student, students)
        teacher_members = _parse_members('teacher', teacher, teachers)
        models = _build_students(student_members)
        super().__init__(_preprocessor(data_preprocessor, models, student_members), init_cfg)
        self.members: dict[str, Member] = {**student_members, **teacher_members}
        if len(self.members) < len(student_members) + len(teacher_members):
            raise ValueError(
                'a student and a teacher share a name: '
                f'{sorted(set(student_members) & set(teacher_members))}'
            )
        check_same_classes(models, 'the students')  # they learn from one batch
        self.students = Apart(models, 'student', plain=next(iter(models)))
        for name, member in student_members.items():
            if member.options.get('channels_last'):
                models[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.predict_with = self._check_predict_with(predict_with)
        check_non_negative('task_weight', task_weight)
        self.task_weight = task_weight
        if not task_weight and not objectives:
            raise ValueError(
                'task_weight=0 without objectives: nothing would be learned. Mend: leave '
                'task_weight out'
            )

        paths = {name: _all_taps(member, taps or {}) for name, member in self.members.items()}
        # A student alone on noise is the control of a teacher's worth; alone without noise it is
        # plain training.
        alone = noise and not objectives and not teacher_members
        self.objectives = Apart(
            {}
            if alone
            else _build_objectives(objectives or {}, {name: list(p) for name, p in paths.items()}),
            'objective',
        )
        for name in [name for name in self.objectives if name in models and len(models) > 1]:
            raise ValueError(
                f'objective {name!r} is called like a student, whose own losses are logged under '
                f'that '
                'name. Mend: another name'
            )
        used = {name: self._used(name, paths[name]) for name in self.members}
        self.taps = {
            name: Taps(models[name], used[name], m.where) for name, m in student_members.items()
        }
        runs: dict[str, Teacher] = {}
        for name, member in teacher_members.items():
            with own_draws('teacher', name):
                runs[name] = Teacher(member, used[name], self.data_preprocessor)
        self.teachers = Teachers(runs)
        for name, objective in self.objectives.items():
            tapped = self._tapped(objective)
            check_same_places(name, tapped, 'channels' in needs_of(objective.loss))
            objective.label_sets = {
                reference: label_set(model) for reference, (model, _) in tapped.items()
            }
        self.noises = Noises(
            noise,
            {
                name: Host(self.members[name], model, list(used[name]), self.data_preprocessor)
                for name, model in {**models, **self.teachers}.items()
            },
        )
        if not task_weight:
            self.noises.refuse_label_noise()
        self._streamed = _streamed_only(self.objectives)
        read = [str(value) for o in self.objectives.values() for value in o.reads.values()]
        self._reads_labels = 'batch.labels' in read or 'batch.valid' in read
        self.void_batches = VoidBatches()
        critics = {name: o.adversarial for name, o in self.objectives.items()}
        self.phases = read_phases(phases, critics, list(models))
        self.phase_runner = PhaseRunner(self.phases)
        for line in probe(self):
            print_log(f'mmkd: {line}', logger='current')
        check_vocabularies(self)  # those that came from a file

    # ------------------------------------------------------------------ the flow

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return the losses of students and objectives (``'loss'``), else what the predicting student returns."""
        if mode != 'loss':
            return self.students[self.predict_with](inputs, data_samples, mode)
        record, losses = self.observe(inputs, data_samples)
        return {**losses, **self._compare(list(self.objectives), record)}

    def observe(
        self, inputs: Tensor, data_samples: list | None
    ) -> tuple[Record, dict[str, Tensor]]:
        """Run every member once, each under its noises; return what the taps read, and the students' own losses."""
        batch = Batch(inputs, data_samples, self.members[self.predict_with].ignore_index)
        self._check_labels(batch)
        record = self.observe_teachers(batch)
        losses: dict[str, Tensor] = {}
        for name, student in self.students.items():
            last = self.members[name].options.get('channels_last')
            view = self.noises.see(name, batch)
            x = view.inputs.to(memory_format=torch.channels_last) if last else view.inputs
            blame = blaming(self.members[name].where, student, 'loss', x)
            with blame, self.taps[name].recording() as seen:
                own = student(x, view.data_samples, mode='loss')
            record[name] = self.taps[name].read(seen)
            for objective in self.objectives.values():  # peers may be members of what is averaged
                objective.absorb(name, record[name], record)
            losses.update(
                {
                    f'{self._prefix(name)}{key}': self._weigh(key, value)
                    for key, value in own.items()
                }
            )
        return record, losses

    def observe_teachers(self, batch: Batch, compiled: bool = True) -> Record:
        """Run every teacher once; what only running statistics need of one is dropped before the next one runs."""
        record: Record = {'batch': batch}
        for name, seen in self.teachers.observe(batch, compiled, self.noises):
            for objective in self.objectives.values():
                objective.absorb(name, seen, record)
            record[name] = {
                tap: value for tap, value in seen.items() if f'{name}.{tap}' not in self._streamed
            }
        return record

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Step once: mmengine's own step with one optimizer, else one forward and every phase's gradient from it."""
        if not isinstance(optim_wrapper, OptimWrapperDict):
            self._refuse_untrained_critics()
            if len(self.phases) == 1 and self.phase_runner.reduce is None:
                return super().train_step(data, optim_wrapper)
        wrappers = self.phase_runner.match(optim_wrapper)
        with self.phase_runner.context(wrappers, self):
            data = self.data_preprocessor(data, True)
            record, task = self.observe(**data)
        logs: dict[str, Tensor] = {}
        totals = []
        for phase in self.phases:
            with self.phase_runner.context(wrappers, self):
                own = tuple(self._prefix(name) for name in phase.task)
                losses = {key: value for key, value in task.items() if key.startswith(own)}
                losses.update(
                    self._compare(phase.objectives, record, bool(phase.task or phase.critics))
                )
                critic_losses: dict[str, Tensor] = {}
                for name in phase.critics:
                    critic_losses.update(self.objectives[name].critic_loss(record))
            total, values = self.parse_losses(losses) if losses else (0.0, {})
            # Critic losses never pass parse_losses: it sums whatever contains 'loss' into the
            # student's.
            self.phase_runner.take_gradients(phase, total + sum(critic_losses.values()), wrappers)
            logs.update({key: value.detach() for key, value in {**values, **critic_losses}.items()})
            totals += [values['loss'].detach()] if losses else []
        self.phase_runner.step(wrappers)
        return {
            **logs,
            'loss': torch.stack(totals).sum(),
        }  # as with one optimizer: all but the critics'

    def _compare(
        self, names: Sequence[str], record: Record, others: bool = True
    ) -> dict[str, Tensor]:
        """Return the losses of objectives; what is mute is not computed, where ``others`` leave a gradient."""
        losses: dict[str, Tensor] = {}
        for name in names:
            if others and self.objectives[name].mute:
                losses[f'{name}.loss'] = (
                    record['batch'].inputs.new_zeros((), dtype=torch.float32)
                    + self.objectives[name].silence()
                )
            else:
                losses.update(self.objectives[name](record))
        return losses

    # ------------------------------------------------------------------ members

    @property
    def student(self) -> nn.Module:
        """The student, where there is one."""
        return _only(self.students, 'students')

    @property
    def teacher(self) -> nn.Module:
        """The teacher, where there is one."""
        return _only(self.teachers, 'teachers')

    def init_weights(self) -> None:
        """Initialise students and objectives; a student's checkpoint comes last, so that it wins over ``init_cfg``.

        The Runner synchronises what is in the state dict afterwards; teachers are not, so they are
        synchronised here.
        """
        super().init_weights()
        for name, student in self.students.items():
            self.members[name].load(student)
        self.teachers.broadcast()

    def _apply(self, fn: Any, recurse: bool = True) -> 'Distiller':
        super()._apply(fn, recurse)
        self.teachers.to(next(self.students.parameters()).device)
        return self

    def _prefix(self, student: str) -> str:
        """Return what the names of a student's own losses begin with: nothing where it is the only one."""
        return '' if len(self.students) == 1 else f'{student}.'

    def _weigh(self, key: str, value: Any) -> Any:
        if 'loss' not in key or self.task_weight == 1:
            return value
        return (
            [self.task_weight * v for v in value]
            if isinstance(value, list)
            else self.task_weight * value
        )

    def _check_labels(self, batch: Batch) -> None:
        classes = task_of(self.students[self.predict_with]).num_classes
        sample = batch.data_samples[0] if batch.data_samples else ()
        valid = True
        if 'gt_depth_map' in sample:
            valid = bool(batch.valid.any())
        elif classes is not None and 'gt_instances' in sample:
            batch.check_boxes(classes)
        elif classes is not None and ('gt_sem_seg' in sample or 'gt_label' in sample):
            valid = batch.check_labels(classes)
        if self.task_weight or self._reads_labels:
            self.void_batches.note(batch, valid)

    def _check_predict_with(self, name: str | None) -> str:
        if name is not None and name not in self.students:
            raise KeyError(
                f'predict_with={name!r} names no student{nearest(str(name), self.students)} '
                f'(students: {list(self.students)})'
            )
        return name or next(iter(self.students))

    def _used(self, name: str, paths: dict[str, str]) -> dict[str, str]:
        reads = [
            r
            for o in self.objectives.values()
            for value in o.reads.values()
            for r in references(value)
        ]
        taps = [r.split('.', 1)[1] for r in reads if r.startswith(f'{name}.')]
        return {tap: paths[tap] for tap in dict.fromkeys(taps)}

    def _tapped(self, objective: Any) -> dict[str, tuple[nn.Module, str]]:
        taps = {**self.taps, **{name: run.taps for name, run in self.teachers.runs.items()}}
        named = {
            r: r.split('.', 1) for value in objective.reads.values() for r in references(value)
        }
        return {
            r: (taps[member].model, taps[member].paths[tap].module)
            for r, (member, tap) in named.items()
        }

    def _refuse_untrained_critics(self) -> None:
        critics = [name for name, objective in self.objectives.items() if objective.adversarial]
        if critics:
            raise ValueError(
                f'objective {critics[0]!r} has a critic, but there is one optimizer and nothing '
                f'would '
                'train it. Mend: '
                "optim_wrapper=dict(constructor='mmkd.PhaseOptimWrapperConstructor', "
                'student=dict(...), critic=dict(...))'
            )


def _parse_members(role: str, one: Any, many: dict[str, Any] | None) -> dict[str, Member]:
    named = name_members(role, one, many)
    for name in named:
        check_name(name, role)
    return {name: Member.parse(name, role, value) for name, value in named.items()}


def _build_students(members: dict[str, Member]) -> dict[str, nn.Module]:
    """Build the first student as a plain run would, from the run's generator, the others apart."""
    first, *others = members
    models = {first: members[first].build()}
    for name in others:
        with own_draws('student', name):
            models[name] = members[name].build()
    return models


def _build_objectives(configs: dict[str, dict], known: dict[str, list[str]]) -> dict[str, Any]:
    """Build every objective, its weights drawn by its own name."""
    if not configs:
        return dict(build_objectives(configs, known))  # which says what is wrong with that
    built: dict[str, Any] = {}
    for name, config in configs.items():
        with own_draws('objective', name):
            built.update(build_objectives({name: config}, known))
    return built


def _preprocessor(given: Any, students: dict[str, nn.Module], members: dict[str, Member]) -> Any:
    """Return the data preprocessor that was given, in the first student's scope, or that student's own."""
    first = next(iter(students))
    if isinstance(given, dict):
        return {'_scope_': members[first].scope, **given}
    own: Any = {
        name: getattr(student, 'data_preprocessor', None) for name, student in students.items()
    }
    for name, other in own.items():
        if (
            given is None
            and own[first] is not None
            and other is not None
            and Renormalise(own[first], other).changes
        ):
            raise ValueError(
                f'the students {first!r} and {name!r} have data preprocessors of different mean, '
                f'std, '
                'padding value or channel order, but see one batch. Mend: '
                'data_preprocessor=dict(...) '
                'for all of them'
            )
    return own[first] if given is None else given


def _all_taps(member: Member, shared: dict[str, str]) -> dict[str, str]:
    for name in {**shared, **member.taps}:
        check_name(name, 'tap')
    return {**shared, **member.taps}


def _streamed_only(objectives: Any) -> set[str]:
    """Return the references that reach losses as running statistics and in no other way."""
    streamed: set[str] = set()
    kept: set[str] = set()
    for objective in objectives.values():
        for role, value in objective.reads.items():
            (streamed if role in objective.streams else kept).update(references(value))
    return streamed - kept


def _only(members: Any, kind: str) -> nn.Module:
    # nn.Module.__getattr__ hides an AttributeError of a property, so this is a KeyError.
    if len(members) != 1:
        raise KeyError(
            f'there are {len(members)} {kind} ({list(members)}): use distiller.{kind}[name]'
        )
    return next(iter(members.values()))
