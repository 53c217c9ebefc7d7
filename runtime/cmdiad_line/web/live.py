"""The live stream of the operator page. It sends the whole screen at every change and every second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse

from cmdiad_line.web.access import VIEWER, Caller, page_for, session_caller
from cmdiad_line.web.screen import make_screen
from cmdiad_line.web.services import Services, services_of

HEARTBEAT_S = 1.0
"""Longest time between two events. The page turns red after three seconds without one (static/station.css)."""
LARGEST_NUMBER = 40
"""Largest number of open streams."""
_SHORTEST_S = 0.05
"""Shortest time between two events, which limits the load of many triggers."""

router = APIRouter(include_in_schema=False)


@router.get("/live")
async def live(request: Request, caller: Annotated[Caller, Depends(page_for(None))]) -> StreamingResponse:
    """Stream the screen of the operator page."""
    services = services_of(request)
    if request.app.state.streams >= LARGEST_NUMBER:
        raise HTTPException(503, "Too many pages are open. Close some.")
    return StreamingResponse(_counted(request, services, caller), media_type="text/event-stream")


async def _counted(request: Request, services: Services, caller: Caller) -> AsyncIterator[str]:
    request.app.state.streams += 1
    try:
        async for event in _events(request, services, caller):
            yield event
    finally:
        request.app.state.streams -= 1


async def _events(request: Request, services: Services, caller: Caller) -> AsyncIterator[str]:
    """Yield events until the process ends or the person is signed out."""
    desk, checked = services.desk, services.desk.clock()
    while not services.ending:
        version = desk.version
        screen = make_screen(desk, services.shift.numbers(), services.settings.verdict_seconds)
        yield f"event: screen\ndata: {json.dumps(screen, default=vars, separators=(',', ':'))}\n\n"
        await desk.wait_for_change(version, HEARTBEAT_S)
        await asyncio.sleep(_SHORTEST_S)
        if caller is not VIEWER and desk.clock() - checked >= HEARTBEAT_S:
            checked = desk.clock()
            if await session_caller(request, touch=False) is None:
                yield "event: end\ndata:\n\n"
                return
