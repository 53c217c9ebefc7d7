"""Check what a detector inspects: number, area and position of the parts, and unknown content outside of the parts.

`measure` and `background` measure one sample, `records` holds the limits that training learns from good samples, and
`check` compares both.
"""
