"""Thread that loads recipes while the present recipe continues to inspect."""

from __future__ import annotations

import queue
import threading

from cmdiad_line.inspection.detector import Detector, is_same_engine, open_detector, with_threshold
from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_line.transport.messages import Load, NotLoaded
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import printable


class Loader:
    """A thread that loads one recipe after another. `fileno` becomes readable when one is finished."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Load, Detector | None]] = queue.SimpleQueue()
        self._finished: Mailbox[Detector | NotLoaded] = Mailbox()
        threading.Thread(target=self._work, name="loader", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._finished.fileno()

    def order(self, load: Load, present: Detector | None) -> None:
        """Load a recipe.

        Args:
            load: The order.
            present: Detector with the same id, whose engine is kept if only the threshold differs.
        """
        self._orders.put((load, present))

    def finished(self) -> list[Detector | NotLoaded]:
        """Return the recipes that were loaded since the last call, or the reason why not."""
        return self._finished.take()

    def close(self) -> None:
        """Close the descriptors."""
        self._finished.close()

    def _work(self) -> None:
        while True:
            load, present = self._orders.get()
            self._finished.put(_load(load, present))


def _load(load: Load, present: Detector | None) -> Detector | NotLoaded:
    try:
        if present is not None and is_same_engine(present.load, load):
            return with_threshold(present, load)
        return open_detector(load)
    except (CmdiadError, OSError, ValueError, MemoryError) as error:
        message = printable(str(error)) or type(error).__name__
        return NotLoaded(recipe_id=load.recipe_id, message=message)
