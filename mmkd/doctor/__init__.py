from mmkd.doctor.checkup import diagnose as diagnose
from mmkd.doctor.report import Report as Report
