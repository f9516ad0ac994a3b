"""Hooks that every distillation run needs."""
from mmkd.hooks.exact_resume import ExactResumeHook as ExactResumeHook
from mmkd.hooks.export_student import ExportStudentHook as ExportStudentHook
from mmkd.hooks.nan_stop import NaNStopHook as NaNStopHook
from mmkd.hooks.safe_checkpoint import SafeCheckpointHook as SafeCheckpointHook
from mmkd.hooks.schedule import ScheduleHook as ScheduleHook
from mmkd.hooks.teacher_check import TeacherCheckHook as TeacherCheckHook
from mmkd.hooks.vocabulary import VocabularyHook as VocabularyHook
