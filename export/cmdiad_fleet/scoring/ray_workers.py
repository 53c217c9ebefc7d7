"""Workers that are actors of a Ray cluster.

Ray places the actors by cores and shares of a GPU, on every machine that joins. An actor that dies, alone or with its
machine, is an event like the death of a local process; the driver sends its shard to another one. Ray's own retries
are switched off, because a sample that ends its process would be retried for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from itertools import count
from typing import Any

from cmdiad_fleet.cluster import ray_cluster
from cmdiad_fleet.scoring.replies import Reply, Worker
from cmdiad_fleet.scoring.scorer import Ending, Endings
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.workers import Event


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Choices of a Ray cluster.

    Attributes:
        address: Address of a cluster to join; "" starts a cluster on this machine.
        cores: Number of cores of a cluster that is started; None for all of this machine.
        gpu_share: Share of a GPU for each worker; 0 for none.
    """

    address: str = ""
    cores: int | None = None
    gpu_share: float = 0.0


class RayWorkers:
    """Actors of a Ray cluster; see `Workers`.

    Args:
        settings: Choices of the run.
        options: Choices of the cluster.
        kind: Class of the actors.

    Raises:
        EngineError: There is no cluster at the address, or no cluster can be started.
    """

    def __init__(self, settings: ScoreSettings, options: RayOptions, kind: type[Worker] = Worker) -> None:
        with ExitStack() as opened:
            # A thread of Ray prints messages of the cluster to stdout, which is for results.
            opened.enter_context(redirect_stdout(sys.stderr))
            self._ray = opened.enter_context(ray_cluster(options.address, options.cores))
            self._opened = opened.pop_all()
        # One core for each worker; the actor is never started again by Ray, see the docstring of the module.
        self._actor = self._ray.remote(
            num_cpus=1, num_gpus=options.gpu_share, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(kind)
        self._settings = settings
        self._numbers = count()
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}

    @property
    def cores(self) -> int:
        """Return the number of cores of the cluster; see `Workers.cores`."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def start(self) -> int:
        """Start an actor; see `Workers.start`."""
        number = next(self._numbers)
        actor: Any = self._actor.remote()
        self._actors[number] = actor
        self._calls[actor.open.remote(self._settings)] = number
        return number

    def send(self, worker: int, shard: Shard, endings: Endings) -> None:
        """Send a shard; see `Workers.send`."""
        self._calls[self._actors[worker].score.remote(shard, endings)] = worker

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return the news; see `Workers.wait`."""
        if not self._calls:
            return []
        done, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        if not done:
            done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        return [self._receive(call) for call in done]

    def stop(self, worker: int) -> None:
        """Kill an actor; see `Workers.stop`."""
        actor = self._actors.pop(worker)
        self._calls = {call: number for call, number in self._calls.items() if number != worker}
        self._ray.kill(actor)

    def close(self) -> None:
        """End all actors, and the connection or cluster that this object made; see `Workers.close`."""
        for worker in list(self._actors):
            self.stop(worker)
        self._opened.close()

    def _receive(self, call: Any) -> Event:
        worker = self._calls.pop(call)
        try:
            reply: Reply = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._actors.pop(worker)
            memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
            cause = ([line for line in str(error).splitlines() if line.strip()] or [""])[-1].strip()
            return Event(worker, Ending("out-of-memory" if memory else "internal", f"{type(error).__name__}: {cause}"))
        return Event(worker, reply)
