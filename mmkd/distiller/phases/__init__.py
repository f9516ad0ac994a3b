"""Phases: which objectives each optimizer steps on."""
