"""Limits on files from sensors and cameras. A file beyond a limit is refused with the reason "too-large".

The limits are checked before memory is allocated or data are unpacked. They are far beyond the files of inspection
sensors, and keep the memory for one file below 1 GB in addition to the image or cloud itself. The table in
docs/formats.md lists them. The limits of pixels and points also hold for arrays: `cmdiad_runtime.support.sizes`.
"""

from __future__ import annotations

MAX_FILE_BYTES = 1 << 30
"""Largest file."""

MAX_HEADER_BYTES = 65_536
"""Largest text header of a PLY or PCD file."""

MAX_HEADER_FIELDS = 256
"""Most elements of a PLY file, properties of an element, or fields of a PCD file."""

MAX_POINT_BYTES = 4_096
"""Largest point of a PLY or PCD file: coordinates, colours, normals and everything else that a sensor stores."""

MAX_UNPACKED_BYTES = 1 << 29
"""Largest unpacked content of a compressed PCD file."""

MAX_JSON_BYTES = 65_536
"""Largest file of intrinsics."""

MAX_JPEG_SCANS = 100
"""Most scans of a progressive JPEG image; software writes about ten. Each one costs the time of a whole image."""

MAX_JPEG_BYTES = 1 << 28
"""Largest JPEG file, which is read into memory."""

MAX_BUFFERED_PIXELS = 40_000_000
"""Most pixels of a WebP or JPEG 2000 image; their decoders keep several copies of all pixels."""

MAX_JPEG2000_HEADERS = 256
"""Most boxes of a JP2 file before the image, and most headers of the image."""

MAX_JPEG2000_TILE_PARTS = 16_384
"""Most tiles, and most parts of all tiles, of a JPEG 2000 image."""

MAX_JPEG2000_LAYERS = 100
"""Most quality layers of a JPEG 2000 image; software writes one to twelve. Each one costs time for every tile."""

MAX_TIFF_DIRECTORIES = 16
"""Most directories (pages and sub-images) of a TIFF file."""

MAX_TIFF_TAGS = 256
"""Most entries of a TIFF directory."""

MAX_TIFF_SEGMENTS = 65_536
"""Most strips or tiles of a TIFF image."""

MAX_TIFF_VALUE_BYTES = 1 << 20
"""Largest value of any other TIFF tag, for example the image description."""

MAX_ARCHIVE_MEMBERS = 1_000
"""Most arrays in an NPZ file."""

MAX_ARRAY_HEADER_BYTES = 4_096
"""Largest header of an array in an NPZ file; NumPy writes 128 bytes."""
