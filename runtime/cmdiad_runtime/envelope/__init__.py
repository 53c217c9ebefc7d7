"""Check whether a sample was recorded like the training samples: light, focus, colours, sensor position and so on."""
