"""Compare extractors on a data set: modalities, extractors, hallucination, seeds, and the latency of each.

`python -m studies extractors DATA CATEGORY --large FILE --small FILE --out DIR` with ImageNet weights of
`resnetv2_50` and `mobilenetv2_100`. The student and the point extractor are trained on DATA first. Everything runs
through the code of the commands, with every relevant option named. Results in DIR are reused, and the table is
rewritten after every detector, so the program can be stopped at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cmdiad_bench.machine import describe_machine
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_runtime.support.reporter import Reporter

LARGE, SMALL, STUDENT = "resnetv2_50", "mobilenetv2_100", "resnet10t"
STAGES = "1,2"
LESSONS = ("--student-weights", "shipped-rgb", "--copies", "3", "--epochs", "40")
"""Options of the student's training; the default 7 copies and 60 epochs take three times as long."""
SIZE, GRID = 320, 40
POINT_SIZE, POINT_GRID = 224, 28
BANK = ("--distances", "plain", "--coreset", "1", "--components", "256", "--image-score", "max")
LATENCY_RUNS = 1000
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")


@dataclass(frozen=True)
class Configuration:
    """One detector of the table.

    Attributes:
        name: Name of the detector's folders.
        modality: Modality that the detector inspects with.
        extractor: Description of the extractor.
        hallucination: "none" or "f2f".
        options: Options of `cmdiad-train` in addition to those that all detectors share.
        random: True if a result depends on the seed: random weights, the training of a network, or the search for the
            support plane of a cloud.
    """

    name: str
    modality: Sensors
    extractor: str
    hallucination: Literal["none", "f2f"]
    options: tuple[str, ...]
    random: bool = True

    def seeds(self, requested: Sequence[int]) -> tuple[int, ...]:
        """Return the seeds that can give different results."""
        return tuple(requested) if self.random else tuple(requested[:1])


@dataclass(frozen=True)
class Weights:
    """Weight files.

    Attributes:
        large: ImageNet weights of `resnetv2_50`.
        small: ImageNet weights of `mobilenetv2_100`.
        student: `resnet10t`, distilled from the large network.
        points: Point-MAE, pretrained on the data.
    """

    large: Path
    small: Path
    student: Path
    points: Path


def configurations(weights: Weights) -> list[Configuration]:
    """Return all detectors of the table.

    Images and normals are seen in a view that follows the part. Points and depth have no such view, so these
    detectors use the sensor's view. The hallucinated features come from `resnetv2_50`: features of normals for the
    camera, features of the image for the 3D sensor.
    """
    networks = {LARGE: weights.large, SMALL: weights.small, STUDENT: weights.student}
    normals = ("--xyz", "normals", *_image("surface", LARGE, weights.large, GRID))
    image = _image("rgb", LARGE, weights.large, GRID)
    table: list[Configuration] = []

    def add(
        name: str, modality: Sensors, extractor: str, options: tuple[str, ...], of_other: tuple[str, ...] = ()
    ) -> None:
        """Add a detector, and one with hallucination, which also takes the options of the other modality."""
        single = Configuration(f"{name}-none", modality, extractor, "none", options, random=modality != "rgb")
        table.append(single)
        if modality != "both":
            paired = (*options, *of_other)
            table.append(replace(single, name=f"{name}-f2f", hallucination="f2f", options=paired, random=True))

    for backbone, file in networks.items():
        seen = ("--view", "part", "--size", str(SIZE), *_image("rgb", backbone, file, GRID))
        add(f"rgb-{backbone}", "rgb", "resnet10t, student" if backbone == STUDENT else backbone, seen, normals)
    points, paired = ("--view", "sensor", "--size", str(POINT_SIZE)), _image("rgb", LARGE, weights.large, POINT_GRID)
    for words, which in (("random", "seeded"), ("pretrained", str(weights.points))):
        point_mae = ("--xyz", "point_mae", "--xyz-grid", str(POINT_GRID), "--xyz-weights", which)
        add(f"xyz-point_mae-{words}", "xyz", f"Point-MAE, {words}", (*points, *point_mae), paired)
    add("xyz-normals", "xyz", f"normals → {LARGE}", ("--view", "top", "--size", str(SIZE), *image, *normals))
    depth = ("--xyz", "depth", *_image("surface", LARGE, weights.large, GRID))
    add("xyz-depth", "xyz", f"depth → {LARGE}", ("--view", "sensor", "--size", str(SIZE), *image, *depth))
    both = ("--view", "each", "--size", str(SIZE), *image, *normals)
    add("both-normals", "both", f"{LARGE} and normals → {LARGE}", both)
    return table


