"""Bundles as artefacts of an OCI registry."""
