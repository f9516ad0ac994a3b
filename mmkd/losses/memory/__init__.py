"""Contrast: features against those of other places, of this batch or remembered."""
