"""The fleet file: one TOML file with data sets, recipes, export and sweep. `read` reads and checks all of it."""
