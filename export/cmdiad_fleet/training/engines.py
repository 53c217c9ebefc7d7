"""Engines that run jobs on this machine without Ray, or on a Ray cluster. Each outcome is yielded when a job ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

from cmdiad_fleet.training.job import Job, Outcome
from cmdiad_fleet.training.run_job import run_job
from cmdiad_fleet.training.trainer import Trainer

Engine = Callable[[Sequence[Job]], Iterator[Outcome | None]]
"""Runs jobs and yields their outcomes, in the order in which they end, and None after LOOK_S without an end."""

LOOK_S = 2.0
"""Longest time in seconds between two values of an engine."""


def local_engine(count: int) -> Engine:
    """Return an engine that runs jobs on this machine.

    Args:
        count: Number of jobs at the same time. The resources of the recipes only limit the threads of each job.
    """

    def run(jobs: Sequence[Job]) -> Iterator[Outcome | None]:
        stop = threading.Event()
        trainers = [Trainer() for _ in range(count)]
        free: SimpleQueue[Trainer] = SimpleQueue()
        for trainer in trainers:
            free.put(trainer)

        def train(job: Job) -> Outcome:
            trainer = free.get()
            try:
                return run_job(job, trainer, stop)
            finally:
                free.put(trainer)

        with ThreadPoolExecutor(count) as pool:
            waiting = {pool.submit(train, job) for job in jobs}
            try:
                while waiting:
                    ended, waiting = wait(waiting, LOOK_S, FIRST_COMPLETED)
                    yield from (future.result() for future in ended)
                    if not ended:
                        yield None
            finally:  # After an interruption the running processes end, and no further one starts.
                stop.set()
                pool.shutdown(cancel_futures=True)
                for trainer in trainers:
                    trainer.close()

    return run


def ray_engine(ray: Any) -> Engine:
    """Return an engine that runs each job as a Ray task with the cores, memory and GPUs of its recipe.

    Args:
        ray: The module, connected to a cluster.
    """

    def run(jobs: Sequence[Job]) -> Iterator[Outcome | None]:
        task = ray.remote(_train_in_task)
        waiting: dict[Any, Job] = {}
        try:
            for job in jobs:
                if problem := _does_not_fit(ray, job):
                    yield Outcome(name=job.detector.name, state="failed", reason=problem)
                else:
                    waiting[task.options(**_resources(job)).remote(job)] = job
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_S)
                yield _outcome(ray, ready[0], waiting.pop(ready[0])) if ready else None
        finally:
            for reference in waiting:
                ray.cancel(reference)

    return run


_TRAINER = Trainer()
"""Trainer of this worker process of Ray. Ray runs one task at a time in it, so the tasks share the trainer."""


def _train_in_task(job: Job) -> Outcome:
    return run_job(job, _TRAINER)


def _resources(job: Job) -> dict[str, Any]:
    needs = job.resources
    return {
        "name": job.detector.name,
        "num_cpus": needs.cpus,
        "num_gpus": needs.gpus,
        "memory": int(needs.memory_gb * 1e9),
        "max_retries": needs.retries,
    }


def _does_not_fit(ray: Any, job: Job) -> str:
    """Return why no machine of the cluster can ever run a job, or "". Ray would wait for such a machine."""
    needs = job.resources
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    required = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_gb * 1e9}
    if any(all(machine.get(kind, 0) >= amount for kind, amount in required.items()) for machine in machines):
        return ""
    return (
        f"No machine of the cluster has {needs.cpus} cores, {needs.gpus:g} GPUs and {needs.memory_gb:g} GB of memory: "
        "lower the numbers of the recipe, or add a machine."
    )


def _outcome(ray: Any, reference: Any, job: Job) -> Outcome:
    """Return the outcome of a task. A task that died with its machine, more often than its retries, has failed."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        return Outcome(name=job.detector.name, state="failed", reason=f"Ray ended the training: {cause}")
    return outcome
