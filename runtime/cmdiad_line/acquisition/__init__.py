"""The acquisition process: sensors, each in one thread, and the frames of a part brought together."""
