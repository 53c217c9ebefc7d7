"""Nearest-neighbour search in a memory bank."""
