"""Names of the presets of extractors, for the options of commands; importing this module loads nothing else."""

AUTO = "auto"
PRESET_NAMES = ("small", "standard", "large")