def _image(prefix: str, backbone: str, weights: Path, grid: int) -> tuple[str, ...]:
    named = {"backbone": backbone, "stages": STAGES, "grid": str(grid), "weights": str(weights)}
    return tuple(text for name, value in named.items() for text in (f"--{prefix}-{name}", value))


@dataclass(frozen=True)
class Bench:
    """Data that all detectors are measured on, and the folder of the results.

    Attributes:
        data: Data set.
        category: Category of the data set.
        out: Folder for `runs`, `bundles`, `latency`, weights and the table.
        latency_seconds: Time limit of each latency measurement; 0 skips it.
    """

    data: Path
    category: str
    out: Path
    latency_seconds: float

    def measure(
        self, chosen: Sequence[Configuration], seeds: Sequence[int], reporter: Reporter
    ) -> list[dict[str, Any]]:
        """Train every detector with the first seed, measure latencies, then train with the other seeds.

        Returns:
            For each detector its description, `view`, `metrics` by seed (those of `run.json`) and `latency` (that of
            `cmdiad-bench latency`, or None).
        """
        rows: dict[str, dict[str, Any]] = {}
        for seed in seeds:
            for detector in chosen:
                if seed in detector.seeds(seeds):
                    reporter.say(f"{detector.name}, seed {seed}")
                    record = self._trained(detector, seed)
                    row = rows.setdefault(
                        detector.name, {**_described(detector, record), "metrics": {}, "latency": None}
                    )
                    row["metrics"][str(seed)] = record["metrics"]
                    self.write(list(rows.values()))
            for detector in chosen if seed == seeds[0] and self.latency_seconds else ():
                reporter.say(f"{detector.name}, latency")
                rows[detector.name]["latency"] = self._latency(detector, seed)
                self.write(list(rows.values()))
        return list(rows.values())

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write `extractors.json` and `extractors.md`."""
        described = {"category": self.category, "machine": describe_machine(), "rows": rows}
        write_json(self.out / "extractors.json", described)
        with atomic_write(self.out / "extractors.md") as temporary:
            temporary.write_text(markdown(rows), encoding="utf-8")

    def train_extractors(self, chosen: Sequence[Configuration], weights: Weights, reporter: Reporter) -> None:
        """Train the student of the large backbone and the pretrained point extractor if a detector uses them."""
        from cmdiad_train.cli.extractor import cli

        asked = {option for detector in chosen for option in detector.options}
        if str(weights.student) in asked and not weights.student.exists():
            reporter.say(f"distil {STUDENT} from {LARGE}")
            images = self.out / "part-images"
            cut_out_images(self.data, self.category, images)
            teacher = ("--teacher-weights", str(weights.large), "--teacher-backbone", LARGE, "--teacher-stages", STAGES)
            sizes = ("--size", str(SIZE), "--teacher-grid", str(GRID))
            pupil = ("--student-backbone", STUDENT, "--student-stages", STAGES)
            _command(cli, "distill", str(images), *teacher, *sizes, *pupil, *LESSONS, "--out", str(weights.student))
        if str(weights.points) in asked and not weights.points.exists():
            reporter.say("pretrain points")
            data = (str(self.data), "--category", self.category)
            _command(cli, "pretrain", "points", *data, "--out", str(weights.points))

    def _trained(self, detector: Configuration, seed: int) -> dict[str, Any]:
        from cmdiad_train.cli.train import cli

        run = self._run(detector, seed)
        what = ("--modality", detector.modality, "--hallucination", detector.hallucination, "--seed", str(seed))
        data = (str(self.data), "--category", self.category)
        _command(cli, *data, *what, *BANK, *detector.options, "--out", str(run))
        return _read(run / "run.json")

    def _latency(self, detector: Configuration, seed: int) -> dict[str, Any]:
        from cmdiad_bench.latency import LatencyOptions, measure_latency
        from cmdiad_export.cli import cli
        from cmdiad_runtime.inspection.inputs import list_inputs
        from cmdiad_runtime.inspection.inspector import Inspector

        bundle, figures = (
            self.out / "bundles" / f"{detector.name}.cmdiad",
            self.out / "latency" / f"{detector.name}.json",
        )
        if figures.exists():
            return _read(figures)
        if not bundle.exists():
            bundle.parent.mkdir(parents=True, exist_ok=True)
            _command(cli, str(self._run(detector, seed)), "--engine", "fp32", "--out", str(bundle))
        reporter = TerminalReporter()
        with Inspector.open(bundle) as inspector:
            files = list_inputs((self.data / self.category / "test",), inspector.bundle.preprocessing.modality)
            options = LatencyOptions(runs=LATENCY_RUNS, seconds=self.latency_seconds)
            result = measure_latency(inspector, files, options, reporter)
        reporter.close()
        figures.parent.mkdir(exist_ok=True)
        write_json(figures, result)
        return result

    def _run(self, detector: Configuration, seed: int) -> Path:
        return self.out / "runs" / f"{detector.name}-{seed}"


def cut_out_images(data: Path, category: str, folder: Path) -> None:
    """Write the good training images in the view `part` as PNG files for the student's training."""
    from PIL import Image

    from cmdiad_runtime.preprocess.prepare import prepare
    from cmdiad_train.datasets import data_colour, open_category
    from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
    from cmdiad_train.fit.views import learn_view
    from cmdiad_train.recipe import BankRecipe, Recipe

    recipe = Recipe(BankRecipe(), modality="rgb", view="part", size=SIZE)
    samples = open_category(data, category).split("train", ("rgb",))
    colour = data_colour(samples)
    progress = TerminalReporter()
    preprocessing = learn_view("part", samples, make_preprocessing(recipe, colour), progress)
    progress.close()
    folder.mkdir(parents=True, exist_ok=True)
    for i, files in enumerate(samples):
        image = prepare(files.read(colour), preprocessing).inputs["rgb"][0]  # uint8 [size, size, 3]
        Image.fromarray(image).save(folder / f"{i:03d}.png")


