"""Pages about candidates and their replay of recorded parts. A candidate is accepted on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from cmdiad_line.recipes.store import RecipeError
from cmdiad_line.review.candidate import Candidate, list_candidates, read_candidate
from cmdiad_line.review.replay import Replay, read_replay
from cmdiad_line.station_file.recipe import RECIPE_ID
from cmdiad_line.web.access import Caller, page_for
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(prefix="/engineer/candidates", include_in_schema=False)
Name = Annotated[str, PathParameter(pattern=f"^{RECIPE_ID.pattern}$")]

MOST_SHOWN = 500
"""Largest number of changed parts on a page; the file `replay.csv` has all of them."""


@dataclass(frozen=True)
class Shown:
    """A candidate on a page.

    Attributes:
        candidate: Record of the candidate.
        replay: Replay, or None before the candidate was replayed.
    """

    candidate: Candidate
    replay: Replay | None


@router.get("")
async def candidates(request: Request, caller: Annotated[Caller, Depends(page_for("engineer"))]) -> Response:
    """List all candidates."""
    shown = await run_in_threadpool(_all, services_of(request).state_folder)
    return render(request, "candidates", caller, candidates=shown)


@router.get("/{name}")
async def candidate(request: Request, name: Name, caller: Annotated[Caller, Depends(page_for("engineer"))]) -> Response:
    """Show the evidence of a candidate, and the parts whose verdict would have changed."""
    try:
        shown = await run_in_threadpool(_one, services_of(request).state_folder, name)
    except RecipeError as error:
        raise HTTPException(404, str(error)) from error
    parts = shown.replay.changed[-MOST_SHOWN:][::-1] if shown.replay is not None else ()
    return render(request, "candidate", caller, shown=shown, parts=parts)


def _all(state: Path) -> list[Shown]:
    """Return all candidates, newest first."""
    shown = [_one(state, name) for name in list_candidates(state)]
    return sorted(shown, key=lambda entry: entry.candidate.created, reverse=True)


def _one(state: Path, name: str) -> Shown:
    record = read_candidate(state, name)
    try:
        return Shown(record, read_replay(state, name))
    except RecipeError:
        return Shown(record, None)
