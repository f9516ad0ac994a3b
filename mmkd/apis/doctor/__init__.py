"""A config checked before training: members, taps, objectives, optimizers, data, cost."""

from mmkd.apis.doctor.checkup import diagnose as diagnose
from mmkd.apis.doctor.report import Report as Report
from mmkd.apis.doctor.taps import list_taps as list_taps
