"""The memory-bank family: patch features, hallucination, banks, fusion."""
