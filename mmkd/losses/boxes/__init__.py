"""Boxes that two detectors predict, compared by what they share."""
