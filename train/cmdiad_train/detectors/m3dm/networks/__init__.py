"""The fusion network of M3DM, its loss, and the fused features as part of the graph."""
