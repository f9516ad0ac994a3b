"""Optimizers: one for each phase, and bfloat16."""

from mmkd.engine.optimizers.bf16_optim_wrapper import Bf16OptimWrapper as Bf16OptimWrapper
from mmkd.engine.optimizers.phase_constructor import (
    PhaseOptimWrapperConstructor as PhaseOptimWrapperConstructor,
)
from mmkd.engine.optimizers.student_constructor import (
    StudentOptimWrapperConstructor as StudentOptimWrapperConstructor,
)
