"""Organised point clouds: support plane, clustering, part geometry, surfaces and point groups."""
