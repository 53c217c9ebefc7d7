"""docs/plc.md says what the code does: tables, pictures and keys."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from cmdiad_line.plc.program import COUNTS
from cmdiad_line.plc.registers import (
    COILS,
    DISCRETE_INPUTS,
    HOLDING_REGISTERS,
    INPUT_REGISTER_COUNT,
    INPUT_REGISTERS,
    REASON_NUMBERS,
)
from cmdiad_line.plc.signals import INPUTS, OUTPUTS, Offline
from cmdiad_line.station_file.gpio import Gpio
from cmdiad_line.station_file.modbus import Modbus

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "plc.md").read_text(encoding="utf-8")
TIMING = runpy.run_path(str(DOCS / "images" / "make_timing.py"))


def test_tables_of_bits():
    for name, address in COILS.items():
        assert f"| {address} | `{name}` | {INPUTS[name]} |\n" in PAGE
    for name, address in DISCRETE_INPUTS.items():
        assert f"| {address} | `{name}` | {OUTPUTS[name]} |\n" in PAGE


def test_tables_of_registers():
    for field in [*HOLDING_REGISTERS.values(), *INPUT_REGISTERS.values()]:
        row = f"| {field.address} | {field.words} | `{field.name}` | {field.kind} | {field.meaning} |\n"
        assert row in PAGE
    assert f"all {INPUT_REGISTER_COUNT} registers" in PAGE


def test_tables_of_numbers():
    section = PAGE.split("## Numbers of reasons")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `([\w-]+)` \|", section, flags=re.MULTILINE)
    assert {code: int(number) for number, code in rows} == REASON_NUMBERS
    section = PAGE.split("| offline reason |")[1].split("\n\n")[0]
    assert len(re.findall(r"^\| [0-5] \|", section, flags=re.MULTILINE)) == len(Offline)
    for name, meaning in COUNTS.items():
        assert f"| `{name}` | {meaning} |\n" in PAGE


@pytest.mark.parametrize("kind", [Modbus, Gpio])
def test_every_key_is_documented(kind):
    section = PAGE.split("## Keys of the station file")[1].split("\n## ")[0]
    assert not [field.name for field in fields(kind) if f"`{field.name}`" not in section]


@pytest.mark.parametrize("name", sorted(TIMING["DIAGRAMS"]))
def test_pictures_are_those_of_the_present_handshake(name):
    record, signals, title = TIMING["DIAGRAMS"][name]
    drawn = TIMING["draw"](record(), signals, title)
    assert (DOCS / "images" / name).read_text(encoding="utf-8") == drawn, "run python docs/images/make_timing.py"
    assert f"(images/{name})" in PAGE
