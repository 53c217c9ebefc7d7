"""The first `ready` of a station waits for the port of its pages, and for nothing that cannot come."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cmdiad_line.supervisor.supervisor as supervisor_module
from cmdiad_line.station_file.read import read_station
from cmdiad_line.supervisor.hub import Gone
from cmdiad_line.supervisor.readiness import LoadedRecipe
from cmdiad_line.supervisor.supervisor import Parts, Supervisor
from cmdiad_line.transport.messages import Message, Ready, SourcesState, StationState
from graphs import tiny_bundle
from stations import write_station_file


class NoProcesses:
    """Processes that have started, of which only the inside ones are ready."""

    def __init__(self, *arguments: Any) -> None:
        inside = {name: SimpleNamespace(ready=True) for name in supervisor_module.INSIDE}
        self._children = {**inside, "web": SimpleNamespace(ready=False)}

    def watch(self, descriptor: int) -> None:
        pass

    def child(self, name: str) -> SimpleNamespace | None:
        return self._children.get(name)

    def remove(self, name: str) -> None:
        del self._children[name]

    def send(self, name: str, message: Message) -> None:
        pass


class Start:
    """A station whose detector has passed its self-test, and its reports about itself."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> None:
        self.shown: list[StationState] = []
        self.notified: list[str] = []
        monkeypatch.setattr(supervisor_module, "Hub", NoProcesses)
        monkeypatch.setattr(supervisor_module, "notify", self.notified.append)
        file = write_station_file(folder, tiny_bundle(folder / "tiny.cmdiad"), folder, **sections)
        recipe, nothing = SimpleNamespace(recipe_id="gear"), SimpleNamespace()
        parts: Any = {"store": nothing, "recipe": recipe, "pool": nothing, "show": self.shown.append}
        self.supervisor = Supervisor(Parts(station=read_station(file, running=True), file=file, **parts))
        readiness = self.supervisor._readiness
        readiness.running.update(supervisor_module.INSIDE)
        readiness.sources = SourcesState(connected=True, message="", reconnects=0)
        readiness.loaded["gear"] = LoadedRecipe(
            recipe_id="gear", bundle_digest="", modality="rgb", engine="", threshold=1.0
        )
        self.supervisor._show_state()

    def close(self) -> None:
        self.supervisor._background.close()

    def web_opens(self) -> None:
        self.supervisor._handle("web", Ready())
        self.supervisor._show_state()

    def web_ends(self) -> None:
        hub: Any = self.supervisor._hub
        hub.remove("web")
        self.supervisor._gone("web", Gone("the port is in use"))
        self.supervisor._show_state()

    @property
    def reported(self) -> tuple[str, bool]:
        """Return the newest phase for the lines on stderr, and True if systemd knows that the station is ready."""
        return self.shown[-1].phase, "READY=1" in self.notified


@pytest.mark.parametrize("event", [Start.web_opens, Start.web_ends])
def test_the_first_ready_waits_until_the_pages_are_open_or_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: Any
) -> None:
    """A plant needs no pages: after a failure of the web process, the start goes on without it."""
    with closing(Start(tmp_path, monkeypatch, web={"port": 0})) as start:
        assert start.reported == ("starting", False)
        state = start.supervisor._make_state()  # This one is for the PLC.
        assert (state.phase, state.accepts) == ("ready", True)
        event(start)
        assert start.reported == ("ready", True)


def test_pages_that_end_later_do_not_end_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Start(tmp_path, monkeypatch, web={"port": 0})) as start:
        start.web_opens()
        start.web_ends()
        assert start.reported == ("ready", True)


def test_a_station_without_pages_is_ready_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Start(tmp_path, monkeypatch)) as start:
        assert start.reported == ("ready", True)
