"""Summarise the trainings of a method that differ in their seed: means, ranges, and an interval where one is honest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cmdiad_bench.unfinished_table import MISSING
from cmdiad_train.datasets import GOOD
from cmdiad_train.evaluation.bootstrap import mean_auroc_interval
from cmdiad_train.evaluation.evaluate import METRICS, mean_over_classes

Result = Mapping[str, Any]

_COUNTS = ("false_rejects", "missed_defects")
_COSTS = ("training_seconds", "peak_resident_mb", "graph_mb")


def over_seeds(results: Mapping[int, Result]) -> dict[str, Any]:
    """Return the summary of a method on one category.

    Args:
        results: Figures, `failed`, `lacks` or `MISSING` by seed; at least one.

    Returns:
        The result itself for one seed. For several: the mean of each figure (None if a seed has none), `ranges` with
        the smallest and the largest value, `intervals`, and every result in `seeds`. The image AUROC has an interval of
        the mean if the scores of every seed are known and belong to the same samples: samples are drawn, seeds are not.
        Other figures have none, because it needs all maps together. One failure is a failure of the summary. Seeds that
        are missing are left out; if all are, the summary is missing.
    """
    if len(results) == 1:
        return dict(next(iter(results.values())))
    every = {"seeds": {str(seed): dict(result) for seed, result in results.items()}}
    first = next(iter(results.values()))
    if "lacks" in first:  # The data lack a sensor, whatever the seed.
        return {"lacks": first["lacks"], **every}
    if failures := _texts(results, "failed"):
        return {"failed": failures, **every}
    chosen = [result for result in results.values() if MISSING not in result]
    if not chosen:
        return {MISSING: True, **every}
    first = chosen[0]
    refused = _texts(results, "not_exportable")
    latencies = [result.get("latency_ms") or {} for result in chosen]
    return {
        **{name: first[name] for name in ("samples", "good")},
        **{name: _mean([result.get(name) for result in chosen]) for name in (*METRICS, *_COUNTS, *_COSTS)},
        "ranges": {name: _range([result.get(name) for result in chosen]) for name in (*METRICS, *_COUNTS)},
        "intervals": {**dict.fromkeys(METRICS), "image_auroc": _interval(chosen)},
        "image_auroc_by_defect": _by_defect(chosen),
        "latency_ms": _latency(latencies),
        **({"not_exportable": refused} if refused else {}),
        **every,
    }


def mean_over_categories(results: Mapping[str, Mapping[int, Result]]) -> dict[str, Any] | None:
    """Return the means over the categories with the range of the seeds, or None if a category lacks figures of a seed.

    Args:
        results: Results of a method by category and seed.
    """
    without = {"failed", "lacks", MISSING}
    if any(without & one.keys() for by_seed in results.values() for one in by_seed.values()):
        return None
    mean = mean_over_classes([over_seeds(by_seed) for by_seed in results.values()])
    seeds = list(next(iter(results.values())))
    if len(seeds) == 1:
        return mean
    of_seeds = [mean_over_classes([dict(by_seed[seed]) for by_seed in results.values()]) for seed in seeds]
    return {**mean, "ranges": {name: _range([one[name] for one in of_seeds]) for name in METRICS}}


def _texts(results: Mapping[int, Result], key: str) -> str:
    """Return the texts of the seeds that have them, in one line; "" if none has."""
    return " ".join(f"Seed {seed}: {result[key]}" for seed, result in results.items() if key in result)


def _mean(values: Sequence[float | None]) -> float | None:
    return _if_known(values, lambda known: sum(known) / len(known))


def _range(values: Sequence[float | None]) -> list[float] | None:
    return _if_known(values, lambda known: [min(known), max(known)])


def _if_known(values: Sequence[float | None], summary: Callable[[list[float]], Any]) -> Any:
    """Return a summary of the values, or None if one is unknown."""
    known = [value for value in values if value is not None]
    return summary(known) if len(known) == len(values) else None


def _by_defect(results: Sequence[Result]) -> dict[str, float]:
    """Return the mean image AUROC of each defect that every training has."""
    of_seeds = [result["image_auroc_by_defect"] for result in results]
    common = [name for name in of_seeds[0] if all(name in one for one in of_seeds)]
    return {name: sum(one[name] for one in of_seeds) / len(of_seeds) for name in common}


def _latency(latencies: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Return the means of the percentiles, or None if a training has no bundle."""
    means = {name: _mean([latency.get(name) for latency in latencies]) for name in ("p50", "p99")}
    return None if None in means.values() else means  # type: ignore[return-value]  # no value is None


def _interval(results: Sequence[Result]) -> list[float] | None:
    """Return the 95 % interval of the mean image AUROC over test samples that are drawn together for all seeds."""
    scores = [result.get("scores") for result in results]
    if not all(scores):  # results of an earlier version, or a detector without a bundle
        return None
    samples = [[(name, defect) for name, defect, _ in one or ()] for one in scores]
    defective = np.array([defect != GOOD for _, defect in samples[0]])
    if any(one != samples[0] for one in samples) or defective.all():
        return None
    values = np.array([[score for *_, score in one or ()] for one in scores])  # [seeds, samples]
    interval = mean_auroc_interval(defective, values)
    return None if interval is None else list(interval)
