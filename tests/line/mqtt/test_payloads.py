"""Payloads for the broker agree with the shipped schema; requests from the broker are checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cmdiad_line.mqtt.payloads import (
    COMMANDS,
    RequestError,
    answer_payload,
    offline_payload,
    read_request,
    result_payload,
    schema,
    state_payload,
)
from station_messages import part_result, station_state

KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}
KEYWORDS = {
    "type",
    "description",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "const",
    "enum",
    "minimum",
}


def agrees(value, rule):
    """Return True if a value agrees with a rule of the part of JSON schema that schema.json uses."""
    assert rule.keys() <= KEYWORDS, rule.keys() - KEYWORDS
    kinds = rule.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool)):
            break
    else:
        if kinds:
            return False
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        return False
    if ("enum" in rule and value not in rule["enum"]) or ("minimum" in rule and value < rule["minimum"]):
        return False
    if isinstance(value, list):
        return all(agrees(item, rule["items"]) for item in value)
    if isinstance(value, dict):
        rules = rule.get("properties", {})
        others = [agrees(item, rule["additionalProperties"]) for key, item in value.items() if key not in rules]
        known = [agrees(item, rules[key]) for key, item in value.items() if key in rules]
        return all(others) and all(known) and value.keys() >= set(rule.get("required", []))
    return True


def kinds_of(payload):
    """Return the names of the definitions that a payload agrees with."""
    definitions = schema()["$defs"]
    known = {name: rule for name, rule in definitions.items() if set(payload) == set(rule["properties"])}
    assert known, "a field that the schema does not describe"
    return [name for name, rule in known.items() if agrees(payload, rule)]


RESULT = part_result(7, "NG", message="Grat größer als erlaubt", timings_ms={"inspected": 12.5})
STATE = station_state(in_work=1, counters={"ok": 3})


def test_payloads_agree_with_the_schema():
    uninspected = replace(RESULT, score=None, threshold=None)
    for kind, payload in [
        ("result", result_payload("cell 1", RESULT)),
        ("result", result_payload("cell 1", uninspected)),
        ("state", state_payload("cell 1", STATE, waiting=3, dropped=0)),
        ("offline", offline_payload("cell 1")),
        ("answer", answer_payload("cell 1", "r1", done=True, message="accepted", acquisition_id=7)),
    ]:
        assert kinds_of(json.loads(payload)) == [kind]


@pytest.mark.parametrize(
    "changes", [{"verdict": "MAYBE"}, {"score": "1"}, {"acquisition_id": 0}, {"schema": 2}, {"timings_ms": {"a": "b"}}]
)
def test_schema_refuses_wrong_results(changes):
    assert kinds_of({**json.loads(result_payload("cell 1", RESULT)), **changes}) == []


def test_published_fields_never_vanish():
    """Version 1 has these fields for ever; more may be added."""
    required = schema()["$defs"]["result"]["required"]
    assert {"acquisition_id", "verdict", "reason", "score", "threshold", "part_id", "recipe_id", "time"} <= set(
        required
    )
    assert {"online", "phase", "waiting", "dropped"} <= set(schema()["$defs"]["state"]["required"])


def test_requests_are_read():
    trigger = read_request(b'{"request": "r1", "part_id": "A7"}', command=False)
    assert (trigger.request, trigger.part_id) == ("r1", "A7")
    assert read_request(b"", command=False).part_id == ""
    for name in COMMANDS:
        assert read_request(json.dumps({"name": name, "recipe_id": "gear"}).encode(), command=True).name == name


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (b"x", False),
        (b"\xff", False),
        (b"[]", False),
        (b'{"part_id": 7}', False),
        (b'{"part_id": "a\\nb"}', False),
        (b'{"part_id": "\\ud800"}', False),
        (b'{"part_id": "' + b"a" * 65 + b'"}', False),
        (b'{"name": "stop"}', False),
        (b" " * 5000, False),
        (b"[" * 4000, False),
        (b"{}", True),
        (b'{"name": "threshold"}', True),
        (b'{"name": "override"}', True),
        (b'{"name": "activate"}', True),
    ],
)
def test_wrong_requests_are_refused(payload, command):
    with pytest.raises(RequestError):
        read_request(payload, command=command)
