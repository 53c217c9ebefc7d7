"""Images: padding, resizing and the part's outline in a camera image."""
