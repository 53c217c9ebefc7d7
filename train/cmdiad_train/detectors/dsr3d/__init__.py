"""The detector family `dsr3d`: 3DSR with the depth-aware discrete autoencoder DADA (arXiv 2311.01117)."""
