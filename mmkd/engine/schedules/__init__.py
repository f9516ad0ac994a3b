"""Schedules: values that change while training, and levels of objectives."""

from mmkd.engine.schedules.levels import Progressive as Progressive
from mmkd.engine.schedules.levels import Stacked as Stacked
from mmkd.engine.schedules.levels import build_levels as build_levels
from mmkd.engine.schedules.values import Anneal as Anneal
from mmkd.engine.schedules.values import Cosine as Cosine
from mmkd.engine.schedules.values import Linear as Linear
from mmkd.engine.schedules.values import Piecewise as Piecewise
from mmkd.engine.schedules.values import Schedule as Schedule
from mmkd.engine.schedules.values import build_schedule as build_schedule
