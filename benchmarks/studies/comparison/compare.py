"""Compare the published inference, cmdiad in each form and anomalib's PatchCore, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cmdiad_bench.machine import describe_machine
from cmdiad_bench.memory import peak_of
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.reporter import Reporter
from studies.comparison.contenders import OursContender, PublishedContender
from studies.comparison.floor import Rates, Work, measure_rates, total_work
from studies.comparison.parts import Form, Paired, Parts, RunResult, Setup, build_parts
from studies.comparison.plots import plot_ends, plot_stages
from studies.comparison.stage_times import STAGES
from studies.comparison.work import needed_work

QUARTILES = (25, 75)
SAMPLE_FILE = "sample.npz"
Record = dict[str, Any]


class Contender(Protocol):
    """A program that is measured.

    Attributes:
        name: Name in the tables.
        peak_arguments: Arguments that start the program in a separate process (`studies.comparison.peak`), without the
            sample.
    """

    name: str
    peak_arguments: list[str]

    def run(self, paired: Paired) -> RunResult:
        """Run once, end to end."""

    def close(self) -> list[dict[str, float]]:
        """Release memory. Return the milliseconds by stage of each run, as far as stages can be separated."""


@dataclass(frozen=True)
class Times:
    """Measurements of one contender, one value for each round.

    Attributes:
        runs: End-to-end results.
        stages_ms: Milliseconds by stage.
        scores: Scores of each sample if they are compared with another form's, else of each round.
    """

    runs: list[RunResult]
    stages_ms: list[dict[str, float]]
    scores: list[float]


@dataclass(frozen=True)
class Samples:
    """Paired samples of a comparison.

    Attributes:
        measured: Samples to measure on, taken in turn, one in each round.
        good: Good samples whose features fill the banks.
    """

    measured: Sequence[Sample]
    good: Sequence[Sample]


@dataclass(frozen=True)
class CompareOptions:
    """Settings of a comparison.

    Attributes:
        runs: Rounds; every contender runs once in each, after one round to warm up.
        memory: Also measure the peak memory of each contender in a separate process.
    """

    runs: int = 9
    memory: bool = True


def compare(
    setups: Sequence[Setup],
    samples: Samples,
    forms: Sequence[Form],
    out: Path,
    options: CompareOptions,
    reporter: Reporter,
) -> Record:
    """Measure everything and write `compare.json`, `compare.md` and pictures into the folder `out`.

    Args:
        setups: Comparisons to make: with hallucination against the published inference, without hallucination against
            anomalib's PatchCore.
        samples: Samples to measure on, and good samples whose features fill the banks.
        forms: Forms of cmdiad.
        out: Output folder; graphs and banks go to `work/` in it.
        options: Number of rounds and whether peak memory is measured.
        reporter: Receiver of messages.

    Returns:
        Contents of `compare.json`.
    """
    machine, rates = describe_machine(), measure_rates()
    tables: Record = {}
    for setup in setups:
        reporter.say(title_of(setup))
        work = out / "work" / f"{setup.main}-{setup.hallucination}"
        tables[title_of(setup)] = _compare_one(setup, samples, forms, work, options, reporter)
    rates = rates.better(measure_rates())
    for table in tables.values():
        table["floor"] = _floors(table.pop("work"), rates)
    record = {
        "machine": machine | {"torch_threads": torch.get_num_threads()},
        "rates": {"multiply_adds_per_s": rates.multiply_adds, "copied_bytes_per_s": rates.copied_bytes},
        "runs": options.runs,
        "samples": [sample.name for sample in samples.measured],
        "tables": tables,
    }
    write_json(out / "compare.json", record)
    with atomic_write(out / "compare.md") as temporary:
        temporary.write_text(markdown(record), encoding="utf-8")
    for title, table in tables.items():
        name = title.replace(",", "").replace(" ", "-")
        plot_ends(out / f"{name}.png", title, table["contenders"])
        plot_stages(out / f"{name}-stages.png", title, table["contenders"])
    return record


def title_of(setup: Setup) -> str:
    """Return the title of a table."""
    return f"main {setup.main}" if setup.hallucination != "none" else f"{setup.main} alone, as PatchCore"


def _compare_one(
    setup: Setup,
    samples: Samples,
    forms: Sequence[Form],
    work: Path,
    options: CompareOptions,
    reporter: Reporter,
) -> Record:
    work.mkdir(parents=True, exist_ok=True)
    parts, paired = build_parts(setup, samples.measured, samples.good, reporter)
    paired[0].save(work / SAMPLE_FILE)
    contenders = _references(parts, work, reporter)
    for number, form in enumerate(forms):
        reporter.say(f"export {form.name}")
        contenders.append(OursContender(parts, form, paired, work / f"ours-{number}"))
    exact = {form.mode: form.name for form in reversed(forms) if form.exact}
    compared_with = {form.name: exact[form.mode] for form in forms if form.name != exact.get(form.mode, form.name)}
    times = _interleaved(contenders, paired, options.runs, {*compared_with, *compared_with.values()}, reporter)
    needed = needed_work(parts, paired[0])
    reference = times[contenders[0].name]
    figures: Record = {}
    for contender in contenders:
        name = contender.name
        figures[name] = _figures(times[name], reference, times[compared_with[name]] if name in compared_with else None)
        reporter.say(f"peak memory of {name}" if options.memory else f"done with {name}")
        figures[name]["memory"] = _peak(contender, work) if options.memory else None
    return {
        "rgb": setup.rgb.backbone,
        "points": None if setup.main == "rgb" else [setup.xyz.groups, setup.xyz.group_size],
        "banks": [list(bank.rows.shape) for bank in parts.banks],
        "contenders": figures,
        "work": needed,
    }


def _references(parts: Parts, work: Path, reporter: Reporter) -> list[Contender]:
    """Return the reference: the published inference, or anomalib's PatchCore if nothing is hallucinated."""
    if parts.setup.hallucination != "none":
        return [PublishedContender(parts, work / "published")]
    from studies.comparison.anomalib_patchcore import AnomalibExported, AnomalibTorch, save_patchcore

    reporter.say("export anomalib's PatchCore")
    save_patchcore(work / "anomalib", parts)
    return [AnomalibTorch(work / "anomalib"), AnomalibExported(work / "anomalib")]


