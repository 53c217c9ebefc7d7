"""The ASGI application: pages, REST, metrics and live stream behind the guard."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from cmdiad_line.accounts.account import AccountError
from cmdiad_line.web import (
    account_page,
    candidates,
    engineer,
    live,
    metrics,
    operator,
    rest,
    rest_recipes,
    review,
    sign_in,
    static_files,
)
from cmdiad_line.web.access import SignInNeededError, session_caller, sign_in_address
from cmdiad_line.web.guard import Guard, in_address
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import Services
from cmdiad_runtime.errors import CmdiadError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADINGS = {403: "Not allowed", 404: "Not found", 405: "Not possible", 422: "Not understood", 503: "Not now"}
_DESCRIPTION = """REST of a station. Programs send `Authorization: Bearer TOKEN`.

A result with the verdict OK is the only OK: every other answer, and no answer, means NG.
"""


def make_application(services: Services) -> Guard:
    """Return the ASGI application of a station."""
    application = FastAPI(
        title=f"CMDIAD station {services.name}",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # These pages load scripts from other servers.
        redoc_url=None,
    )
    application.state.services = services
    application.state.streams = 0
    application.state.sign_ins = 0
    application.state.metrics = metrics.Metrics(services)
    for room in (rest, rest_recipes, metrics, static_files):
        application.include_router(room.router)
    for page in (sign_in, operator, live, review, engineer, candidates, account_page):
        application.include_router(page.router)
    application.add_exception_handler(SignInNeededError, _sign_in)
    application.add_exception_handler(StarletteHTTPException, _refused)
    application.add_exception_handler(RequestValidationError, _not_understood)
    application.add_exception_handler(AccountError, _account_refused)
    application.add_exception_handler(CmdiadError, _no_records)
    settings = services.settings
    hosts = frozenset(in_address(host).lower() for host in (*_LOOPBACK, settings.address, *settings.hosts))
    largest = services.push.largest_bytes if services.push is not None else 64 * 1024
    return Guard(application, hosts=hosts, upload_path="/inspect", largest_upload=largest)


async def _sign_in(_: Request, error: Exception) -> Response:
    assert isinstance(error, SignInNeededError)
    return RedirectResponse(sign_in_address(error.path), status_code=303)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return await _problem(request, error.status_code, str(error.detail), error.headers)


async def _not_understood(request: Request, error: Exception) -> Response:
    """Answer with the name and the rule of each wrong value, never with the value itself."""
    assert isinstance(error, RequestValidationError)
    text = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
    return await _problem(request, 422, f"{text}.")


async def _account_refused(request: Request, error: Exception) -> Response:
    return await _problem(request, 422, str(error))


async def _no_records(request: Request, error: Exception) -> Response:
    return await _problem(request, 503, str(error))


async def _problem(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a browser with a page and a program with JSON."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": text}, status, headers=headers)
    caller = await session_caller(request, touch=False)
    heading = _HEADINGS.get(status, "This did not work")
    return render(request, "problem", caller, status=status, heading=heading, problem=text)
