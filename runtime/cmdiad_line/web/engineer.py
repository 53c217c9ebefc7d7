"""The engineer page: scores, drift, latency, recipes, threshold and audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from cmdiad_line.web.access import Caller, form_for, page_for
from cmdiad_line.web.charts import rate_chart, score_chart
from cmdiad_line.web.figures import gather
from cmdiad_line.web.orders import carry_out
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(prefix="/engineer", include_in_schema=False)
Engineer = Annotated[Caller, Depends(form_for("engineer"))]
RecipeId = Annotated[str, Form(max_length=64)]
Note = Annotated[str, Form(min_length=3, max_length=500)]


@router.get("")
async def engineer(request: Request, caller: Annotated[Caller, Depends(page_for("engineer"))]) -> Response:
    """Show the page."""
    services = services_of(request)
    now = datetime.now().astimezone()
    figures = await run_in_threadpool(gather, services.history, services.recipes, services.records, now)
    scores = score_chart(figures.series, figures.drift.chart) if len(figures.series.ids) else ""
    return render(
        request,
        "engineer",
        caller,
        figures=figures,
        scores=scores,
        rates=rate_chart(figures.hours),
        state=services.desk.state,
    )


@router.post("/recipe/{name}")
async def recipe(
    request: Request, name: Literal["prepare", "activate"], caller: Engineer, recipe_id: RecipeId
) -> Response:
    """Prepare or activate a recipe."""
    return await carry_out(request, caller, name, {"recipe_id": recipe_id}, back=router.prefix)


@router.post("/station/{name}")
async def station(request: Request, name: Literal["rollback", "reset", "abort"], caller: Engineer) -> Response:
    """Return to the previous recipe, reset a failed station, or abort the parts in work."""
    return await carry_out(request, caller, name, {}, back=router.prefix)


@router.post("/threshold")
async def threshold(
    request: Request, caller: Engineer, recipe_id: RecipeId, note: Note, score: Annotated[str, Form(max_length=40)] = ""
) -> Response:
    """Change the threshold of a recipe; an empty score restores the threshold of the bundle."""
    arguments = {"recipe_id": recipe_id, "score": _score(score), "note": note.strip()}
    return await carry_out(request, caller, "threshold", arguments, back=router.prefix)


def _score(text: str) -> float | None:
    """Return a score from a form, None for an empty field."""
    if not text.strip():
        return None
    try:
        score = float(text.strip().replace(",", "."))
    except ValueError:
        score = 0.0
    if not 0.0 < score < 1e12:
        raise HTTPException(422, "The score is no positive number. Expected a score such as 12.5, or an empty field.")
    return score
