"""Training of reverse distillation: teacher features, students, hallucination and calibration of the branches."""
