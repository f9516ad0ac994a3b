"""Data sets, as mmseg data sets."""
