"""Compare detector families: train, export and measure each one on the same parts, and show published figures too."""
