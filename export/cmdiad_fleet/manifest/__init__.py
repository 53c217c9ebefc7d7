"""Read and check manifests: lists of samples with identifiers and places of files."""