def _described(detector: Configuration, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": detector.name,
        "modality": detector.modality,
        "extractor": detector.extractor,
        "hallucination": detector.hallucination,
        "view": record["recipe"]["view"],
        "random": detector.random,
    }


def _command(cli: Any, *arguments: str) -> None:
    """Run a cmdiad command in this process and raise its errors."""
    cli.main(list(arguments), standalone_mode=False)


def _read(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table: one value for each seed, and image AUROC by defect for the first seed."""
    defects = sorted(next(iter(rows[0]["metrics"].values()))["image_auroc_by_defect"])
    titles = ["modality", "extractor", "hallucinates", "view", "image AUROC", "pixel AUROC", "AUPRO@30 %"]
    titles += [" / ".join(defects), "p50 ms"]
    lines = [_line(titles), _line(["---"] * len(titles)).replace(" ", "")]
    for row in rows:
        metrics = list(row["metrics"].values())
        by_defect = metrics[0]["image_auroc_by_defect"]
        other = {"rgb": "xyz", "xyz": "rgb"}[row["modality"]] if row["hallucination"] != "none" else "–"
        figures = [" ".join(f"{values[name]:.3f}" for values in metrics) for name in FIGURES]
        p50 = f"{row['latency']['total_ms']['p50']:.0f}" if row["latency"] else ""
        split = " / ".join(f"{by_defect[defect]:.2f}" for defect in defects)
        lines.append(_line([row["modality"], row["extractor"], other, row["view"], *figures, split, p50]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def select(weights: Weights, names: Sequence[str]) -> list[Configuration]:
    """Return the detectors with these names; all detectors without names.

    Raises:
        ValueError: There is no detector with one of the names.
    """
    table = {detector.name: detector for detector in configurations(weights)}
    unknown = set(names) - set(table)
    if unknown:
        raise ValueError(f"{' '.join(sorted(unknown))}: not one of {' '.join(table)}")
    return [table[name] for name in names or table]
