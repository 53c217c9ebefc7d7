"""The preprocessing of training and inspection: views, background removal, point geometry and resizing.

SciPy is imported as a whole. SciPy loads its parts, 37 MB in memory, when they are first used; an image in the sensor
view uses none of them.
"""
