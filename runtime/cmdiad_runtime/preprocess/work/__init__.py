"""Work arrays, shared pieces of work and small matrix products without BLAS."""
