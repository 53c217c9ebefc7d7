"""Read the files of one sample from the body of an HTTP request, within a limit and without trust in any name."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.datastructures import FormData
    from starlette.requests import Request

FIELDS = ("rgb", "xyz")
"""Names of the files in the form."""

_ID = "id"
_PART_ID = re.compile(r"[\w.+=,@()\- ]{1,100}")
_PLAIN_NAME = re.compile(r"[^\w.\-]+")
_LONGEST_NAME = 80


class RefusedError(Exception):
    """HTTP error that is the answer to a request.

    Args:
        status: HTTP status, 400 or higher.
        message: The problem and the remedy, for people.

    Attributes:
        status: See Args.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """Uploaded files of one sample, and the id of the part.

    Attributes:
        part_id: Id of the part, from the field `id`, else a new one.
        files: File name and content by field, "rgb" or "xyz"; at least one. A name has no folders.
    """

    part_id: str
    files: dict[str, tuple[str, bytes]]


async def read_upload(request: Request, largest: int) -> Upload:
    """Return the files of a request with the content type multipart/form-data.

    Args:
        request: Request whose body was not read.
        largest: Largest size of the body in bytes.

    Raises:
        RefusedError: The body is too large, no form, or has other fields than `rgb`, `xyz` and `id`.
    """
    from starlette.formparsers import MultiPartException, MultiPartParser

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedError(415, "The body is no multipart/form-data. Send the files as the fields rgb and xyz.")
    if (length := request.headers.get("content-length", "0")).isdigit() and int(length) > largest:
        raise _too_large(largest)
    parser = MultiPartParser(request.headers, _limited(request, largest), max_files=len(FIELDS), max_fields=1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"The form cannot be read: {error.message} Send rgb, xyz or both, and id.") from error
    try:
        return await _upload(form)
    finally:
        await form.close()


async def _limited(request: Request, largest: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for block in request.stream():
        received += len(block)
        if received > largest:
            raise _too_large(largest)
        yield block


async def _upload(form: FormData) -> Upload:
    files: dict[str, tuple[str, bytes]] = {}
    part_id = secrets.token_hex(8)
    for field, value in form.multi_items():
        if field == _ID and isinstance(value, str):
            part_id = value
        elif field not in FIELDS or isinstance(value, str) or field in files:
            raise RefusedError(400, f"The field {field[:40]!r} is unknown, doubled or no file. Send rgb, xyz and id.")
        else:
            files[field] = (_plain(value.filename or field), await value.read())
    if not files:
        raise RefusedError(400, "The form has no file. Send the fields rgb, xyz or both.")
    if not _PART_ID.fullmatch(part_id):
        raise RefusedError(400, "The id has other characters than letters, digits, spaces and _.+=,@()- or is long.")
    return Upload(part_id, files)


def _plain(name: str) -> str:
    """Return the last part of a file name with safe characters only; the suffix stays."""
    last = re.split(r"[/\\]", name)[-1]
    return _PLAIN_NAME.sub("_", last)[-_LONGEST_NAME:].lstrip(".") or "file"


def _too_large(largest: int) -> RefusedError:
    return RefusedError(413, f"The body is larger than {largest >> 20} MiB. Send smaller files, or raise the limit.")
