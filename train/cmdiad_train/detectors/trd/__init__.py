"""Reverse distillation: students that reproduce the features of a frozen teacher on good parts only."""
