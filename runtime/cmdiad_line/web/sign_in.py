"""The sign-in page, and signing out."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from cmdiad_line.accounts.account import Account
from cmdiad_line.web.access import Caller, cookie_name, form_for, require_own_form
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(include_in_schema=False)
MOST_SIGN_INS = 4
"""Largest number of attempts to sign in that wait at the same time. They occupy threads that pages need."""
_REFUSED = "Name or password is wrong, or the account is locked for now. Wait a minute before you try again."


@router.get("/login")
async def form(request: Request, next: str = "/") -> Response:
    """Show the form."""
    accounts = await run_in_threadpool(services_of(request).accounts.accounts)
    return _form(request, next, missing=not accounts)


@router.post("/login")
async def sign_in(
    request: Request,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    form_token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Begin a session if name and password are right."""
    services = services_of(request)
    nonce = request.cookies.get(_nonce_name(request), "")
    require_own_form(request, form_token, services.sessions.token_before_sign_in(nonce) if nonce else "")
    account = await _account(request, name.strip(), password)
    if account is None:
        return _form(request, next, status=403, problem=_REFUSED)
    answer = RedirectResponse(local_path(next), status_code=303)
    _set_cookie(request, answer, cookie_name(services), services.sessions.begin(account))
    return answer


@router.post("/logout")
async def sign_out(request: Request, _: Annotated[Caller, Depends(form_for("operator"))]) -> Response:
    """End the session."""
    services = services_of(request)
    services.sessions.end(request.cookies.get(cookie_name(services), ""))
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(cookie_name(services), secure=services.settings.secure, httponly=True, samesite="strict")
    return answer


async def _account(request: Request, name: str, password: str) -> Account | None:
    """Return the account if name and password are right. Few attempts wait at the same time, because each is slow."""
    state = request.app.state
    if state.sign_ins >= MOST_SIGN_INS:
        raise HTTPException(503, "Too many attempts to sign in at the same time. Try again in a few seconds.")
    state.sign_ins += 1
    try:
        return await run_in_threadpool(services_of(request).accounts.sign_in, name, password)
    finally:
        state.sign_ins -= 1


def local_path(path: str) -> str:
    r"""Return a path of this station with its query, or "/" for anything else, such as "//host" or "/\host"."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and path.isascii() else "/"


def _form(request: Request, path: str, *, status: int = 200, problem: str = "", missing: bool = False) -> Response:
    """Return the sign-in page.

    Args:
        request: The request.
        path: Page to return to after signing in.
        status: HTTP status.
        problem: Reason why the last attempt was refused, or "".
        missing: True if there is no account yet.
    """
    nonce = secrets.token_urlsafe(32)
    token = services_of(request).sessions.token_before_sign_in(nonce)
    values = {"problem": problem, "missing": missing, "next": local_path(path), "form_token": token}
    answer = render(request, "login", None, status=status, **values)
    _set_cookie(request, answer, _nonce_name(request), nonce)
    return answer


def _nonce_name(request: Request) -> str:
    return f"{cookie_name(services_of(request))}-form"


def _set_cookie(request: Request, answer: Response, name: str, value: str) -> None:
    """Set a cookie that scripts cannot read and that other sites cannot send; it ends with the browser."""
    secure = services_of(request).settings.secure
    answer.set_cookie(name, value, httponly=True, samesite="strict", secure=secure, path="/")
