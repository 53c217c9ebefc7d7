"""Recipes of a station: bundles by digest, each with its product, and the active one."""
