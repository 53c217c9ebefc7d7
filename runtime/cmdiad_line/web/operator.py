"""The operator page, the page of one part, and the buttons of the station."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from cmdiad_line.records.ids import LARGEST_ID
from cmdiad_line.web.access import Caller, form_for, page_for
from cmdiad_line.web.orders import carry_out
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(include_in_schema=False)

PartId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
"""Acquisition id in an address."""


@router.get("/")
async def operator(request: Request, caller: Annotated[Caller, Depends(page_for(None))]) -> Response:
    """Show the operator page. The page contains no verdict. Verdicts arrive by the live stream only."""
    return render(request, "operator", caller)


@router.get("/parts/{acquisition_id}")
async def part(
    request: Request, acquisition_id: PartId, caller: Annotated[Caller, Depends(page_for(None))]
) -> Response:
    """Show one part."""
    history = services_of(request).history
    result = await run_in_threadpool(history.result, acquisition_id)
    if result is None:
        raise HTTPException(404, f"There is no part {acquisition_id} in the records.")
    judgements, overrides = await run_in_threadpool(history.remarks, acquisition_id)
    kept = await run_in_threadpool(history.kept, result)
    return render(request, "part", caller, result=result, kept=kept, judgements=judgements, overrides=overrides)


@router.post("/station/{name}")
async def command(
    request: Request,
    name: Literal["start", "stop"],
    caller: Annotated[Caller, Depends(form_for("operator"))],
) -> Response:
    """Start or stop the station."""
    return await carry_out(request, caller, name, {}, back="/")


@router.post("/parts/{acquisition_id}/override")
async def override(
    request: Request,
    acquisition_id: PartId,
    verdict: Annotated[Literal["OK", "NG"], Form()],
    note: Annotated[str, Form(min_length=3, max_length=500)],
    caller: Annotated[Caller, Depends(form_for("operator"))],
) -> Response:
    """Store that a person overrode the verdict of a part. The verdict that was sent to the plant stays as it is."""
    arguments = {"acquisition_id": acquisition_id, "verdict": verdict, "note": note}
    back = f"/parts/{acquisition_id}"
    return await carry_out(request, caller, "override", arguments, back=back, refused="Not stored")
