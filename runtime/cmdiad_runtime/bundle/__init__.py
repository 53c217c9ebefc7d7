"""Bundles: manifest, certificate, thresholds, signatures, self-tests and the choice of an engine."""
