"""Send the command of a form to the supervisor, and answer the browser."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from cmdiad_line.web.access import Caller
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of


async def carry_out(
    request: Request, caller: Caller, name: str, arguments: dict[str, Any], *, back: str, refused: str = "Not done"
) -> Response:
    """Send a command in the name of a person. Return to a page, or show why the command was refused.

    Args:
        request: Request with the form.
        caller: The person.
        name: Name of the command.
        arguments: Arguments of the command.
        back: Address of the page to return to.
        refused: Heading of the page that shows a refusal.
    """
    answer = await services_of(request).desk.command(name, caller.name, arguments)
    if not answer.done:
        return render(request, "problem", caller, status=409, heading=refused, problem=answer.message)
    return RedirectResponse(back, status_code=303)
