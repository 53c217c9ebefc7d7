"""Crossmodal feature mapping: features of each modality are predicted from those of the other."""
