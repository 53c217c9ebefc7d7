"""Bundles on a server: Triton and Ray Serve."""
