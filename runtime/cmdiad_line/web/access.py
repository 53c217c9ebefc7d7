"""Callers of pages and REST, and checks of their roles. Every page and REST call states the role that it needs."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import HTTPException, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cmdiad_line.accounts.account import Role, includes
from cmdiad_line.accounts.tokens import find_token
from cmdiad_line.web.services import Services, services_of


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Person or program behind a request.

    Attributes:
        name: Name for the audit log; "" for an anonymous viewer, where the station file allows these.
        role: Role, or None for an anonymous viewer.
        form_token: Secret that forms must contain; "" for programs and viewers.
    """

    name: str
    role: Role | None
    form_token: str = ""

    def may(self, role: Role) -> bool:
        """Return True if the caller may do what a role may do."""
        return self.role is not None and includes(self.role, role)


class SignInNeededError(Exception):
    """A page needs a signed-in person.

    Attributes:
        path: Page to return to after signing in, with its query.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


VIEWER = Caller(name="", role=None)
"""Anonymous caller who may only read, accepted if the station file sets `open_view = true`."""

_BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="Token of `cmdiad-line account token`.")
"""Security scheme for the description of REST. `program_for` checks the token itself."""

Dependency = Callable[..., Coroutine[Any, Any, Caller]]


def cookie_name(services: Services) -> str:
    """Return the name of the session cookie. With TLS, its prefix binds the cookie to this host."""
    return "__Host-cmdiad" if services.settings.secure else "cmdiad"


def page_for(role: Role | None) -> Dependency:
    """Return a dependency for pages that requires a role; None also accepts viewers if allowed."""

    async def check(request: Request) -> Caller:
        caller = await session_caller(request)
        if caller is None and role is None and services_of(request).settings.open_view:
            return VIEWER
        if caller is None:
            raise SignInNeededError(page_of(request))
        if not caller.may(role or "operator"):
            raise HTTPException(403, f"This page needs the role {role}. You are signed in as {caller.role}.")
        return caller

    return check


def form_for(role: Role) -> Dependency:
    """Return a dependency for POST forms that requires a role, and a form from a page of this session."""

    async def check(request: Request) -> Caller:
        caller = await page_for(role)(request)
        form = await request.form()
        require_own_form(request, str(form.get("form_token", "")), caller.form_token)
        return caller

    return check


def program_for(role: Role | None) -> Dependency:
    """Return a dependency for REST that requires a token. For reading, the session of a person is accepted too.

    A session is not accepted for writing, so no forged form can trigger an inspection.
    """

    async def check(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None
    ) -> Caller:
        services = services_of(request)
        caller = token_caller(request, services)
        if caller is None and request.method == "GET":
            caller = await session_caller(request, touch=False)
            if caller is None and role is None and services.settings.open_view:
                return VIEWER
        if caller is None:
            problem = "A token is needed: send the header Authorization: Bearer TOKEN."
            raise HTTPException(401, problem, headers={"WWW-Authenticate": "Bearer"})
        if not caller.may(role or "operator"):
            raise HTTPException(403, f"This needs the role {role}. The caller has the role {caller.role}.")
        return caller

    return check


def token_caller(request: Request, services: Services) -> Caller | None:
    """Return the program behind the header Authorization, or None."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    token = find_token(services.tokens, text.strip()) if scheme.lower() == "bearer" else None
    return None if token is None else Caller(name=token.name, role=token.role)


async def session_caller(request: Request, *, touch: bool = True) -> Caller | None:
    """Return the person behind the session cookie, or None.

    Args:
        request: The request.
        touch: True if the request shows that the person is there, False for a page that updates itself.
    """
    services = services_of(request)
    identifier = request.cookies.get(cookie_name(services), "")
    session = services.sessions.find(identifier)
    if session is None:
        return None
    account = await run_in_threadpool(services.accounts.account, session.name)
    if account is None or not services.sessions.keep(session, account, touch=touch):
        services.sessions.end(identifier)
        return None
    return Caller(name=account.name, role=account.role, form_token=session.form_token)


def require_own_form(request: Request, token: str, expected: str) -> None:
    """Raise unless a form comes from a page of this station that was made for this browser."""
    origin = request.headers.get("origin")
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not own or not expected or not hmac.compare_digest(token.encode(), expected.encode()):
        raise HTTPException(403, "This form is too old or comes from another page. Load the page again.")


def page_of(request: Request) -> str:
    """Return path and query of the page of a request; "/" for a form that was sent, which has no page."""
    if request.method != "GET":
        return "/"
    path, query = request.url.path, request.url.query
    return f"{path}?{query}" if query else path


def sign_in_address(path: str) -> str:
    """Return the address of the sign-in page that leads back to a page."""
    return f"/login?next={quote(path, safe='/')}"
