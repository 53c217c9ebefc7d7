"""Collect the figures of the compared methods, and write them as tables in text and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmdiad_bench.methods.method import Method
from cmdiad_bench.methods.published import MEAN, NOT_PUBLISHED, PUBLISHED
from cmdiad_bench.methods.seeds import mean_over_categories, over_seeds
from cmdiad_bench.paper.published import CLASSES
from cmdiad_bench.unfinished_table import MISSING, missing_lines
from cmdiad_runtime.cli.each import table as text_table

FORMAT = "cmdiad-methods"
SENSORS = {"rgb": "camera", "xyz": "3D", "both": "camera, 3D"}
ABSENT = "–"
HEADS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@30", "aupro_1": "AUPRO@1"}
_SEVERAL_SEEDS = (
    "Figures are means over the trainings with the seeds {seeds}; parentheses hold the smallest and the largest value. "
    "The interval of the image AUROC is that of the mean and contains the choice of the test samples, not that of the "
    "seed. Pixel figures have no interval of the mean."
)
PUBLISHED_FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: Heading.
        rows: Texts by column, one mapping per row.
    """

    title: str
    rows: list[dict[str, str]]


def comparison(
    methods: Sequence[Method], results: Mapping[str, Mapping[str, Mapping[int, Any]]], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that was measured, of every seed, as JSON-ready values.

    Args:
        methods: Methods.
        results: Results by method, category and seed, as `measure_methods` passes them to `write`; some may be missing.
        settings: Settings of the trainings.
    """
    return {
        "format": FORMAT,
        "settings": dict(settings),
        "methods": [
            {
                "method": method.name,
                "sensors": method.recipe.modality,
                "recipe": method.recipe.to_json(),
                "seeds": list(method.recipes),
                "mean": mean_over_categories(results[method.name]),
                "categories": {category: over_seeds(by_seed) for category, by_seed in results[method.name].items()},
                "published": _published(method.name),
            }
            for method in methods
        ],
    }


def tables_of(record: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a comparison: of each category, of the means, of the defects, and of the published figures.

    Args:
        record: Result of `comparison`.
    """
    methods = record["methods"]
    categories = list(methods[0]["categories"])
    tables = [Table(category, [_row(method, category) for method in methods]) for category in categories]
    if len(categories) > 1:
        tables.insert(0, Table(f"Mean over {len(categories)} categories", [_mean_row(method) for method in methods]))
    tables += [Table(f"{category}: image AUROC by defect", _defect_rows(methods, category)) for category in categories]
    scopes = [*categories, *([MEAN] if set(categories) == set(CLASSES) else [])]
    tables += [table for scope in scopes if (table := _published_table(methods, scope)).rows]
    return [table for table in tables if table.rows]


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know, one sentence or more per line."""
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items()) or "defaults of each family"
    seeds = [str(seed) for seed in record["methods"][0]["seeds"]]
    notes = [
        f"Settings: {settings}. Brackets hold 95 % bootstrap intervals over the test samples.",
        *([_SEVERAL_SEEDS.format(seeds=", ".join(seeds))] if len(seeds) > 1 else []),
        "missed and rejected: verdicts of the exported bundle at its threshold, which held-out good samples set.",
        "ms: from file to verdict on one machine, median and 99th percentile. MB: peak of the process. A dash: not "
        "measured, or not published. Training times include the features, which no other training shares.",
    ]
    sources = {method["method"]: method["published"] for method in record["methods"] if method["published"]}
    notes += [
        f"{name}: published in {one['source']}. Differs with default settings: {one['differs']}."
        for name, one in sources.items()
    ]
    names = [method["method"] for method in record["methods"]]
    notes += [f"{name}: {NOT_PUBLISHED[name]}." for name in names if name in NOT_PUBLISHED]
    for method in record["methods"]:
        for category, result in method["categories"].items():
            notes += [
                f"{method['method']}, {category}: {text}{result[key]}"
                for key, text in (("failed", "failed. "), ("not_exportable", "no bundle. "))
                if key in result
            ]
    return [*notes, *missing_lines({method["method"]: _missing(method) for method in record["methods"]})]


def as_text(record: Mapping[str, Any]) -> str:
    """Return the tables as text with aligned columns."""
    return "\n\n".join(f"{table.title}\n{text_table(table.rows)}" for table in tables_of(record))


def as_markdown(record: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for table in tables_of(record):
        columns = columns_of(table)
        lines = [
            columns,
            ["---"] * len(columns),
            *([row.get(column, ABSENT) for column in columns] for row in table.rows),
        ]
        parts.append("\n".join([f"## {table.title}", "", *(f"| {' | '.join(line)} |" for line in lines)]))
    parts.append("\n".join(f"- {note}" for note in notes_of(record)))
    return "\n\n".join(parts) + "\n"


def columns_of(table: Table) -> list[str]:
    """Return the headings of a table, in order of first occurrence."""
    return list(dict.fromkeys(column for row in table.rows for column in row))


def _row(method: Mapping[str, Any], category: str) -> dict[str, str]:
    result = method["categories"][category]
    start = {"method": _name(method, category), "sensors": SENSORS[method["sensors"]]}
    absent = "failed" if "failed" in result else MISSING if MISSING in result else ""
    if "lacks" in result:
        absent = f"no {', '.join(result['lacks'])} in the data"
    if absent:
        return {**start, "image AUROC": absent}
    defects, latency = result["samples"] - result["good"], result.get("latency_ms")
    return {
        **start,
        **_figures(result),
        "missed": _count(result, "missed_defects", defects),
        "rejected": _count(result, "false_rejects", result["good"]),
        "ms p50 / p99": ABSENT if latency is None else f"{latency['p50']:.0f} / {latency['p99']:.0f}",
        "MB": _number(result.get("peak_resident_mb")),
        "graph MB": ABSENT if result.get("graph_mb") is None else f"{result['graph_mb']:.1f}",
        "training s": _number(result["training_seconds"]),
        "exported": _exported(result),
    }


def _name(method: Mapping[str, Any], category: str) -> str:
    """Return the name of a method, with the number of seeds if its figures on a category are not of all seeds."""
    result = method["categories"][category]
    seeds = result.get("seeds", {})
    missing = _missing_seeds(result)
    if not missing or len(missing) == len(seeds):
        return str(method["method"])
    return f"{method['method']} ({len(seeds) - len(missing)} of {len(seeds)} seeds)"


def _missing_seeds(result: Mapping[str, Any]) -> list[str]:
    return [seed for seed, one in result.get("seeds", {}).items() if MISSING in one]


def _missing(method: Mapping[str, Any]) -> list[str]:
    """Return the categories on which a method is not measured yet, with the seeds unless all are missing."""
    names = []
    for category, result in method["categories"].items():
        seeds = _missing_seeds(result)
        if MISSING in result:
            names.append(category)
        elif seeds:
            names.append(f"{category} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    return names


def _figures(result: Mapping[str, Any]) -> dict[str, str]:
    """Return each figure with its interval, and with the range of several seeds."""
    cells = {}
    for figure, head in HEADS.items():
        ends, span = result["intervals"][figure], result.get("ranges", {}).get(figure)
        interval = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
        seeds = "" if span is None else f" ({span[0]:.3f} to {span[1]:.3f})"
        cells[head] = ABSENT if result[figure] is None else f"{result[figure]:.3f}{seeds}{interval}"
    return cells


def _count(result: Mapping[str, Any], name: str, total: int) -> str:
    """Return a number of samples out of a total; of several seeds the mean with the range."""
    if "ranges" not in result:
        return f"{result[name]} of {total}"
    low, high = result["ranges"][name]
    return f"{result[name]:.1f} of {total} ({low} to {high})"


def _exported(result: Mapping[str, Any]) -> str:
    """Return whether a certified bundle was written; of several seeds how many were."""
    if "not_exportable" not in result:
        return "yes"
    seeds = [one for one in result.get("seeds", {}).values() if MISSING not in one]
    written = sum("not_exportable" not in one for one in seeds)
    return f"{written} of {len(seeds)}" if written else "no"


def _mean_row(method: Mapping[str, Any]) -> dict[str, str]:
    start = {"method": method["method"], "sensors": SENSORS[method["sensors"]]}
    return {**start, **(dict.fromkeys(HEADS.values(), ABSENT) if method["mean"] is None else _figures(method["mean"]))}


def _defect_rows(methods: Sequence[Mapping[str, Any]], category: str) -> list[dict[str, str]]:
    rows = []
    for method in methods:
        by_defect = method["categories"][category].get("image_auroc_by_defect")
        if by_defect:
            rows.append(
                {"method": _name(method, category), **{name: f"{value:.3f}" for name, value in by_defect.items()}}
            )
    return rows


def _published_table(methods: Sequence[Mapping[str, Any]], scope: str) -> Table:
    """Return published figures next to measured ones, of one category or of the mean over all ten classes."""
    rows = []
    for method in methods:
        result = method["mean"] if scope == MEAN else method["categories"][scope]
        figures = {name: (method["published"] or {}).get(name, {}).get(scope) for name in PUBLISHED_FIGURES}
        if not any(figures.values()):
            continue
        row = {"method": method["method"] if scope == MEAN else _name(method, scope)}
        for name, value in figures.items():
            row[f"{HEADS[name]}, published"] = _share(value)
            row[f"{HEADS[name]}, measured"] = _share((result or {}).get(name))
        rows.append(row)
    return Table(f"{scope}: published and measured", rows)


def _published(name: str) -> dict[str, Any] | None:
    one = PUBLISHED.get(name)
    if one is None:
        return None
    figures = {figure: getattr(one, figure) for figure in PUBLISHED_FIGURES}
    return {"source": one.source, "differs": one.differs, **figures}


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}"
