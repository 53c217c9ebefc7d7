"""Steps of fitting a memory bank detector."""