def _interleaved(
    contenders: Sequence[Contender], paired: Sequence[Paired], runs: int, scored: Collection[str], reporter: Reporter
) -> dict[str, Times]:
    """Measure the contenders in turn after one warm-up round; `scored` contenders then run on all samples."""
    results: dict[str, list[RunResult]] = {contender.name: [] for contender in contenders}
    start = time.monotonic()
    for turn in range(-1, runs):
        sample = paired[turn % len(paired)]
        for contender in contenders:
            result = contender.run(sample)
            if turn >= 0:
                results[contender.name].append(result)
        reporter.say(f"round {turn + 1} of {runs} ({time.monotonic() - start:.0f} s)")
    times = {}
    for contender in contenders:
        name = contender.name
        chosen = paired if name in scored else ()
        scores = [contender.run(sample).score for sample in chosen] or [result.score for result in results[name]]
        times[name] = Times(results[name], contender.close()[1 : runs + 1], scores)
    return times


def _figures(times: Times, reference: Times, exact: Times | None = None) -> Record:
    """Return medians, quartiles, the speed relative to the reference by round, and the difference of scores.

    Scores are compared with those of the exact form on all samples, or else with the reference's scores of the same
    rounds.
    """
    totals, others = _totals(times), _totals(reference)
    reported = [stage for stage in STAGES if stage in times.stages_ms[0]]
    stages = {stage: np.array([times_ms[stage] for times_ms in times.stages_ms]) for stage in reported}
    references = {
        stage: np.array([times_ms[stage] for times_ms in reference.stages_ms]) for stage in reference.stages_ms[0]
    }
    return {
        "total_ms": _spread(totals),
        "times_faster": _ratio(others, totals),
        "stages_ms": {stage: _spread(values) for stage, values in stages.items()},
        "stages_times_faster": {s: _ratio(references[s], values) for s, values in stages.items() if s in references},
        "scores": [round(score, 6) for score in _scores_of_rounds(times)],
        **(
            _difference(_scores_of_rounds(times), _scores_of_rounds(reference))
            if exact is None
            else _difference(times.scores, exact.scores)
        ),
    }


def _scores_of_rounds(times: Times) -> list[float]:
    return [result.score for result in times.runs]


def _difference(scores: Sequence[float], expected: Sequence[float]) -> Record:
    return {
        "largest_score_difference": float(np.abs(np.array(scores) / np.array(expected) - 1).max()),
        "scores_compared": len(scores),
    }


