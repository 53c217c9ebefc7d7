"""Reading, resizing, background removal and point geometry: the one preprocessing of training and line."""
