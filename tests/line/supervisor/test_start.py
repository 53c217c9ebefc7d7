"""The start of a station: what a run leaves in the state folder for the programs of the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmdiad_line.station_file.read import read_station
from cmdiad_line.supervisor import start
from cmdiad_line.web.address_file import ADDRESS_FILE
from graphs import tiny_bundle
from stations import write_station_file


class NoSupervisor:
    """A station that ends at once."""

    def __init__(self, parts: Any) -> None:
        pass

    def run(self) -> int:
        return 0

    def end(self) -> None:
        pass


@pytest.mark.parametrize("pages", [True, False])
def test_a_station_without_pages_forgets_the_address_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: bool
) -> None:
    """Another server may use that port now, and would receive tokens. With pages, the new process keeps the port."""
    monkeypatch.setattr(start, "Supervisor", NoSupervisor)
    sections = {"web": {"port": 0}} if pages else {}
    file = write_station_file(tmp_path, tiny_bundle(tmp_path / "tiny.cmdiad"), tmp_path, **sections)
    address = tmp_path / "state" / ADDRESS_FILE
    address.parent.mkdir(parents=True)
    address.write_text('{"url": "http://127.0.0.1:4711/", "port": 4711}', encoding="utf-8")
    assert start.run_station(read_station(file, running=True)) == 0
    assert address.exists() == pages
