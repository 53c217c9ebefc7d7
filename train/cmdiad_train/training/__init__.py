"""The training loop that distillation networks and extractors share."""
