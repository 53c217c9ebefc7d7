"""Commands of training. No logic."""
