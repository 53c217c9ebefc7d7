"""Everything that applies only to detectors with memory banks: how banks are searched, and smaller banks."""
