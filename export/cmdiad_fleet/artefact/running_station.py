"""Activate a recipe of a running station through its REST interface on this machine.

The station itself loads the recipe next to the active one, runs the self-test, and changes between two parts. Only the
station that owns the state folder receives the token: its address and the fingerprint of its certificate come from that
folder.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from cmdiad_line.web.address_file import ADDRESS_FILE, read_address
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.files import is_sha256
from cmdiad_runtime.support.loopback import is_loopback
from cmdiad_runtime.support.reporter import Reporter

TOKEN = "CMDIAD_STATION_TOKEN"  # noqa: S105 - a name, no token
"""Environment variable with a token of the role engineer."""
READY_S = 60.0
"""Longest wait for a station that is ready with the new recipe, after the station has changed to it."""
_CONNECT_S = 10.0
_ANSWER_S = 345.0
"""Longest wait for an answer. The station itself waits at most 330 s for a recipe."""
_OUTCOME_UNKNOWN = 504
"""Status of an order that the station did not answer in time: the order may still take effect."""
_POLL_S = 0.2
_LIMIT = 1 << 22  # bytes
_TOKEN_LIMIT = 4096  # bytes
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to; replaced by this machine's address


class StationError(CmdiadError):
    """A running station cannot be reached, refuses a recipe, or is not ready with it."""

    exit_code = 11


class _NoAnswerError(StationError):
    """A request has no answer, so its outcome is not known."""


@dataclass(frozen=True)
class Readiness:
    """State of a station, as `GET /readyz` reports it.

    Attributes:
        ready: True if the station accepts parts.
        problem: Reason why the station is not ready, or "".
        recipe_id: Id of the active recipe, or "".
        bundle_digest: SHA-256 of the manifest of the bundle that is loaded for the active recipe, or "".
    """

    ready: bool
    problem: str
    recipe_id: str
    bundle_digest: str


def station_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the token for a station.

    Args:
        file: File with nothing but the token, or None for the environment variable.
        environment: Variables to read.

    Raises:
        StationError: There is no token, or the file cannot be read.
    """
    subject = TOKEN if file is None else file
    try:
        token = (environment.get(TOKEN, "") if file is None else _read(file)).strip()
    except (OSError, ValueError) as error:
        raise StationError(
            subject, found=f"no token ({cause_of(error)})", expected="a file with a token", action="check the file"
        ) from error
    if not re.fullmatch(r"[!-~]+", token):
        raise StationError(
            subject,
            found="a text that is no token" if token else "no token for the running station",
            expected="a token of the role engineer",
            action="create one with cmdiad-line account token NAME --role engineer --file TOKENS, or stop the station",
        )
    return token


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_TOKEN_LIMIT).decode("ascii")


