"""Accuracy of a bundle for whichever sensors arrive, when a share of the samples lacks image or cloud."""
