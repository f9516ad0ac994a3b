"""Ensembles: what a distribution over predictions teaches."""
