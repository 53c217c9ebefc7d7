"""TOML files that people write: one dataclass for each section, and every mistake reported at once with its line."""
