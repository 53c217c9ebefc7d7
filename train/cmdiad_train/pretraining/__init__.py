"""Training of extractor weights: self-supervised pretraining, and distillation of a small extractor."""
