"""The envelope: limits of the recording conditions that the training samples had, and the checks of a sample."""
