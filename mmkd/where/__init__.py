"""Where it counts: how much every position of a loss does, as an objective's ``where=``."""

from mmkd.where.base import Where as Where
from mmkd.where.boundary_band import BoundaryBand as BoundaryBand
from mmkd.where.boundary_band import boundary_band as boundary_band
from mmkd.where.teacher_confidence import TeacherConfidence as TeacherConfidence
