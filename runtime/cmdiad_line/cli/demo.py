"""`cmdiad-line demo`: a station with a simulated camera and a simulated PLC, and its page."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cmdiad_line.cli.exit_codes import EXIT_CODES
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.output import say

HELP = """Run a station on BUNDLE without any hardware, and open the operator page.

A simulated camera shows the samples of the bundle's data set one after another, and a simulated PLC triggers. Without
BUNDLE, the newest bundle in ./bundles is used. Nothing is downloaded, and the station listens on this machine only.
"""
EXAMPLES = (
    "cmdiad-line demo",
    "cmdiad-line demo bundles/gear.cmdiad --data data/gear/test --takt 0.5",
    "# keep the records of the demo",
    "cmdiad-line demo --state demo-station",
)
USER = "demo"


@click.command("demo", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@option_group(
    "Station",
    click.option(
        "--data",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder of samples for the simulated camera. Default: ./data/CATEGORY/test, else a generated pattern.",
    ),
    click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help="State folder. Default: a temporary folder, which is removed at the end.",
    ),
    click.option(
        "--takt", type=click.FloatRange(0.05, 3600), default=1.0, help="Seconds between two triggers of the PLC."
    ),
    click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the page; 0 for any free one."),
    click.option("--browser/--no-browser", default=True, help="Open the page in a browser."),
)
def demo(bundle: Path | None, data: Path | None, state: Path | None, **options: Any) -> int:
    """See HELP."""
    from cmdiad_line.station_file.read import read_station
    from cmdiad_line.supervisor.start import run_station
    from cmdiad_line.web.address_file import ADDRESS_FILE
    from cmdiad_runtime.support.newest import newest_bundle

    bundle = bundle or newest_bundle()
    say(f"bundle: {printable(bundle)}")
    with _state_folder(state) as folder:
        modbus_port = _free_port()
        file = folder / "demo.toml"
        file.write_text(_station_file(folder, bundle, data, options["port"], modbus_port), encoding="utf-8")
        station = read_station(file)
        _add_account(folder)
        (folder / ADDRESS_FILE).unlink(missing_ok=True)
        threading.Thread(target=_show_page, args=(folder, options["browser"]), daemon=True).start()
        threading.Thread(target=_trigger, args=(modbus_port, options["takt"]), daemon=True).start()
        return run_station(station)


@contextlib.contextmanager
def _state_folder(state: Path | None) -> Iterator[Path]:
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        yield state.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="cmdiad-line-demo-") as folder:
        yield Path(folder)


def _station_file(folder: Path, bundle: Path, data: Path | None, port: int, modbus_port: int) -> str:
    """Return the station file of the demo."""
    from cmdiad_runtime.bundle.bundle import Bundle

    opened = Bundle.open(bundle)
    source: dict[str, Any] = {"kind": "simulated", "delivers": opened.preprocessing.modality}
    samples = data or _samples_of(opened.manifest)
    if samples is None:
        say("data: none found, so the camera shows a generated pattern. Name a folder of samples with --data.")
    else:
        source["data"] = str(samples.absolute())
    sections: dict[str, dict[str, Any]] = {
        # A demo runs on any machine, also a slow or busy one, so its times are generous.
        "station": {
            "name": "demo",
            "state": str(folder),
            "deadline_ms": 5000,
            "hang_ms": 10_000,
            "frame_megapixels": 2.0,
        },
        "recipe": {"bundle": str(bundle.absolute())},
        "[source]": source,
        "modbus": {"port": modbus_port},
        "web": {"port": port, "open_view": True},
    }
    lines = []
    for name, keys in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in keys.items()), ""]
    return "\n".join(lines)


def _toml(value: object) -> str:
    """Return a value as TOML: a JSON string is a basic string of TOML too."""
    return json.dumps(value, ensure_ascii=False)


def _samples_of(manifest: dict[str, Any]) -> Path | None:
    """Return the folder of the data set's test samples below ./data, if there is one."""
    content = manifest.get("provenance", {}).get("data", {})
    category = content.get("category") if isinstance(content, dict) else None
    folder = Path("data") / str(category) / "test"
    return folder if isinstance(category, str) and folder.is_dir() else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _add_account(folder: Path) -> None:
    """Create an account with a new password, and print it: there is no default password."""
    from cmdiad_line.accounts.store import FILE_NAME, AccountStore

    store, password = AccountStore(folder / FILE_NAME), secrets.token_urlsafe(9)
    if store.account(USER) is None:
        store.add(USER, "admin", password, author="demo")
    else:
        store.set_password(USER, password, author="demo")
    say(f"account: {USER}, password: {password}")


def _show_page(state: Path, browser: bool) -> None:
    """Wait for the page, then print its address and open it."""
    from cmdiad_line.web.address_file import read_address

    while (url := read_address(state).get("url")) is None:
        time.sleep(0.1)
    say(f"page: {url} (Ctrl-C ends the station)")
    if browser:
        webbrowser.open(url)


def _trigger(port: int, takt_s: float) -> None:
    """Trigger by Modbus TCP like a PLC, until the process ends."""
    from cmdiad_line.plc.program import PlcProgram
    from cmdiad_line.plc.simulator import PlcClient, PlcConnectionError, run_program

    client = PlcClient("127.0.0.1", port)
    while True:
        try:
            client.connect()
        except PlcConnectionError:
            time.sleep(0.2)
            continue
        run_program(client, PlcProgram(parts=1 << 40, takt_s=takt_s), limit_s=float("inf"))
