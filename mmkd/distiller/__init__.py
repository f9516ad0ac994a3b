"""The heart: members, taps, objectives, phases, and the flow between them."""

from mmkd.distiller.distiller import Distiller as Distiller
from mmkd.distiller.export import export_student as export_student
