"""Answers of decoders to the same queries."""
