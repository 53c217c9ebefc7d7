"""The start of a station with its state folder and first recipe, and its end by a signal."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cmdiad_line.recipes.store import ImportOptions, RecipeStore
from cmdiad_line.supervisor.supervisor import Parts, Supervisor
from cmdiad_line.transport.frames import FramePool, frames_path
from cmdiad_line.web.address_file import ADDRESS_FILE
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.scheduling import real_time_priority

if TYPE_CHECKING:
    from cmdiad_line.recipes.recipe import Recipe
    from cmdiad_line.station_file.station import Station
    from cmdiad_line.transport.messages import StationState

REAL_TIME = 11
"""Real-time priority of the supervisor, above that of the others, so that it can replace each of them."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_station(station: Station, show: Callable[[StationState], None] | None = None) -> int:
    """Run a station until a signal ends it or it gives up, and return the exit code.

    Args:
        station: The station.
        show: Function that receives every changed state, and must not block; or None. See `Parts`.

    Raises:
        BundleError: The bundle of the station file is damaged or not signed as required, and no recipe is active.
        OutputError: The state folder or the memory for the frames cannot be used, or another station uses them.
    """
    _make_folder(station.state)
    with lock_folder(station.state):
        file = _copy_station_file(station)
        if station.web is None:  # The address of an earlier run would lead programs to a foreign server.
            (station.state / ADDRESS_FILE).unlink(missing_ok=True)
        store = RecipeStore(station.state)
        recipe = store.active() or _first_recipe(store, station)
        with FramePool.create(frames_path(station.state), station.frame_slots, station.slot_bytes) as pool:
            parts = Parts(station=station, file=file, store=store, recipe=recipe, pool=pool, show=show)
            supervisor = Supervisor(parts)
            with _ended_by_signals(supervisor), real_time_priority(REAL_TIME):
                return supervisor.run()


def _make_folder(state: Path) -> None:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / "run").mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            state,
            found=f"no state folder ({cause_of(error)})",
            expected="a folder in which the station can write",
            action="create the folder, or change state in [station]",
        ) from error


def _copy_station_file(station: Station) -> Path:
    """Copy the station file, so that all processes of this run read the same one, also after a restart."""
    copy = station.state / "run" / "station.toml"
    with atomic_write(copy) as temporary:
        shutil.copyfile(station.file, temporary)
    return copy


def _first_recipe(store: RecipeStore, station: Station) -> Recipe:
    """Import and activate the bundle of the station file, because no recipe is active yet."""
    section = station.recipe
    options = ImportOptions(
        recipe_id=section.id,
        product_id=section.product_id,
        engine=section.engine,
        public_key=section.public_key,
        threshold=section.threshold,
        false_reject_rate=section.false_reject_rate,
        keep=section.keep,
    )
    store.import_bundle(section.bundle, options)
    return store.activate(section.id)


@contextmanager
def _ended_by_signals(supervisor: Supervisor) -> Iterator[None]:
    """End the station in order when the system or a person asks for it. Only a main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        supervisor.end()

    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # As under nohup.
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
