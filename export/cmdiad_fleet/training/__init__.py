"""Train one detector for each category and recipe."""
