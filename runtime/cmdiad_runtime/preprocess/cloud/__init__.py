"""Organised point clouds: background removal, surfaces, point groups."""
