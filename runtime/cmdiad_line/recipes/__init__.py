"""Recipes: bundles by digest, with the product that each is for, and the one that is active."""
