"""Where it counts: how much every position of a loss does, as an objective's ``where=``."""

from mmkd.where.base import Where as Where
from mmkd.where.boundary_band import BoundaryBand as BoundaryBand
from mmkd.where.boundary_band import boundary_band as boundary_band
from mmkd.where.boxes import Boxes as Boxes
from mmkd.where.boxes import share_of_boxes as share_of_boxes
from mmkd.where.class_balance import ClassBalance as ClassBalance
from mmkd.where.disagreement import Disagreement as Disagreement
from mmkd.where.focal import Focal as Focal
from mmkd.where.labelled import Labelled as Labelled
from mmkd.where.teacher_confidence import TeacherConfidence as TeacherConfidence
