"""Candidates, which learn from judged parts, and their replay before they become recipes."""
