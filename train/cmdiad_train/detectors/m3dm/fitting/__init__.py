"""Training of an M3DM detector."""
