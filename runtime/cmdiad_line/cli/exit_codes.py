"""Exit codes of the commands of a station, for their help texts."""

EXIT_CODES = {
    1: "the station gave up: a process ended too often",
    4: "bundle unusable",
    6: "state folder or memory unusable, or used by another station",
    10: "mistakes in the station file",
}
"""Meaning of each exit code."""
