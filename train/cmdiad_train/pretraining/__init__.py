"""Make extractor weights: pretraining and distillation of a small extractor."""
