"""Distillation losses: a pure function and its registered Module, one idea a file."""
