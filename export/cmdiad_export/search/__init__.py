"""Choose and certify how memory banks are searched."""
