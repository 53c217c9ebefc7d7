"""CMDIAD Edge benchmarks: latency and accuracy of bundles."""
