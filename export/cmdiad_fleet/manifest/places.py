"""Places of files in a manifest: absolute paths, paths relative to the manifest, and URLs."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_SCHEME = "://"


def is_url(place: str) -> bool:
    """Return True for a place that fsspec opens, False for a path of this machine."""
    return _SCHEME in place


def absolute_place(place: str, manifest: str) -> str:
    """Return a place that does not depend on the working directory.

    Args:
        place: Path or URL from a row of the manifest.
        manifest: Path or URL of the manifest, which relative paths refer to.
    """
    if is_url(place):
        return place
    if not is_url(manifest):
        return str(Path(manifest).absolute().parent / place)
    scheme, _, rest = manifest.partition(_SCHEME)
    return f"{scheme}{_SCHEME}{posixpath.join(posixpath.dirname(rest.split('?')[0]), place)}"


def place_for_people(place: str) -> str:
    """Return a place without user name, password, query and fragment, which may contain credentials."""
    if not is_url(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return place.partition(_SCHEME)[0] + _SCHEME
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
