"""Serve bundles through a Triton server or Ray Serve."""
