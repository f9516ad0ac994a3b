"""Taps: names for tensors inside a model."""
