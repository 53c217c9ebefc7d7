"""Reduce a graph's precision within the certificate's tolerance."""