class RunningStation:
    """REST interface of a running station on this machine. Close it after use.

    Args:
        state: State folder of the station.
        token: Token of the role engineer.

    Raises:
        StationError: The station has no pages, or its address is not usable.
    """

    def __init__(self, state: Path, token: str) -> None:
        address = read_address(state)
        fingerprint = address.get("certificate", "")
        self._url = _own_address(str(address.get("url", "")))
        secure = self._url.startswith("https:")
        if not self._url or (secure and not is_sha256(fingerprint)):
            raise StationError(
                state / ADDRESS_FILE,
                found="no address of a running station",
                expected="a station whose section [web] has a token_file",
                action="add the section and start the station again, or stop the station",
            )
        self._headers = {"Authorization": f"Bearer {token}"}
        # The pinned certificate replaces authorities and names: no other server has its private key.
        pin = {"assert_fingerprint": fingerprint, "cert_reqs": ssl.CERT_NONE} if secure else {}
        timeout = urllib3.Timeout(connect=_CONNECT_S, read=_ANSWER_S)
        self._pool = urllib3.PoolManager(retries=False, timeout=timeout, **pin)

    def require_ready(self) -> None:
        """Check that the station is ready and that the token may change recipes.

        Raises:
            StationError: The station is away or not ready, or refuses the token.
        """
        status, content = self._request("GET", "recipes")
        if status in (401, 403):
            raise self._error(f"a refusal ({_reason(content)})", "a token of the role engineer", "pass another token")
        before = self.readiness()
        if status != 200 or not before.ready:
            problem = _reason(content) if status != 200 else before.problem
            raise self._error(
                f"a station that is not ready ({problem})", "a ready one", "solve this, or stop the station"
            )

    def readiness(self) -> Readiness:
        """Return the present state.

        Raises:
            StationError: The station is away.
        """
        status, content = self._request("GET", "readyz")
        message, recipe_id, digest = (str(content.get(name, "")) for name in ("message", "recipe_id", "bundle_digest"))
        return Readiness(status == 200, message.rstrip("."), recipe_id, digest)

    def activate(self, recipe_id: str, bundle_digest: str, reporter: Reporter) -> None:
        """Make a recipe the active one, and wait until the station is ready with it.

        Args:
            recipe_id: Id of a recipe in the store of the station.
            bundle_digest: SHA-256 of the manifest of its bundle.
            reporter: Receiver of progress.

        Raises:
            StationError: The station refuses the recipe, which is not active then; or is not ready with it in time.
                The station has returned to the recipe from before then, if that was possible; see the message.
        """
        before = self.readiness().recipe_id
        reporter.say(f"the station loads and tests {recipe_id}; {before} stays active meanwhile")
        self._order("prepare", recipe_id)
        try:
            self._order("activate", recipe_id)
        except _NoAnswerError:
            pass  # The station may have changed the recipe, or may do so later.
        except StationError:
            if self._present().recipe_id != recipe_id:
                self._attempt("unprepare", recipe_id)
                raise
        last = self._wait_ready(recipe_id, bundle_digest)
        if last is not None:
            raise self._not_ready(recipe_id, before, last)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _wait_ready(self, recipe_id: str, bundle_digest: str) -> Readiness | None:
        """Return None as soon as the station is ready with a recipe, or the last state if that takes too long."""
        end = time.monotonic() + READY_S
        while True:
            last = self._present()
            if last.ready and (last.recipe_id, last.bundle_digest) == (recipe_id, bundle_digest):
                return None
            if time.monotonic() > end:
                return last
            time.sleep(_POLL_S)

    def _present(self) -> Readiness:
        """Return the present state, also of a station that is away."""
        try:
            return self.readiness()
        except _NoAnswerError:
            return Readiness(ready=False, problem="no answer", recipe_id="", bundle_digest="")

    def _not_ready(self, recipe_id: str, before: str, last: Readiness) -> StationError:
        """Return to the recipe from before unless somebody has chosen another one, and return the error."""
        if before != recipe_id and last.recipe_id in (recipe_id, ""):
            self._attempt("activate", before)
        active = self._present().recipe_id or "unknown"
        problem = last.problem or f"ready with {last.recipe_id}, bundle {last.bundle_digest}"
        return self._error(
            f"a station that was not ready with {recipe_id} after {READY_S:g} s ({problem}); active recipe: {active}",
            "a station that is ready with the new recipe",
            "look at the state of the station",
        )

    def _attempt(self, order: str, recipe_id: str) -> None:
        """Send an order whose outcome the caller finds out in another way."""
        with suppress(StationError):
            self._order(order, recipe_id)

    def _order(self, order: str, recipe_id: str) -> None:
        """Send an order and wait for its end; StationError if the station refuses or does not answer."""
        status, content = self._request("POST", f"recipes/{recipe_id}/{order}")
        if status == _OUTCOME_UNKNOWN:
            raise _NoAnswerError(
                self._url,
                found=f"no answer to {order} {recipe_id} ({_reason(content)})",
                expected="an answer in time",
                action="look at the state of the station, then pull again",
            )
        if status != 200:
            raise self._error(
                f"a refusal to {order} {recipe_id} ({_reason(content)})",
                "a recipe that the station can use",
                "solve this, then pull again; the active recipe was not changed",
            )

    def _request(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and content of an answer."""
        try:
            answer = self._pool.request(
                method, f"{self._url}/{path}", headers=self._headers, redirect=False, preload_content=False
            )
            try:
                content = json.loads(answer.read(_LIMIT))
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _NoAnswerError(
                self._url,
                found=f"no answer of the station ({type(error).__name__})",
                expected="a running station",
                action="look at the state of the station, then pull again",
            ) from error
        return answer.status, content if isinstance(content, dict) else {}

    def _error(self, found: str, expected: str, action: str) -> StationError:
        return StationError(self._url, found=printable(found), expected=expected, action=action)


def _reason(content: Mapping[str, Any]) -> str:
    return str(content.get("detail", "without a reason")).rstrip(".")


def _own_address(url: str) -> str:
    """Return the address of a station as this machine reaches it, without a slash at the end, or "".

    Without TLS, only an address of this machine is returned.
    """
    try:
        parts = urlsplit(url)
        host, port = _ANY_ADDRESS.get(parts.hostname or "", parts.hostname or ""), parts.port
    except ValueError:
        return ""
    usable = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" if usable and host and port else ""
