"""Simulated pictures and masks: gradient noise, rotation, depth."""
