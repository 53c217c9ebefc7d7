"""Figures of the engineer page, gathered from the records and the recipes of a station."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.statistics import (
    Baseline,
    Drift,
    HourlyRate,
    Latency,
    binomial_limits,
    stage_latencies,
    watch_for_drift,
)
from cmdiad_line.records.stored import AuditEntry, Counters, ScoreSeries, Selection
from cmdiad_line.station_file.records import Records
from cmdiad_line.web.history import History
from cmdiad_runtime.bundle.manifest import read_manifest

SHOWN_SCORES = 1000
"""Number of parts in the score chart."""
LATENCY_PARTS = 500
"""Number of parts in the latency table."""
HOURS = 12
"""Number of hours in the chart of the NG rate."""
AUDIT_ENTRIES = 30
"""Number of entries of the audit log on the page."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of the engineer page.

    Attributes:
        series: Scores of the newest inspected parts of the active bundle.
        drift: Drift of the accepted ones.
        hours: NG rate of the last hours.
        day: Numbers of the last 24 hours.
        latencies: Latency by stage.
        recipes: All recipes, newest import first.
        active: Active recipe, or None.
        previous: Recipe that a rollback would activate, or None.
        audit: Newest entries of the audit log.
    """

    series: ScoreSeries
    drift: Drift
    hours: list[HourlyRate]
    day: Counters
    latencies: dict[str, Latency]
    recipes: tuple[Recipe, ...]
    active: Recipe | None
    previous: Recipe | None
    audit: list[AuditEntry]


def gather(history: History, recipes: RecipeStore, settings: Records, now: datetime) -> Figures:
    """Return the figures of the engineer page.

    Args:
        history: Records of the station.
        recipes: Recipes of the station.
        settings: Section `[records]` of the station file.
        now: Present time with a time zone.

    Raises:
        CmdiadError: Records or recipes cannot be read.
    """
    active = recipes.active()
    with history.reader() as reader:
        series = reader.scores(_selection(active), limit=SHOWN_SCORES)
        newest = reader.select(limit=LATENCY_PARTS)
        day = reader.counters(since=_utc(now - timedelta(hours=24)))
        return Figures(
            series=series,
            drift=_drift(reader, recipes, active, series, settings),
            hours=_hours(reader, now, day.ng / day.triggers if day.triggers else 0.0),
            day=day,
            latencies=stage_latencies([result.timings_ms for result in newest]),
            recipes=recipes.list()[::-1],
            active=active,
            previous=recipes.previous(),
            audit=reader.audit(limit=AUDIT_ENTRIES),
        )


def present_drift(history: History, recipes: RecipeStore, settings: Records) -> Drift:
    """Return the drift of the newest accepted parts of the active bundle."""
    active = recipes.active()
    with history.reader() as reader:
        return _drift(reader, recipes, active, reader.scores(_selection(active), limit=SHOWN_SCORES), settings)


def _drift(
    reader: RecordReader, recipes: RecipeStore, active: Recipe | None, series: ScoreSeries, settings: Records
) -> Drift:
    baseline, last = _baseline(reader, recipes, active, settings)
    since = series.accepted & (series.ids > last)
    return watch_for_drift(series.scores[since], baseline, settings.drift_weight, settings.drift_width)


def _baseline(
    reader: RecordReader, recipes: RecipeStore, active: Recipe | None, settings: Records
) -> tuple[Baseline | None, int]:
    """Return the baseline, and the acquisition id of its last part."""
    if active is None:
        return None, 0
    if settings.drift_parts == 0:
        manifest, _ = read_manifest(recipes.path_of(active), None)
        calibration = manifest.calibration
        good = [score for score in calibration.held_out_scores if score <= calibration.score_threshold]
        return Baseline.of(good), 0
    parts = reader.stream(Selection(bundle_digest=active.bundle_digest, verdict="OK"))
    first = list(itertools.islice(parts, settings.drift_parts))
    if len(first) < settings.drift_parts:
        return None, 0
    return Baseline.of([part.score for part in first if part.score is not None]), first[-1].acquisition_id


def _hours(reader: RecordReader, now: datetime, rate: float) -> list[HourlyRate]:
    """Return the NG rate of the last hours, all reasons included, oldest first; the last hour is not complete."""
    begin = now.replace(minute=0, second=0, microsecond=0)
    rates = []
    for hours in range(HOURS - 1, -1, -1):
        start = begin - timedelta(hours=hours)
        numbers = reader.counters(since=_utc(start), until=_utc(start + timedelta(hours=1)))
        limits = binomial_limits(numbers.triggers, rate)
        rates.append(HourlyRate(start.timestamp(), numbers.triggers, numbers.ng, *limits))
    return rates


def _selection(active: Recipe | None) -> Selection:
    return Selection(bundle_digest=active.bundle_digest) if active is not None else Selection()


def _utc(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
