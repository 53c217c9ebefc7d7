"""The station file: one TOML file that describes a station. One module per section; `read` reads them all."""
