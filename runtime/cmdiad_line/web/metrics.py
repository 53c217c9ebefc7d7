"""Metrics for Prometheus at `/metrics`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from cmdiad_line.transport.messages import Phase, Result, StationState
from cmdiad_line.web.access import Caller, program_for
from cmdiad_line.web.figures import present_drift
from cmdiad_line.web.rest_answers import problems
from cmdiad_line.web.services import Services
from cmdiad_runtime.errors import CmdiadError

router = APIRouter()

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper limits of the latency histogram in seconds."""

COUNTERS = {
    "triggers": "Triggers since the start of the station.",
    "missed": "Triggers that were answered with NG at once, because the station could not take them.",
    "late": "Answers of a process that came after the deadline.",
    "restarts": "Restarts of processes.",
    "reconnects": "Reconnections of sensors.",
    "pictures_skipped": "Pictures that were not stored, because storing was too slow or the disk too full.",
    "rows_lost": "Results that were not recorded, because too many waited for the records process.",
}
"""Counters of `StationState.counters` that become metrics, with their description."""


class Metrics:
    """Metrics of one station in a registry for this application alone.

    Args:
        services: Services of the web process.
    """

    def __init__(self, services: Services) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "cmdiad_stage_seconds",
            "Seconds from the trigger to the end of a stage; preprocess, engine and map: duration.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._results = Counter(
            "cmdiad_results",
            "Published results by verdict, reason and recipe since the start of the web process.",
            ["verdict", "reason", "recipe"],
            registry=self._registry,
        )
        self._registry.register(_StateMetrics(services))
        services.desk.on_result(self._take)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _take(self, result: Result) -> None:
        self._results.labels(result.verdict, result.reason, result.recipe_id).inc()
        for stage, milliseconds in result.timings_ms.items():
            self._latency.labels(stage).observe(milliseconds / 1000)


class _StateMetrics(Collector):
    """Metrics that are computed at every request of Prometheus."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the state of the station, the disk and the drift."""
        state = self._services.desk.state
        phase = GaugeMetricFamily("cmdiad_phase", "1 for the present phase of the station.", labels=["phase"])
        for name in get_args(Phase):
            phase.add_metric([name], float(state is not None and state.phase == name))
        yield phase
        if state is not None:
            yield from _state_metrics(state)
        yield from _drift_metrics(self._services)
        usage = shutil.disk_usage(self._services.state_folder)
        yield GaugeMetricFamily("cmdiad_disk_free_bytes", "Free space of the state folder.", value=usage.free)
        yield GaugeMetricFamily("cmdiad_disk_total_bytes", "Size of the disk of the state folder.", value=usage.total)


def _state_metrics(state: StationState) -> Iterator[Metric]:
    for name, description in COUNTERS.items():
        yield CounterMetricFamily(f"cmdiad_{name}", description, value=state.counters.get(name, 0))
    yield GaugeMetricFamily("cmdiad_in_work", "Parts in work.", value=state.in_work)
    facts = {"recipe": state.recipe_id, "digest": state.bundle_digest, "modality": state.modality}
    yield InfoMetricFamily("cmdiad_bundle", "Active recipe and bundle.", value=facts)
    running = GaugeMetricFamily("cmdiad_process_running", "1 if a process is running.", labels=["process"])
    for name, condition in state.processes.items():
        running.add_metric([name], float(condition == "running"))
    yield running


def _drift_metrics(services: Services) -> Iterator[Metric]:
    """Yield the alarm for drift, unless the records cannot be read."""
    try:
        drift = present_drift(services.history, services.recipes, services.records)
    except CmdiadError:
        return
    yield GaugeMetricFamily("cmdiad_drift_alarm", "1 while the scores of accepted parts drift.", value=drift.alarm)
    if drift.chart is not None and len(drift.chart.averages):
        average = float(drift.chart.averages[-1])
        yield GaugeMetricFamily(
            "cmdiad_score_average", "Moving average of the scores of accepted parts.", value=average
        )


@router.get(
    "/metrics",
    summary="Metrics in the text format of Prometheus",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST.partition(";")[0]: {}}}, **problems(401, 403)},
)
async def metrics(request: Request, _: Annotated[Caller, Depends(program_for(None))]) -> Response:
    """Return the metrics."""
    collected: Metrics = request.app.state.metrics
    return Response(await run_in_threadpool(collected.text), media_type=CONTENT_TYPE_LATEST)
