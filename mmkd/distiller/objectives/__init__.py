"""Objectives: a loss, what it reads, its weight and its connectors."""
