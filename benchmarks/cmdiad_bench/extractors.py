"""Which extractor is worth what on a data set: sensors, extractors, hallucination, seeds, and latency beside each.

`python -m cmdiad_bench.extractors DATA CATEGORY --large FILE --small FILE --out DIR` with ImageNet weights of
`resnetv2_50` and `mobilenetv2_100`. The student and the point extractor are trained on DATA first. All of it goes
through the commands' own code with the default recipe; what DIR holds already is reused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_runtime.files import atomic_write, write_json
from cmdiad_runtime.progress import Progress

STAGES = ("--rgb-stages", "1,2")
LARGE, SMALL, STUDENT = "resnetv2_50", "mobilenetv2_100", "resnet10t"
NETWORKS = {LARGE: "large", SMALL: "small", STUDENT: "student"}
LATENCY_SECONDS = 8.0
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")


@dataclass(frozen=True)
class Row:
    """One detector of the table.

    Attributes:
        sensors: `rgb`, `xyz` or `both`.
        extractor: in words.
        hallucination: "none" or "f2f".
        options: of `cmdiad-train`, beside those that follow from the above.
    """

    sensors: str
    extractor: str
    hallucination: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"{self.sensors}-{self.extractor}-{self.hallucination}".replace(" ", "-")


@dataclass(frozen=True)
class Weights:
    """Files of weights.

    Attributes:
        large: ImageNet weights of `resnetv2_50`.
        small: ImageNet weights of `mobilenetv2_100`.
        student: `resnet10t`, distilled from the large one.
        points: Point-MAE, pretrained on the data.
    """

    large: Path
    small: Path
    student: Path
    points: Path


def rows(weights: Weights) -> list[Row]:
    """All detectors. What is hallucinated comes from the large backbone, but for those that have another one."""
    both = ("none", "f2f")
    table = []
    for backbone, which in NETWORKS.items():
        image = ("--rgb-backbone", backbone, *STAGES, "--rgb-weights", str(getattr(weights, which)))
        surface = ("--surface-backbone", LARGE, "--surface-weights", str(weights.large))
        table += [Row("rgb", _words(backbone), h, image + surface) for h in both]
    large = ("--rgb-backbone", LARGE, *STAGES, "--rgb-weights", str(weights.large))
    for words, file in (("Point-MAE random", "seeded"), ("Point-MAE pretrained", str(weights.points))):
        table += [Row("xyz", words, h, (*large, "--xyz", "point_mae", "--xyz-weights", file)) for h in both]
    for image_kind in ("normals", "depth"):
        table += [Row("xyz", f"{image_kind} {LARGE}", h, (*large, "--xyz", image_kind)) for h in both]
    return [*table, Row("both", f"normals and rgb {LARGE}", "none", (*large, "--xyz", "normals"))]


def _words(backbone: str) -> str:
    return f"{backbone} student" if backbone == STUDENT else backbone


def measure(
    data: Path, category: str, weights: Weights, out: Path, *, seeds: Sequence[int], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train every detector with every seed, and time the bundle of the first seed.

    Returns:
        Of each row its words, `view`, `metrics` (those of `run.json`, one for each seed) and `latency` (that of
        `cmdiad-bench latency`).
    """
    found = []
    for row in rows(weights):
        say(row.name)
        records = [_trained(data, category, row, seed, out) for seed in seeds]
        found.append(
            {
                "sensors": row.sensors,
                "extractor": row.extractor,
                "hallucination": row.hallucination,
                "view": records[0]["recipe"]["view"],
                "metrics": [record["metrics"] for record in records],
                "latency": _latency(data / category, row, seeds[0], out),
            }
        )
    return found


