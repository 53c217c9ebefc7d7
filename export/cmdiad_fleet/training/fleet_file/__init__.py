"""Read the fleet file, a TOML file with data sets, recipes, options of the export and a sweep."""
