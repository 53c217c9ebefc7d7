"""Workers that are processes of this machine, without Ray.

Each process is started with `spawn`, so it inherits no thread and no lock, and has its own pipe. A process whose driver
has ended ends at once: it must not write into a folder that a new driver may own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from cmdiad_fleet.scoring.replies import Reply, Worker
from cmdiad_fleet.scoring.scorer import Ending, Endings
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.workers import Event
from cmdiad_runtime.support.process_limits import ignore_keyboard
from cmdiad_runtime.support.system import usable_cores

_THREADS = "OMP_NUM_THREADS"
"""Number of threads of linear algebra libraries, read when a process imports them."""


class LocalWorkers:
    """Processes of this machine; see `Workers`.

    Args:
        settings: Choices of the run.
        make: Function that makes the work of a process, called in the process.
    """

    def __init__(self, settings: ScoreSettings, make: Callable[[], Worker] = Worker) -> None:
        self._settings = settings
        self._make = make
        self._context = multiprocessing.get_context("spawn")
        self._numbers = count()
        self._processes: dict[int, tuple[BaseProcess, Connection]] = {}

    @property
    def cores(self) -> int:
        """Return the number of cores of this machine; see `Workers.cores`."""
        return usable_cores()

    def start(self) -> int:
        """Start a process; see `Workers.start`."""
        driver_end, worker_end = self._context.Pipe()
        arguments = (worker_end, self._settings, self._make)
        process = self._context.Process(target=_work, args=arguments, name="cmdiad-score", daemon=True)
        with _one_thread():
            process.start()
        worker_end.close()
        number = next(self._numbers)
        self._processes[number] = (process, driver_end)
        return number

    def send(self, worker: int, shard: Shard, endings: Endings) -> None:
        """Send a shard; see `Workers.send`. The end of a process is news, no error."""
        with suppress(OSError):
            self._processes[worker][1].send((shard, endings))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return the news; see `Workers.wait`."""
        numbers: dict[Any, int] = {connection: number for number, (_, connection) in self._processes.items()}
        return [self._receive(numbers[connection]) for connection in wait(list(numbers), seconds)]

    def stop(self, worker: int) -> None:
        """Kill a process; see `Workers.stop`."""
        process, connection = self._processes.pop(worker)
        process.kill()
        process.join()
        process.close()
        connection.close()

    def close(self) -> None:
        """Kill all processes; see `Workers.close`."""
        for worker in list(self._processes):
            self.stop(worker)

    def _receive(self, worker: int) -> Event:
        process, connection = self._processes[worker]
        try:
            reply: Reply = connection.recv()
        except (EOFError, OSError):
            process.join()
            ending = _ending(process.exitcode)
            self.stop(worker)
            return Event(worker, ending)
        return Event(worker, reply)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start in the block use one thread for linear algebra, unless the user chose a number."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _ending(status: int | None) -> Ending:
    """Return the end of a process by its exit status; the system kills a process if memory is short."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return Ending("out-of-memory" if name == "SIGKILL" else "internal", f"ended by {name}")
    return Ending("internal", f"exit status {status}")


def _work(connection: Connection, settings: ScoreSettings, make: Callable[[], Worker]) -> None:
    """Answer the driver until it closes the pipe."""
    ignore_keyboard()
    Thread(target=_end_with_the_driver, daemon=True).start()
    worker = make()
    connection.send(worker.open(settings))
    while True:
        try:
            shard, endings = connection.recv()
        except EOFError:
            break
        connection.send(worker.score(shard, endings))
    worker.close()


def _end_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
