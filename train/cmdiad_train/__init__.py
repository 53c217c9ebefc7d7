"""CMDIAD Edge training: extractors, distillation networks, memory banks, fusion and thresholds."""
