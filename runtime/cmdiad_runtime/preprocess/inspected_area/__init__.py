"""The inspected area: the part that a detector inspects, the limits of good parts, and content outside of the part.

`measure` and `background` take the facts of one sample, `records` are the limits that training learns from good
samples, and `check` compares both.
"""
