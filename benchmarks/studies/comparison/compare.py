"""The published inference, ours in each form and anomalib's PatchCore side by side: interleaved, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cmdiad_bench.machine import describe_machine
from cmdiad_bench.memory import peak_of
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import atomic_write, write_json
from studies.comparison.contenders import (
    Form,
    OursContender,
    Outcome,
    Paired,
    Parts,
    PublishedContender,
    Setup,
    build_parts,
    needed_work,
)
from studies.comparison.floor import Rates, Work, measure_rates, total_work
from studies.comparison.plots import plot_ends, plot_stages
from studies.comparison.stage_times import STAGES

QUARTILES = (25, 75)
SAMPLE_FILE = "sample.npz"
Say = Callable[[str], None]
Record = dict[str, Any]


class Contender(Protocol):
    """What is measured.

    Attributes:
        name: what tables call it.
        peak_arguments: what starts it in a process of its own (`studies.comparison.peak`), but for the sample.
    """

    name: str
    peak_arguments: list[str]

    def run(self, paired: Paired) -> Outcome:
        """Once, end to end."""

    def close(self) -> list[dict[str, float]]:
        """Give memory back; milliseconds by stage of each run, as far as they can be told apart."""


@dataclass(frozen=True)
class Times:
    """What one contender took, one value for each round.

    Attributes:
        outcomes: end to end.
        stages_ms: by stage.
        scores: of each sample, where they are held against another form's; else of each round.
    """

    outcomes: list[Outcome]
    stages_ms: list[dict[str, float]]
    scores: list[float]


def compare(
    setups: Sequence[Setup],
    samples: Sequence[Sample],
    good: Sequence[Sample],
    forms: Sequence[Form],
    out: Path,
    *,
    runs: int,
    memory: bool,
    say: Say,
) -> Record:
    """Measure everything and leave `compare.json`, `compare.md` and pictures in the folder `out`.

    Args:
        setups: what to compare; one with hallucination against the published inference, one without against
            anomalib's PatchCore.
        samples: rgb and xyz, taken in turn, one in each round; scores of our forms are held together on all of them.
        good: rgb and xyz; the banks are made of their features.
        forms: ours.
        out: folder; `work/` in it holds graphs and banks.
        runs: rounds, in each of which every contender runs once, after one to warm up.
        memory: also measure each one's peak memory, in a process of its own.
        say: told what is going on, a line at a time.

    Returns:
        What `compare.json` holds.
    """
    machine, rates = describe_machine(), measure_rates()
    tables: Record = {}
    for setup in setups:
        say(title_of(setup))
        work = out / "work" / f"{setup.main}-{setup.hallucination}"
        tables[title_of(setup)] = _compare_one(setup, samples, good, forms, work, runs=runs, memory=memory, say=say)
    rates = rates.better(measure_rates())
    for table in tables.values():
        table["floor"] = _floors(table.pop("work"), rates)
    record = {
        "machine": machine | {"torch_threads": torch.get_num_threads()},
        "rates": {"multiply_adds_per_s": rates.multiply_adds, "copied_bytes_per_s": rates.copied_bytes},
        "runs": runs,
        "samples": [sample.name for sample in samples],
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
    """What a table is called."""
    return f"main {setup.main}" if setup.hallucination != "none" else f"{setup.main} alone, as PatchCore"


def _compare_one(
    setup: Setup,
    samples: Sequence[Sample],
    good: Sequence[Sample],
    forms: Sequence[Form],
    work: Path,
    *,
    runs: int,
    memory: bool,
    say: Say,
) -> Record:
    work.mkdir(parents=True, exist_ok=True)
    parts, paired = build_parts(setup, samples, good, say)
    paired[0].save(work / SAMPLE_FILE)
    contenders = _others(parts, work, say)
    for number, form in enumerate(forms):
        say(f"export {form.name}")
        contenders.append(OursContender(parts, form, paired, work / f"ours-{number}"))
    exact = {form.mode: form.name for form in reversed(forms) if form.exact}
    held_against = {form.name: exact[form.mode] for form in forms if form.name != exact.get(form.mode, form.name)}
    times = _interleaved(contenders, paired, runs, {*held_against, *held_against.values()}, say)
    needed = needed_work(parts, paired[0])
    reference = times[contenders[0].name]
    found: Record = {}
    for contender in contenders:
        name = contender.name
        found[name] = _figures(times[name], reference, times[held_against[name]] if name in held_against else None)
        say(f"peak memory of {name}" if memory else f"done with {name}")
        found[name]["memory"] = _peak(contender, work) if memory else None
    return {
        "rgb": setup.rgb.backbone,
        "points": None if setup.main == "rgb" else [setup.xyz.groups, setup.xyz.group_size],
        "banks": [list(bank.rows.shape) for bank in parts.banks],
        "contenders": found,
        "work": needed,
    }


def _others(parts: Parts, work: Path, say: Say) -> list[Contender]:
    """The reference first: the published inference, or where nothing is hallucinated anomalib's PatchCore."""
    if parts.setup.hallucination != "none":
        return [PublishedContender(parts, work / "published")]
    from studies.comparison.anomalib_patchcore import AnomalibExported, AnomalibTorch, save_patchcore

    say("export anomalib's PatchCore")
    save_patchcore(work / "anomalib", parts)
    return [AnomalibTorch(work / "anomalib"), AnomalibExported(work / "anomalib")]


