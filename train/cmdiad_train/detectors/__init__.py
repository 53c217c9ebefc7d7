"""Detector families."""
