"""The networks of Shape-Guided detectors."""
