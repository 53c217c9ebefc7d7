"""Pages, rendered from templates. All text is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmdiad_line.web.access import Caller, page_of, sign_in_address
from cmdiad_line.web.facts import facts_of
from cmdiad_line.web.services import services_of
from cmdiad_line.web.static_files import address
from cmdiad_line.web.words import COUNTERS, PHASES, STAGES, local_time, part_name, relative_score, sentence, title

HERE = Path(__file__).parent


@cache
def templates() -> Environment:
    """Return the templates; an unknown variable is an error and all text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "title_of": title,
        "facts_of": facts_of,
        "local_time": local_time,
        "part_name": part_name,
        "relative_score": relative_score,
        "sentence": sentence,
    }
    environment.globals |= {"COUNTERS": COUNTERS, "PHASES": PHASES, "STAGES": STAGES, "static": address}
    return environment


def render(request: Request, template: str, caller: Caller | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        request: Request that the page answers.
        template: Name of the template without the ending.
        caller: Person who sees the page, or None before signing in.
        status: HTTP status.
        **values: Variables of the template.
    """
    services = services_of(request)
    text = (
        templates()
        .get_template(f"{template}.html.jinja")
        .render(
            station=services.name,
            person=caller,
            page=template,
            path=request.url.path,
            sign_in=sign_in_address(page_of(request)),
            **values,
        )
    )
    return HTMLResponse(text, status)
