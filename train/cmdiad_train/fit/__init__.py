"""Train one detector."""