def _totals(times: Times) -> Any:
    return np.array([result.total_ms for result in times.runs])


def _spread(values: Any) -> dict[str, float]:
    low, high = np.percentile(values, QUARTILES)
    return {"median": round(float(np.median(values)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _ratio(slow: Any, fast: Any) -> dict[str, float]:
    """Return the ratio of the medians and the quartiles of the ratios of equal rounds."""
    low, high = np.percentile(slow / fast, QUARTILES)
    return {
        "median": round(float(np.median(slow) / np.median(fast)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def _peak(contender: Contender, work: Path) -> Record:
    return peak_of("studies.comparison.peak", [*contender.peak_arguments, str(work / SAMPLE_FILE)])


def _floors(work: dict[str, Work], rates: Rates) -> Record:
    all_work = {**work, "total": total_work(work.values())}
    return {
        stage: {
            "multiply_adds": work.multiply_adds,
            "moved_bytes": work.moved_bytes,
            "ms": round(work.floor_ms(rates), 3),
        }
        for stage, work in all_work.items()
    }


def markdown(record: Record) -> str:
    """Return the record as tables."""
    machine, rates = record["machine"], record["rates"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['torch_threads']} torch threads, load at the "
        f"start {machine['load_1min']}; plain fp32 matrix product {rates['multiply_adds_per_s'] / 1e9:.0f}e9 "
        f"multiply-adds/s, plain copy {rates['copied_bytes_per_s'] / 1e9:.1f} GB/s; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "",
        f"{record['runs']} interleaved rounds; medians, quartiles in brackets. Floor: the multiply-adds and bytes that "
        "the task needs, at the rates above. The published program starts from resized tensors, ours from what the "
        "sensors saw, background removal included; anomalib from the resized image. Default mode means other "
        "statistics, another blur, the plain largest distance and, for rgb, a coarser grid of hallucinated features: "
        "its score differs. Scores of proven and fast forms are held against those of the exact one in the same mode "
        f"on {len(record['samples'])} samples, all others against the first line's in the same rounds.",
    ]
    for title, table in record["tables"].items():
        banks = " and ".join(f"{rows} x {width}" for rows, width in table["banks"])
        lines += ["", f"## {title}", "", f"{table['rgb']}, banks {banks}", "", *_end_table(table)]
        lines += ["", *_stage_table(table)]
    return "\n".join(lines) + "\n"


def _end_table(table: Record) -> list[str]:
    contenders, floor = table["contenders"], table["floor"]["total"]["ms"]
    reference = next(iter(contenders.values()))
    lines = [
        f"| | end to end, ms | times faster | floors of {floor:.0f} ms | peak, MB | of the first | score off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in contenders.items():
        total, memory = figures["total_ms"], figures["memory"]
        peak = share = "–"
        if memory is not None:
            peak = f"{memory['peak_resident_mb']:.0f}"
            share = f"{memory['peak_resident_mb'] / reference['memory']['peak_resident_mb']:.2f}"
        lines.append(
            f"| {name} | {_ms(total)} | {_times(figures['times_faster'])} | {total['median'] / floor:.1f} × | {peak} | "
            f"{share} | {figures['largest_score_difference']:.2%} |"
        )
    return lines


def _stage_table(table: Record) -> list[str]:
    reporting = {name: figures for name, figures in table["contenders"].items() if figures["stages_ms"]}
    lines = [f"| stage, ms | floor | {' | '.join(reporting)} |", "|---|---|" + "---|" * len(reporting)]
    for stage in STAGES:
        if not any(stage in figures["stages_ms"] for figures in reporting.values()):
            continue
        floor = f"{table['floor'][stage]['ms']:.1f}" if stage in table["floor"] else "–"
        cells = [_stage_cell(figures, stage) for figures in reporting.values()]
        lines.append(f"| {stage} | {floor} | {' | '.join(cells)} |")
    return lines


def _stage_cell(contender: Record, stage: str) -> str:
    if stage not in contender["stages_ms"]:
        return "–"
    faster = contender["stages_times_faster"].get(stage)
    cell = _ms(contender["stages_ms"][stage])
    return cell if faster is None or faster["median"] == 1 else f"{cell}; {faster['median']:.1f} ×"


def _ms(spread: dict[str, float]) -> str:
    digits = 0 if spread["median"] >= 100 else 1 if spread["median"] >= 1 else 3
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}–{spread['high']:.{digits}f})"


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
