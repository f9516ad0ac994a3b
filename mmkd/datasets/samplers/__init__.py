"""Samplers: in which order samples come."""

from mmkd.datasets.samplers.mixed_sampler import MixedSampler as MixedSampler
from mmkd.datasets.samplers.position_sampler import PositionSampler as PositionSampler
