"""Payloads of the messages, as JSON. `schema.json` describes them; fields may be added, but never change or vanish."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cmdiad_line.transport.messages import Result, StationState

SCHEMA_VERSION = 1
"""Version of the payloads. It changes only if a field changes its meaning or vanishes."""
COMMANDS = ("start", "stop", "abort", "prepare", "activate")
"""Commands that a broker may send."""
LARGEST_REQUEST = 4096
"""Largest payload of a request in bytes."""
_LONGEST_TEXT = 64


class RequestError(ValueError):
    """A request from the broker cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A trigger or a command from the broker.

    Attributes:
        request: Id that the sender has chosen, returned in the answer.
        part_id: Id of the part, for a trigger.
        meas_id: Id of the measurement, for a trigger.
        name: One of COMMANDS, for a command.
        recipe_id: Recipe, for `prepare` and `activate`.
    """

    request: str = ""
    part_id: str = ""
    meas_id: str = ""
    name: str = ""
    recipe_id: str = ""


def schema() -> dict[str, Any]:
    """Return the JSON schema of all payloads."""
    content: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))
    return content


def result_payload(station: str, result: Result) -> bytes:
    """Return the payload of a result."""
    return _encode(
        "result",
        station,
        acquisition_id=result.acquisition_id,
        verdict=result.verdict,
        reason=result.reason,
        message=result.message,
        score=result.score,
        threshold=result.threshold,
        part_id=result.part_id,
        meas_id=result.meas_id,
        channel=result.channel,
        recipe_id=result.recipe_id,
        bundle_digest=result.bundle_digest,
        time=result.time,
        timings_ms=result.timings_ms,
    )


def state_payload(station: str, state: StationState, *, waiting: int, dropped: int) -> bytes:
    """Return the payload of the state.

    Args:
        station: Name of the station.
        state: State.
        waiting: Number of results that the broker has not confirmed.
        dropped: Number of results that were dropped, because the broker was away for too long.
    """
    return _encode(
        "state",
        station,
        online=True,
        phase=state.phase,
        reason=state.reason,
        message=state.message,
        in_work=state.in_work,
        accepts=state.accepts,
        recipe_id=state.recipe_id,
        bundle_digest=state.bundle_digest,
        prepared=list(state.prepared),
        modality=state.modality,
        counters=state.counters,
        waiting=waiting,
        dropped=dropped,
    )


def offline_payload(station: str) -> bytes:
    """Return the state that the broker publishes when the connection to the station is lost, or has ended."""
    return _encode("state", station, online=False)


def answer_payload(station: str, request: str, *, done: bool, message: str, acquisition_id: int = 0) -> bytes:
    """Return the payload of the answer to a trigger or command."""
    return _encode("answer", station, request=request, done=done, message=message, acquisition_id=acquisition_id)


def read_request(payload: bytes, *, command: bool) -> Request:
    """Return a trigger or a command.

    Raises:
        RequestError: The payload has another form.
    """
    allowed = ("request", "name", "recipe_id") if command else ("request", "part_id", "meas_id")
    if len(payload) > LARGEST_REQUEST:
        raise RequestError(f"more than {LARGEST_REQUEST} bytes")
    try:
        content = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as error:  # RecursionError: a thousand brackets.
        raise RequestError("no JSON") from error
    if not isinstance(content, dict) or not content.keys() <= set(allowed):
        raise RequestError(f"expected an object with {', '.join(allowed)}")
    for name, text in content.items():
        if not isinstance(text, str) or len(text) > _LONGEST_TEXT or any(map(_is_control, text)):
            raise RequestError(f"{name}: expected text of at most {_LONGEST_TEXT} characters in one line")
    request = Request(**content)
    if command and request.name not in COMMANDS:
        raise RequestError(f"name: expected one of {', '.join(COMMANDS)}")
    if request.name in ("prepare", "activate") and not request.recipe_id:
        raise RequestError(f"recipe_id: expected the id of a recipe for {request.name}")
    return request


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _encode(kind: str, station: str, **fields: Any) -> bytes:
    return json.dumps({"schema": SCHEMA_VERSION, "type": kind, "station": station, **fields}, allow_nan=False).encode()
