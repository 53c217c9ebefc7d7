"""The accounts page, for admins."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from cmdiad_line.accounts.account import ROLES, SHORTEST_PASSWORD
from cmdiad_line.web.access import Caller, form_for, page_for
from cmdiad_line.web.pages import render
from cmdiad_line.web.services import services_of

router = APIRouter(prefix="/accounts", include_in_schema=False)
Admin = Annotated[Caller, Depends(form_for("admin"))]
Text = Annotated[str, Form(max_length=200)]


@router.get("")
async def accounts(request: Request, caller: Annotated[Caller, Depends(page_for("admin"))]) -> Response:
    """List the accounts."""
    entries = await run_in_threadpool(services_of(request).accounts.accounts)
    return render(request, "accounts", caller, accounts=entries, roles=ROLES, shortest=SHORTEST_PASSWORD)


@router.post("/add")
async def add(request: Request, caller: Admin, name: Text, role: Text, password: Text) -> Response:
    """Add an account."""
    store = services_of(request).accounts
    await run_in_threadpool(store.add, name.strip(), role, password, author=caller.name)
    return _back()


@router.post("/{name}/role")
async def change_role(request: Request, caller: Admin, name: str, role: Text) -> Response:
    """Change the role of an account."""
    await run_in_threadpool(services_of(request).accounts.set_role, name, role, author=caller.name)
    return _back()


@router.post("/{name}/password")
async def change_password(request: Request, caller: Admin, name: str, password: Text) -> Response:
    """Set the password of an account."""
    await run_in_threadpool(services_of(request).accounts.set_password, name, password, author=caller.name)
    return _back()


@router.post("/{name}/{state}")
async def switch(request: Request, caller: Admin, name: str, state: Literal["disable", "enable"]) -> Response:
    """Disable or enable an account."""
    store = services_of(request).accounts
    await run_in_threadpool(store.set_disabled, name, state == "disable", author=caller.name)
    return _back()


def _back() -> Response:
    return RedirectResponse("/accounts", status_code=303)
