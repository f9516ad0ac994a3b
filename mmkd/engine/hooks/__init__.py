"""Hooks of a run; QUEST's is in :mod:`mmkd.losses.quest.hook`."""

from mmkd.engine.hooks.exact_resume import ExactResumeHook as ExactResumeHook
from mmkd.engine.hooks.export_student import ExportStudentHook as ExportStudentHook
from mmkd.engine.hooks.gradient_share import GradientShareHook as GradientShareHook
from mmkd.engine.hooks.last_batch import LastBatchHook as LastBatchHook
from mmkd.engine.hooks.length_check import LengthCheckHook as LengthCheckHook
from mmkd.engine.hooks.nan_stop import NaNStopHook as NaNStopHook
from mmkd.engine.hooks.run_record import RunRecordHook as RunRecordHook
from mmkd.engine.hooks.safe_checkpoint import SafeCheckpointHook as SafeCheckpointHook
from mmkd.engine.hooks.schedule import ScheduleHook as ScheduleHook
from mmkd.engine.hooks.step_clock import StepClockHook as StepClockHook
from mmkd.engine.hooks.stored_teacher import StoredTeacherHook as StoredTeacherHook
from mmkd.engine.hooks.teacher_check import TeacherCheckHook as TeacherCheckHook
from mmkd.engine.hooks.uncertainty import UncertaintyHook as UncertaintyHook
from mmkd.engine.hooks.unlabelled import UnlabelledHook as UnlabelledHook
