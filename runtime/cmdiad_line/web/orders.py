"""Send the command of a form to the supervisor, and answer the browser."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from cmdiad_line.web.access import Caller
from cmdiad_line.web.desk import NoAnswerError, NotTakenError
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

UNKNOWN_OUTCOME = "The station did not answer in time. The outcome is unknown: the order may still take effect."
"""Text for people and programs about an order without an answer."""


async def carry_out(
    request: Request, caller: Caller, name: str, arguments: dict[str, Any], *, back: str, refused: str = "Not done"
) -> Response:
    """Send a command in the name of a person. Return to a page, or show that the command was refused or not answered.

    Args:
        request: Request with the form.
        caller: The person.
        name: Name of the command.
        arguments: Arguments of the command.
        back: Address of the page to return to.
        refused: Heading of the page that shows a refusal.
    """
    try:
        answer = await services_of(request).desk.command(name, caller.name, arguments)
    except NotTakenError as error:
        return render(request, "problem", caller, status=503, heading=refused, problem=str(error))
    except NoAnswerError:
        return render(request, "problem", caller, status=504, heading="Outcome unknown", problem=UNKNOWN_OUTCOME)
    if not answer.done:
        return render(request, "problem", caller, status=409, heading=refused, problem=answer.message)
    return RedirectResponse(back, status_code=303)
