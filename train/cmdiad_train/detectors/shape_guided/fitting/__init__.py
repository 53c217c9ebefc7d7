"""Training of Shape-Guided detectors."""
