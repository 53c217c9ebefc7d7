"""Reusable work arrays, a helper thread, and small matrix products without BLAS."""
