"""docs/mqtt.md says what the code does: fields and keys."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from cmdiad_line.mqtt.payloads import COMMANDS, schema
from cmdiad_line.station_file.mqtt import Mqtt

PAGE = (Path(__file__).parents[3] / "docs" / "mqtt.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["result", "state", "answer"])
def test_every_field_is_documented(kind):
    for name, rule in schema()["$defs"][kind]["properties"].items():
        (row,) = [line for line in _section(kind) if line.startswith(f"| `{name}` |")]
        assert row.endswith(f"| {rule.get('description', '')} |")


def _section(kind):
    return PAGE.split(f'`type` "{kind}"')[1].split("\n\n")[1].splitlines()


def test_every_key_is_documented():
    keys = PAGE.split("## Keys")[1].split("\n## ")[0]
    assert not [field.name for field in fields(Mqtt) if f"`{field.name}`" not in keys]


def test_commands_are_documented():
    text = PAGE.split("## Triggers and commands")[1]
    assert all(name in text for name in COMMANDS)
