"""Style sheet, script and icon. Their addresses contain a hash of their content, so browsers may keep them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)

Name = Literal["station.css", "station.js", "icon.svg"]
_TYPES: dict[Name, str] = {"station.css": "text/css", "station.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FOLDER = Path(__file__).parent / "static"


@router.get("/static/{name}")
async def static_file(name: Name) -> Response:
    """Return a file that browsers may keep for a year."""
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(_content(name), media_type=_TYPES[name], headers=headers)


@cache
def address(name: Name) -> str:
    """Return the address of a file, which changes with the content of the file."""
    return f"/static/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:16]}"


@cache
def _content(name: Name) -> bytes:
    return (_FOLDER / name).read_bytes()
