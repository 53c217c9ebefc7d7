"""M3DM: memory banks of both modalities, and a third one of fused features."""