def _interleaved(
    contenders: Sequence[Contender], paired: Sequence[Paired], runs: int, scored: Collection[str], say: Say
) -> dict[str, Times]:
    """Times of each contender by name: A B C, A B C, ... after one round to warm up; `scored` ones then run on all."""
    outcomes: dict[str, list[Outcome]] = {contender.name: [] for contender in contenders}
    start = time.monotonic()
    for turn in range(-1, runs):
        sample = paired[turn % len(paired)]
        for contender in contenders:
            outcome = contender.run(sample)
            if turn >= 0:
                outcomes[contender.name].append(outcome)
        say(f"round {turn + 1} of {runs} ({time.monotonic() - start:.0f} s)")
    found = {}
    for each in contenders:
        chosen = paired if each.name in scored else ()
        scores = [each.run(sample).score for sample in chosen] or [outcome.score for outcome in outcomes[each.name]]
        found[each.name] = Times(outcomes[each.name], each.close()[1 : runs + 1], scores)
    return found


def _figures(times: Times, reference: Times, exact: Times | None = None) -> Record:
    """Medians and quartiles; how much faster than the reference, round by round; how far its scores lie off.

    They are held against those of the exact form on all samples, or else against the reference's of the same rounds.
    """
    totals, others = _totals(times), _totals(reference)
    told = [stage for stage in STAGES if stage in times.stages_ms[0]]
    stages = {stage: np.array([each[stage] for each in times.stages_ms]) for stage in told}
    references = {stage: np.array([each[stage] for each in reference.stages_ms]) for stage in reference.stages_ms[0]}
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
    return [outcome.score for outcome in times.outcomes]


def _difference(scores: Sequence[float], expected: Sequence[float]) -> Record:
    return {
        "largest_score_difference": float(np.abs(np.array(scores) / np.array(expected) - 1).max()),
        "scores_compared": len(scores),
    }


def _totals(times: Times) -> Any:
    return np.array([outcome.total_ms for outcome in times.outcomes])


def _spread(values: Any) -> dict[str, float]:
    low, high = np.percentile(values, QUARTILES)
    return {"median": round(float(np.median(values)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _ratio(slow: Any, fast: Any) -> dict[str, float]:
    """The ratio of the medians, and the quartiles of the ratios of the same round."""
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
            "multiply_adds": each.multiply_adds,
            "moved_bytes": each.moved_bytes,
            "ms": round(each.floor_ms(rates), 3),
        }
        for stage, each in all_work.items()
    }


def markdown(record: Record) -> str:
    """The record as tables."""
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
    for name, each in contenders.items():
        total, memory = each["total_ms"], each["memory"]
        peak = share = "–"
        if memory is not None:
            peak = f"{memory['peak_resident_mb']:.0f}"
            share = f"{memory['peak_resident_mb'] / reference['memory']['peak_resident_mb']:.2f}"
        lines.append(
            f"| {name} | {_ms(total)} | {_times(each['times_faster'])} | {total['median'] / floor:.1f} × | {peak} | "
            f"{share} | {each['largest_score_difference']:.2%} |"
        )
    return lines


def _stage_table(table: Record) -> list[str]:
    told = {name: each for name, each in table["contenders"].items() if each["stages_ms"]}
    lines = [f"| stage, ms | floor | {' | '.join(told)} |", "|---|---|" + "---|" * len(told)]
    for stage in STAGES:
        if not any(stage in each["stages_ms"] for each in told.values()):
            continue
        floor = f"{table['floor'][stage]['ms']:.1f}" if stage in table["floor"] else "–"
        cells = [_stage_cell(each, stage) for each in told.values()]
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
