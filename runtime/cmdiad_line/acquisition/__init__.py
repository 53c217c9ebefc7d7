"""The acquisition process: one thread for each sensor, and the pairing of the frames of a part."""
