"""The Distiller: students, teachers and what flows between them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd.distiller.assembly import Parts, Settings, assemble, read_settings
from mmkd.distiller.draws import Apart
from mmkd.distiller.members.kinds.follower import (
    followers_of,
    known_keys,
    load_states,
    states_of,
)
from mmkd.distiller.members.parts import without_labels
from mmkd.distiller.members.run import students_of, teachers_of
from mmkd.distiller.phases.gradients import PhaseRunner, parameters_of
from mmkd.distiller.phases.phase import refuse_untrained_critics
from mmkd.distiller.void_batches import VoidBatches
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record
from mmkd.tasks.base import task_of


@MODELS.register_module()
class Distiller(BaseModel):
    """Train students under teachers: one forward of each, objectives on what taps read.

    The state dict holds ``students.<name>.`` and ``objectives.<name>.``; teachers are not in it,
    but for what those that are made of other members remember: ``teachers.<name>.`` of copies,
    ``combined.<name>.`` of combinations with weights.

    Args:
        student: One member, named ``student``: ``dict(cfg='mmseg::….py' | path | Config,
            checkpoint=…)``, ``dict(model=dict(...))``, a config path, a Config or a model.
        students: Named members, in place of ``student``; the first answers ``mode='predict'``.
        teacher: One member, named ``teacher``; needs a checkpoint unless ``allow_untrained=True``
            or its model brings its weights (:class:`mmkd.FeatureModel`).
        teachers: Named members, in place of ``teacher``; one that is made of other members is
            ``dict(kind='ema', of='student', …)``, see :mod:`mmkd.distiller.members.kinds`.
        taps: Tap name -> path in every member, see :class:`mmkd.distiller.taps.tap_path.TapPath`; a
            member's own ``taps`` win.
        objectives: Objective name -> ``dict(loss=…, on=…, reads=…, weight=…, connectors=…,
            where=…, class_map=…)``.
        phases: Which objectives each optimizer steps on; None: one phase, and one for the critics
            if there are any.
        noise: Noises of training, such as ``[dict(type='GaussianInput', std=0.1)]``, see
            :mod:`mmkd.noise`. Each acts on every student, or on every teacher, unless its
            ``members`` says which.
        task_weight: Multiplies the students' own losses, 0 or above; 0 learns from the objectives
            alone; None: what the method says, else 1.
        method: ``'kd'``, ``dict(type='kd', tau=4.)`` or a list of them, see :mod:`mmkd.methods`:
            what it says of taps, objectives and all else stands below what is said here.
        data_preprocessor: None takes the first student's own.
        predict_with: The student that answers ``mode='predict'`` and ``'tensor'``.
        init_cfg: mmengine's initialisation.

    Attributes:
        students: Name -> student.
        objectives: Name -> objective.
        runs: Name -> the member at work, teachers first, see
            :class:`mmkd.distiller.members.run.Run`.
        combinations: Name -> the teacher that is made of what other members say.
        phases: What each optimizer steps on.
        task: What the predicting student learns, and whose labels batches hold.

    Raises:
        TypeError: Unknown keys, here or in a member, objective or phase, with the nearest match.
        ValueError: A teacher without checkpoint; shapes that a loss cannot take; see the parts.
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
        task_weight: float | None = None,
        method: Any = None,
        data_preprocessor: dict | nn.Module | None = None,
        predict_with: str | None = None,
        init_cfg: dict | None = None,
        **unknown: Any,
    ) -> None:
        given = dict(
            student=student,
            students=students,
            teacher=teacher,
            teachers=teachers,
            taps=taps,
            objectives=objectives,
            phases=phases,
            noise=noise,
            task_weight=task_weight,
            method=method,
            data_preprocessor=data_preprocessor,
            predict_with=predict_with,
            init_cfg=init_cfg,
        )
        given = {key: value for key, value in given.items() if value is not None}
        settings = read_settings({**given, **unknown})
        self._hold(assemble(settings), settings)

    @classmethod
    def of(cls, parts: Parts, settings: Settings) -> 'Distiller':
        """Return a Distiller of parts that are assembled already."""
        distiller = cls.__new__(cls)
        distiller._hold(parts, settings)
        return distiller

    def _hold(self, parts: Parts, settings: Settings) -> None:
        super().__init__(parts.data_preprocessor, settings.init_cfg)
        self.students = Apart(parts.students, 'student', plain=next(iter(parts.students)))
        self.objectives = Apart(parts.objectives, 'objective')
        # no modules: teachers are in no state dict, optimizer, EMA copy or DDP bucket
        self.runs, self.streams = parts.runs, parts.streams
        self.combinations = parts.combined
        rules = {name: one.rule for name, one in parts.combined.items()}
        self.combined = Apart(rules, 'combined')  # a gate learns
        self._stepping = False
        for run in students_of(self.runs):
            run.modules = self.students
        self.shared_noises = parts.shared_noises
        self.phases, self.phase_runner = parts.phases, PhaseRunner(parts.phases)
        self.predict_with, self.task_weight = parts.predict_with, settings.task_weight
        # asked once: a wrapper in the student's place would not tell
        self.task = task_of(parts.students[self.predict_with], self.data_preprocessor)
        self.void_batches = VoidBatches()
        for line in parts.fitted:
            print_log(f'mmkd: {line}', logger='current')
        reading = [*parts.objectives.values(), *self.combined.values()]
        self._reads_labels = any(one.reads_labels for one in reading)

    # ------------------------------------------------------------------ the flow

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return all losses (``mode='loss'``), else what the predicting student returns."""
        if mode != 'loss':
            return self.students[self.predict_with](inputs, data_samples, mode)
        self._refuse_unled()
        record, losses = self.observe(inputs, data_samples)
        return {**losses, **self.compare(self.objectives, record)}

    def observe(
        self, inputs: Tensor, data_samples: list | None = None
    ) -> tuple[Record, dict[str, Tensor]]:
        """Run every member once; return what the taps saw, and the students' own losses."""
        batch = self.shared_noises.on_batch(self._read_batch(inputs, data_samples))
        record = Record(batch, self.streams)
        losses: dict[str, Any] = {}
        for run in self.runs.values():  # teachers, then students, each under its noises
            if not run.heard:
                run.stand_by()
                continue
            seen, own = run.observe(record.batch)
            record.add(run.name, seen)
            losses |= self._weigh(run.name, own)
        for name, combined in self.combinations.items():
            record.add(name, combined(record))
        return record, losses

    def compare(
        self, names: Iterable[str], record: Record, others: bool = True
    ) -> dict[str, Tensor]:
        """Return the losses of objectives.

        Args:
            names: Of the objectives.
            record: What the taps saw.
            others: Whether something else leaves a gradient: then what is mute is not computed.
        """
        losses: dict[str, Tensor] = {}
        for name in names:
            objective = self.objectives[name]
            if others and objective.mute:
                zero = record.batch.inputs.new_zeros((), dtype=torch.float32)
                gates = sum(0.0 * p.sum() for p in self.combined.parameters())
                losses[f'{name}.loss'] = zero + objective.silence() + gates
            else:
                losses |= objective(record)
        return losses

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Step once: mmengine's step with one optimizer, else all phases from one forward."""
        if not isinstance(optim_wrapper, OptimWrapperDict):
            refuse_untrained_critics(self.objectives)
            if len(self.phases) == 1 and self.phase_runner.reduce is None:
                return self._plain_step(data, optim_wrapper)
        wrappers = self.phase_runner.match(optim_wrapper)
        with self.phase_runner.context(wrappers, self):
            data = self.data_preprocessor(data, True)
            record, task = self.observe(**data)
        logs: dict[str, Tensor] = {}
        totals = []
        for phase in self.phases:
            with self.phase_runner.context(wrappers, self):
                own = tuple(self.runs[name].prefix for name in phase.task)
                losses = {key: value for key, value in task.items() if key.startswith(own)}
                others = bool(phase.task or phase.critics)
                losses |= self.compare(phase.objectives, record, others)
                critic_losses: dict[str, Tensor] = {}
                for name in phase.critics:
                    critic_losses |= self.objectives[name].critic_loss(record)
            total, values = self.parse_losses(losses) if losses else (0.0, {})
            # not by parse_losses: it sums whatever contains 'loss' into the student's
            self.phase_runner.take_gradients(phase, total + sum(critic_losses.values()), wrappers)
            logs |= {key: value.detach() for key, value in {**values, **critic_losses}.items()}
            totals += [values['loss'].detach()] if losses else []
        due = self.phase_runner.step(wrappers)
        self.after_step([wrappers[phase.optimizer] for phase in due])
        return {**logs, 'loss': torch.stack(totals).sum()}  # as with one optimizer: no critics'

    def _plain_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        self._stepping = True
        try:
            logs = super().train_step(data, optim_wrapper)
        finally:
            self._stepping = False
        if optim_wrapper.should_update():  # it did: gradients may be accumulated over several steps
            self.after_step()
        return logs

    def after_step(self, stepped: Sequence[OptimWrapper] | None = None) -> None:
        """Let copies follow their students; ``train_step`` does so.

        Args:
            stepped: The optimizers that have stepped, whose students are followed; None: all.
        """
        copies = followers_of(self.runs)
        moved = {id(p) for one in stepped or () if copies for p in parameters_of(one)}
        for run in copies:
            if stepped is None or any(id(p) in moved for p in run.student.parameters()):
                run.after_step()

    def _refuse_unled(self) -> None:
        """Refuse a training step by others, who would not let the copies follow.

        Raises:
            RuntimeError: There are copies, and this is not ``train_step``.
        """
        training = self.training and torch.is_grad_enabled()
        copies = [run.name for run in followers_of(self.runs)]
        if training and copies and not self._stepping:
            raise RuntimeError(
                f'the teachers {copies} follow a student by train_step of the Distiller, but this '
                "step is another's, and they would stay as they are. Mend: "
                "model_wrapper_cfg=dict(type='mmkd.PhasedDDP') in place of mmengine's DDP (mmkd "
                'train sets it); in a loop of your own distiller.train_step(data, optim_wrapper)'
            )

    def _read_batch(self, inputs: Tensor, data_samples: list | None) -> Batch:
        """Return the batch, its labels looked at."""
        batch = Batch(inputs, data_samples, self.task.ignore_index, self.task)
        valid = batch.check_labels(self.task.num_classes)
        # of images without labels alone there is nothing to say: they are so on purpose
        if batch.labelled_at and (self.task_weight or self._reads_labels):
            self.void_batches.note(batch, valid)
        return batch

    def _weigh(self, name: str, own: dict[str, Any]) -> dict[str, Any]:
        """Return a student's own losses times their weight; 0 leaves them out, NaN or not."""
        if self.task_weight == 1 or not own:
            return own
        if not self.task_weight:
            return own | without_labels(own, self.students[name])
        return {
            key: _times(self.task_weight, value) if 'loss' in key else value
            for key, value in own.items()
        }

    # ------------------------------------------------------------------ members

    @property
    def student(self) -> nn.Module:
        """The student, where there is one."""
        return _only(self.students, 'students')

    @property
    def teacher(self) -> nn.Module:
        """The teacher, where there is one."""
        return _only(self.teachers, 'teachers')

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """Name -> teacher model; of a stored teacher there is none."""
        return {run.name: run.model for run in teachers_of(self.runs) if run.live}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, tensor in states_of(self.runs):
            destination[f'{prefix}{key}'] = tensor

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, found, error_msgs
        )
        own = {key[len(prefix) :]: x for key, x in state_dict.items() if key.startswith(prefix)}
        known = {f'{prefix}{key}' for key in known_keys(self.runs, own)}
        unexpected_keys += [key for key in found if key not in known]
        error_msgs += load_states(self.runs, own)

    def init_weights(self) -> None:
        """Initialise; a student's checkpoint comes last, so that it wins over ``init_cfg``.

        Once: mmengine asks again with every training, and a student may have learned by then. The
        Runner synchronises what is in the state dict afterwards; teachers are not, so they are
        synchronised here.
        """
        begun = self.is_init
        super().init_weights()
        for name, student in {} if begun else self.students.items():
            self.runs[name].member.load(student)
        self.broadcast_teachers()

    def broadcast_teachers(self) -> None:
        """Give every rank the teachers of rank 0."""
        for run in self.runs.values():
            run.broadcast()

    def _apply(self, fn: Any, recurse: bool = True) -> 'Distiller':
        super()._apply(fn, recurse)
        for run in self.runs.values():
            run.to(next(self.students.parameters()).device)
        return self


def _only(members: Any, kind: str) -> nn.Module:
    # nn.Module.__getattr__ hides an AttributeError of a property, so this is a KeyError
    if len(members) != 1:
        raise KeyError(
            f'there are {len(members)} {kind} ({list(members)}): use distiller.{kind}[name]'
        )
    return next(iter(members.values()))


def _times(weight: float, value: Any) -> Any:
    return [weight * one for one in value] if isinstance(value, list) else weight * value
