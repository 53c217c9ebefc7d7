"""Training of crossmodal feature mapping."""
