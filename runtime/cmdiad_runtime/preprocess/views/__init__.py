"""Views: what the network sees of a sample.

`sensor` is the image as recorded, `part` the part turned upright and cut out of the image, `top` the part from above
its support, and `each` the cloud from the top with the image cut out. `strategy` describes what a view provides, and
`registry` finds the view of a name or of a preprocessing.
"""
