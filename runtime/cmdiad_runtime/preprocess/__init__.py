"""Reading, resizing, background removal and point geometry: the one preprocessing of training and line.

SciPy is imported as a whole: it loads its parts, 37 MB in memory, when they are first used. An image in the sensor's
view needs none of them.
"""
