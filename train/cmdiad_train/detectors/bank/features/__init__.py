"""The patch features that banks compare: extractors, cells, projection and hallucination as network modules."""
