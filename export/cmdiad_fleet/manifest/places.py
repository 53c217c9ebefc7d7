"""Places of files in a manifest: absolute paths, paths relative to the manifest, and URLs."""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
from urllib.parse import urlsplit, urlunsplit

SCHEMES = frozenset(
    ["abfs", "abfss", "adl", "az", "file", "gcs", "gs", "hdfs", "http", "https", "memory", "s3", "s3a", "sftp", "smb"]
)
"""Kinds of URLs that a row may have: stores of files. fsspec knows others, which run programs or read other URLs."""

_SCHEME = "://"
_BRACKETS = re.compile(r"(?<=\[)[0-9A-Fa-f:.]+(?=\](?::\d*)?$)")
"""An IPv6 address at the end of the part of a URL that names the server."""


def is_url(place: str) -> bool:
    """Return True for a place that fsspec opens, False for a path of this machine."""
    return _SCHEME in place


def base_of(manifest: str) -> str:
    """Return the folder of a manifest, an absolute path or URL, which relative paths refer to."""
    if not is_url(manifest):
        return os.path.dirname(os.path.abspath(manifest))  # noqa: PTH100, PTH120 - joined with text a million times
    scheme, _, rest = manifest.partition(_SCHEME)
    return f"{scheme}{_SCHEME}{posixpath.dirname(rest.split('?')[0])}"


def absolute_place(place: str, base: str) -> str:
    """Return a place that does not depend on the working directory.

    Args:
        place: Path or URL from a row of the manifest.
        base: Folder of the manifest, see `base_of`.
    """
    if is_url(place):
        return place
    return posixpath.join(base, place) if is_url(base) else os.path.join(base, place)  # noqa: PTH118 - see above


def has_known_scheme(url: str) -> bool:
    """Return True for a URL of a kind in SCHEMES."""
    return url.partition(_SCHEME)[0].lower() in SCHEMES


def without_short_address(url: str) -> str:
    """Return a URL whose IPv6 address has all groups, because fsspec reads the `::` of a short one as a chain."""
    scheme, mark, rest = url.partition(_SCHEME)
    end = next((position for position, letter in enumerate(rest) if letter in "/?#"), len(rest))
    try:
        server = _BRACKETS.sub(lambda address: ipaddress.IPv6Address(address[0]).exploded, rest[:end])
    except ValueError:
        return url
    return f"{scheme}{mark}{server}{rest[end:]}"


def place_for_people(place: str) -> str:
    """Return a place without user name, password, query and fragment, which may contain credentials."""
    if not is_url(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return place.partition(_SCHEME)[0] + _SCHEME
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
