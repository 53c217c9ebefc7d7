"""Figures of a detector on a test split, with intervals."""
