"""Read TOML files that people write into one dataclass per section, and report every mistake at once with its line."""