def train_extractors(
    data: Path, category: str, large: Path, out: Path, say: Callable[[str], None]
) -> tuple[Path, Path]:
    """The student of the large backbone, and the pretrained point extractor."""
    from cmdiad_train.extractor_cli import cli

    student, points = out / "student.safetensors", out / "points.safetensors"
    chosen = (str(data), "--category", category)
    if not student.exists():
        say(f"distil {STUDENT} from {LARGE}")
        teacher = ("--teacher-weights", str(large), "--teacher-backbone", LARGE, "--teacher-stages", "1,2")
        pupil = ("--student-backbone", STUDENT, "--size", "320", "--teacher-grid", "40")
        _command(cli, "distill", *chosen, *teacher, *pupil, "--out", str(student))
    if not points.exists():
        say("pretrain points")
        _command(cli, "pretrain", "points", *chosen, "--out", str(points))
    return student, points


def _trained(data: Path, category: str, row: Row, seed: int, out: Path) -> dict[str, Any]:
    from cmdiad_train.cli import cli

    run = out / "runs" / f"{row.name}-{seed}"
    chosen = ("--modality", row.sensors, "--hallucination", row.hallucination, "--seed", str(seed))
    _command(cli, str(data), "--category", category, *chosen, *row.options, "--out", str(run))
    return _read(run / "run.json")


def _latency(folder: Path, row: Row, seed: int, out: Path) -> dict[str, Any]:
    from cmdiad_bench.latency import measure_latency
    from cmdiad_export.cli import cli
    from cmdiad_runtime.inputs import list_inputs
    from cmdiad_runtime.inspector import Inspector

    bundle, figures = out / "bundles" / f"{row.name}.cmdiad", out / "latency" / f"{row.name}.json"
    if figures.exists():
        return _read(figures)
    if not bundle.exists():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        _command(cli, str(out / "runs" / f"{row.name}-{seed}"), "--engine", "fp32", "--out", str(bundle))
    with Inspector.open(bundle) as inspector:
        files = list_inputs((folder / "test",), inspector.bundle.preprocessing.modality)
        progress = Progress()
        result = measure_latency(inspector, files, runs=1000, seconds=LATENCY_SECONDS, progress=progress)
        progress.close()
    figures.parent.mkdir(exist_ok=True)
    write_json(figures, result)
    return result


def _command(cli: Any, *arguments: str) -> None:
    """Run a command of ours in this process; its errors are raised."""
    cli.main(list(arguments), standalone_mode=False)


def _read(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The figures as a table: one value for each seed, and the first seed's image AUROC by kind of defect."""
    defects = sorted(found[0]["metrics"][0]["image_auroc_by_defect"])
    lines = [
        "| sensors | extractor | hallucinates | view | image AUROC | pixel AUROC | AUPRO@30 % | p50 ms | "
        + " / ".join(defects)
        + " |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        other = {"rgb": "xyz", "xyz": "rgb"}[row["sensors"]] if row["hallucination"] != "none" else "–"
        figures = [_values(row["metrics"], name) for name in FIGURES]
        by_defect = row["metrics"][0]["image_auroc_by_defect"]
        lines.append(
            f"| {row['sensors']} | {row['extractor']} | {other} | {row['view']} | {' | '.join(figures)} | "
            f"{row['latency']['total_ms']['p50']:.0f} | {' / '.join(f'{by_defect[d]:.2f}' for d in defects)} |"
        )
    return "\n".join(lines) + "\n"


def _values(metrics: Sequence[dict[str, Any]], name: str) -> str:
    return " ".join(f"{each[name]:.3f}" for each in metrics)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m cmdiad_bench.extractors", description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("category")
    parser.add_argument("--large", type=Path, required=True, help=f"weights of {LARGE}")
    parser.add_argument("--small", type=Path, required=True, help=f"weights of {SMALL}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, flush=True)

    student, points = train_extractors(options.data, options.category, options.large, options.out, say)
    weights = Weights(options.large, options.small, student, points)
    found = measure(options.data, options.category, weights, options.out, seeds=options.seeds, say=say)
    write_json(options.out / "extractors.json", {"rows": found})
    with atomic_write(options.out / "extractors.md") as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
