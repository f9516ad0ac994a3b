"""Divergences: of what two members predict."""
