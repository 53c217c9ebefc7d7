"""Inspect samples: inputs, inspector, pipeline, results and overlays."""
