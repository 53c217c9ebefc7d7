"""`python -m studies modes`: the rows of the table, and the options of the command."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from helpers import command
from studies import modes
from studies.__main__ import cli
from studies.modes import Change, applies, changes, modes_table


def differences(change: Change) -> set[str]:
    """Return the names of the fields that differ from the default mode."""
    default = Change("default")
    return {
        field.name
        for field in fields(Change)
        if field.name not in ("name", "banks") and getattr(change, field.name) != getattr(default, field.name)
    }


def test_each_row_changes_one_thing_and_the_last_row_all() -> None:
    rows = [change for change in changes() if change.banks == ("rgb",)]
    assert len(changes()) == 3 * len(rows) == 3 * 10
    assert [len(differences(change)) for change in rows] == [0, *[1] * 8, 8]
    everything = set.union(*(differences(change) for change in rows[1:-1]))
    assert everything == differences(rows[-1]) == {field.name for field in fields(Change)} - {"name", "banks"}


@pytest.mark.parametrize(
    ("banks", "without_effect"),
    [
        (("rgb",), {"shared", "fusion", "normalisation"}),
        (("xyz",), {"shared", "fusion", "mask"}),
        (("xyz", "rgb"), set()),
    ],
)
def test_rows_without_effect_are_skipped(banks: tuple[str, ...], without_effect: set[str]) -> None:
    skipped = [change for change in changes() if change.banks == banks and not applies(change)]
    assert {name for change in skipped for name in differences(change)} == without_effect


def test_command_writes_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Features:
        class reporter:  # noqa: N801 - stands for an instance
            close = staticmethod(lambda: None)

        def __init__(self, *arguments: Any) -> None:
            opened.append(arguments)

    figures = {"image_auroc": 0.5, "pixel_auroc": 0.75, "aupro_30": 0.25}
    monkeypatch.setattr(modes, "Features", Features)
    monkeypatch.setattr(modes, "figures", lambda features, change: figures)
    json_file = tmp_path / "modes.json"
    ended = command(cli, "modes", tmp_path, "gear", "weights", "--seed", 3, "--json", json_file)
    assert ended.code == 0, ended.err
    ((data, category, rgb, seed),) = opened
    assert (data, category, rgb.weights, seed) == (tmp_path, "gear", "weights", 3)
    record = json.loads(json_file.read_text())
    assert (record["category"], record["seed"]) == ("gear", 3)
    assert len(record["rows"]) == sum(map(applies, changes()))
    assert ended.out.rstrip("\n") == modes_table(record["rows"]).rstrip("\n")
    assert "| xyz+rgb | all published | 0.500 | 0.750 | 0.250 |" in ended.out


def test_command_requires_a_file_for_the_figures(tmp_path: Path) -> None:
    refused = command(cli, "modes", tmp_path, "gear", "weights")
    assert refused.code == 2
    assert "--json" in refused.err
