"""Lists of samples: identifiers and places of files."""
