"""Review: a person judges NG and near-threshold parts, one after the other, with the keyboard."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from cmdiad_line.records.ids import LARGEST_ID
from cmdiad_line.web.access import Caller, form_for, page_for
from cmdiad_line.web.operator import PartId
from cmdiad_line.web.orders import carry_out
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(include_in_schema=False)

Judgement = Literal["good", "defect", "unsure"]


@router.get("/review")
async def review(
    request: Request,
    caller: Annotated[Caller, Depends(page_for("operator"))],
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
    blind: bool = False,
) -> Response:
    """Show the newest part that waits for a judgement.

    Args:
        request: The request.
        caller: The person.
        before: Only parts with a smaller id, to skip parts.
        blind: True for a second look at parts that another person has judged; verdict and judgement stay hidden.
    """
    queue = await run_in_threadpool(services_of(request).history.queue, second_look_by=caller.name if blind else "")
    part = next((part for part in queue if before is None or part.acquisition_id < before), None)
    return render(request, "review", caller, part=part, count=len(queue), blind=blind, skipped=before is not None)


@router.post("/review/{acquisition_id}")
async def judge(
    request: Request,
    acquisition_id: PartId,
    judgement: Annotated[Judgement, Form()],
    caller: Annotated[Caller, Depends(form_for("operator"))],
    note: Annotated[str, Form(max_length=500)] = "",
    blind: Annotated[bool, Form()] = False,
) -> Response:
    """Store a judgement and show the next part."""
    if note and not note.isprintable():
        raise HTTPException(422, "note: found control characters. Expected one line of text. Correct the note.")
    arguments = {"acquisition_id": acquisition_id, "judgement": judgement, "note": note.strip()}
    back = f"/review?before={acquisition_id}{'&blind=true' if blind else ''}"
    return await carry_out(request, caller, "judge", arguments, back=back, refused="Not stored")
