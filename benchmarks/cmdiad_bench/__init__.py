"""Measure bundles: latency, memory and accuracy, and the evaluation report."""
