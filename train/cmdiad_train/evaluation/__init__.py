"""Metrics of a detector on a test split, with confidence intervals."""
