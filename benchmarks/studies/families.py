"""Compare detector families on a data set: variants of reverse distillation and memory banks, teachers and seeds.

`python -m studies families DATA CATEGORY --teacher resnet18=FILE --out DIR` trains every detector with every teacher
and seed through the code of `cmdiad-train`, in parallel processes if requested. Accuracy and verdicts are measured in
torch, so a machine for training needs no export. With `--latency-seconds`, the detectors of the first seed are then
exported and timed one after the other. Results in DIR are reused, and the table is rewritten after each result, so the
program can be stopped at any time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cmdiad_bench.machine import describe_machine
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from cmdiad_train.runs.run import Run

SIZE = 256
SENSORS: tuple[Sensors, ...] = ("rgb", "xyz", "both")
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_1")
LATENCY_RUNS = 1000
Precisions = Sequence[str]
T = TypeVar("T")


@dataclass(frozen=True)
class Detector:
    """One detector of the table.

    Attributes:
        variant: Variant of reverse distillation, or "bank".
        modality: Modality that the detector inspects with.
        teacher: Name of the timm backbone.
        weights: Weights of the backbone: a file, or "seeded".
        seed: Seed of everything random.
    """

    variant: str
    modality: Sensors
    teacher: str
    weights: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the folders and files of this detector."""
        return f"{self.row}-{self.seed}"

    @property
    def row(self) -> str:
        """Return the name of the line of the table, which all seeds share."""
        return f"{self.variant}-{self.modality}-{self.teacher}"

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of `cmdiad-train`."""
        backbone = ("backbone", self.teacher), ("weights", self.weights)
        named = (text for key, value in backbone for text in (f"--rgb-{key}", value))
        common = ("--modality", self.modality, "--size", str(SIZE), "--seed", str(self.seed), *named)
        if self.variant != "bank":
            return ("--family", "trd", "--variant", self.variant, *common)
        images = ("--family", "bank", "--distances", "plain", "--rgb-stages", "1,2", *common)
        if self.modality == "rgb":
            return images
        surface = (*backbone, ("stages", "1,2"))
        return (*images, "--xyz", "normals", *(text for key, value in surface for text in (f"--surface-{key}", value)))


def detectors(teachers: Mapping[str, str], seeds: Sequence[int]) -> list[Detector]:
    """Return all detectors of the table, those of the first seed first.

    Args:
        teachers: Weights of each backbone by its timm name.
        seeds: Seeds of the training. A bank of images has nothing random and gets the first seed only.
    """
    table: list[Detector] = []
    for seed in seeds:
        for teacher, weights in teachers.items():
            table += [Detector(variant, "both", teacher, weights, seed) for variant in ("trd", "rd")]
            for modality in SENSORS[:2]:
                variants = ("rd", "mtfi-trd", "mtfi-rd")
                table += [Detector(variant, modality, teacher, weights, seed) for variant in variants]
            if seed == seeds[0]:
                table += [Detector("bank", modality, teacher, weights, seed) for modality in SENSORS]
    return table


@dataclass(frozen=True)
class Study:
    """Data that all detectors are measured on, and how.

    Attributes:
        data: Data set.
        category: Category of the data set.
        out: Folder for `runs`, `bundles`, `figures`, `latency` and the table.
        device: Device of the training, "cpu" or "cuda".
        options: Options of `cmdiad-train` for every detector of the family trd, for example `--epochs 1`.
    """

    data: Path
    category: str
    out: Path
    device: str = "cpu"
    options: tuple[str, ...] = ()

    def measure(self, table: Sequence[Detector], jobs: int, reporter: Reporter) -> list[dict[str, Any]]:
        """Train and evaluate every detector and return the figures of those that succeeded.

        A detector that fails is reported and left out; the next call tries again.

        Args:
            table: Detectors to train.
            jobs: Number of processes that train at the same time; 1 trains in this process.
            reporter: Receiver of one line per detector.
        """
        waiting = [detector for detector in table if not self._figures(detector).exists()]
        started, machine = time.monotonic(), describe_machine()
        for number, (detector, error) in enumerate(in_processes(self.train, waiting, jobs)):
            ended = f"{time.monotonic() - started:.0f} s" if error is None else f"failed: {error}"
            reporter.say(f"{number + 1} of {len(waiting)}: {detector.name}, {ended}")
            self.write(table, machine)
        return self.write(table, machine)

    def train(self, detector: Detector) -> None:
        """Train a detector and write its figures; an interrupted training resumes."""
        from cmdiad_train.cli.train import cli
        from cmdiad_train.runs.run import load_run

        extra = self.options if detector.variant != "bank" else ()
        run = self.run(detector)
        started = time.monotonic()
        arguments = (str(self.data), "--category", self.category, *detector.options, *extra)
        store = ("--device", self.device, "--cache-dir", str(self.out / "features"), "--out", str(run), "--no-test")
        cli.main([*arguments, *store], standalone_mode=False)
        seconds = time.monotonic() - started
        figures = figures_of(load_run(run), self.data, self.category, self.device)
        self._figures(detector).parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._figures(detector),
            {**asdict(detector), **figures, "seconds": seconds, "device": name_of_device(self.device)},
        )

    def time(self, table: Sequence[Detector], precisions: Precisions, seconds: float, reporter: Reporter) -> None:
        """Export each detector of the first seed and measure latency, peak memory and size.

        Args:
            table: Detectors; those that are not trained are left out.
            precisions: Precisions to export.
            seconds: Time limit of each latency measurement.
            reporter: Receiver of one line per bundle.
        """
        first = min((detector.seed for detector in table), default=0)
        for detector in table:
            if detector.seed == first and self._figures(detector).exists():
                for precision in precisions:
                    file = self.out / "latency" / f"{detector.name}-{precision}.json"
                    if not file.exists():
                        reporter.say(f"{detector.name}, {precision}")
                        file.parent.mkdir(parents=True, exist_ok=True)
                        write_json(file, self._timed(detector, precision, seconds))
        self.write(table, describe_machine())

    def _timed(self, detector: Detector, precision: str, seconds: float) -> dict[str, Any]:
        from cmdiad_bench.latency import LatencyOptions, measure_latency
        from cmdiad_bench.memory import measure_memory
        from cmdiad_export.cli import cli
        from cmdiad_runtime.inspection.inputs import list_inputs
        from cmdiad_runtime.inspection.inspector import Inspector

        bundle = self.out / "bundles" / f"{detector.name}-{precision}.cmdiad"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        if not bundle.exists():
            arguments = [str(self.run(detector)), "--precision", precision, "--target", "onnx", "--out", str(bundle)]
            cli.main(arguments, standalone_mode=False)
        with Inspector.open(bundle) as inspector:
            files = list_inputs((self.data / self.category / "test",), inspector.bundle.preprocessing.modality)
            result = measure_latency(inspector, files, LatencyOptions(LATENCY_RUNS, seconds), SILENT)
        memory = measure_memory(bundle, files, engine="cpu")
        size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
        return {**result, "peak_resident_mb": memory["peak_resident_mb"], "bundle_mb": size / 1e6}

    def write(self, table: Sequence[Detector], machine: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write `families.json` and `families.md` with what is measured so far, and return the figures."""
        rows = [read_json(file) for detector in table if (file := self._figures(detector)).exists()]
        timed = sorted((self.out / "latency").glob("*.json"))
        latencies = {file.stem: read_json(file) for file in timed}
        write_json(
            self.out / "families.json",
            {"category": self.category, "machine": machine, "rows": rows, "latency": latencies},
        )
        with atomic_write(self.out / "families.md") as temporary:
            temporary.write_text(markdown(rows, latencies), encoding="utf-8")
        return rows

    def run(self, detector: Detector) -> Path:
        """Return the run folder of a detector."""
        return self.out / "runs" / detector.name

    def _figures(self, detector: Detector) -> Path:
        return self.out / "figures" / f"{detector.name}.json"


def figures_of(run: Run, data: Path, category: str, device: str = "cpu") -> dict[str, Any]:
    """Return the metrics on the test split and the verdicts at the threshold of a finished run.

    Args:
        run: Finished run.
        data: Data set.
        category: Category of the data set.
        device: Device that computes scores and maps.
    """
    from cmdiad_train.datasets import GOOD, open_category
    from cmdiad_train.evaluation.evaluate import collect
    from cmdiad_train.fit.figures import sample_scorer

    preprocessing = run.preprocessing
    listing = open_category(data, category).usable("test", preprocessing.modalities)
    detector = run.detector.to(device)
    forward = detector.forward
    detector.forward = lambda *inputs: tuple(result.cpu() for result in forward(*(x.to(device) for x in inputs)))  # type: ignore[method-assign]
    split = collect(sample_scorer(detector, run.record), preprocessing, listing.samples, SILENT)
    rejected = split.scores > run.calibration.score_threshold
    good = split.defects == GOOD
    return {
        "view": run.recipe.view,
        **split.summary(),
        "rejected": int((rejected & good).sum() + sum(sample.defect == GOOD for sample in split.left_out)),
        "missed": int((~rejected & ~good).sum()),
        "scores": {files.name: float(value) for files, value in zip(split.files, split.scores, strict=True)},
    }


def in_processes(train: Callable[[T], None], waiting: Sequence[T], jobs: int) -> Iterator[tuple[T, str | None]]:
    """Train each one of `waiting` and yield it when it ends, with the error in one line if it failed.

    Args:
        train: Trains one of them; pickled for the other processes.
        waiting: What to train.
        jobs: Number of processes that train at the same time; 1 trains in this process.
    """
    if jobs == 1:
        for item in waiting:
            yield item, _try_to_train(train, item, None)
        return
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = {pool.submit(_try_to_train, train, item, threads): item for item in waiting}
        for task in as_completed(tasks):
            yield tasks[task], task.result()


def _try_to_train(train: Callable[[T], None], item: T, threads: int | None) -> str | None:
    """Train; return None, or the error in one line."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        train(item)
    except click.Abort:  # a signal, which ends the study
        raise
    except Exception as error:  # One training that fails must not end the study.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def name_of_device(name: str) -> str:
    """Return the name of the GPU, or of the device as it is named."""
    if name != "cuda":
        return name
    import torch

    return torch.cuda.get_device_name()


def read_json(file: Path) -> dict[str, Any]:
    """Return the contents of a JSON file."""
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def markdown(rows: Sequence[Mapping[str, Any]], latencies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as a table: the mean over the seeds, and the range of the image AUROC."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["modality"], row["teacher"]), []).append(row)
    defects = sorted(rows[0]["image_auroc_by_defect"]) if rows else []
    titles = [
        "variant",
        "modality",
        "teacher",
        "view",
        "seeds",
        "image AUROC",
        "range",
        "pixel AUROC",
        "AUPRO@30",
        "AUPRO@1",
    ]
    titles += [" / ".join(defects), "rejected", "missed", "training s", "precision: p50 / p95 ms, peak MB, bundle MB"]
    lines = [_line(titles), _line(["---"] * len(titles)).replace(" ", "")]
    for group, seeds in groups.items():
        aurocs = [row["image_auroc"] for row in seeds]
        figures = [f"{_mean(row[name] for row in seeds):.3f}" for name in FIGURES]
        by_defect = " / ".join(f"{_mean(row['image_auroc_by_defect'][d] for row in seeds):.2f}" for d in defects)
        good = seeds[0]["good"]
        verdicts = [f"{_mean(row['rejected'] for row in seeds):.1f} of {good}"]
        verdicts.append(f"{_mean(row['missed'] for row in seeds):.1f} of {seeds[0]['samples'] - good}")
        seconds = f"{_mean(row['seconds'] for row in seeds):.0f}"
        prefix = f"{'-'.join(group)}-"
        timed = [_timing(value) for name, value in latencies.items() if _is_of(name, prefix)]
        spread = f"{min(aurocs):.3f}–{max(aurocs):.3f}"
        cells = [
            *group,
            seeds[0]["view"],
            str(len(seeds)),
            figures[0],
            spread,
            *figures[1:],
            by_defect,
            *verdicts,
            seconds,
        ]
        lines.append(_line([*cells, "; ".join(timed)]))
    return "\n".join(lines) + "\n"


def _is_of(name: str, prefix: str) -> bool:
    """Return True if a latency belongs to the detector whose names begin with `prefix`, followed by the seed."""
    return name.startswith(prefix) and name.removeprefix(prefix).partition("-")[0].isdigit()


def _timing(value: Mapping[str, Any]) -> str:
    total = value["total_ms"]
    times = f"{value['precision']}: {total['p50']:.0f} / {total['p95']:.0f}"
    return f"{times}, {value['peak_resident_mb']:.0f}, {value['bundle_mb']:.0f}"


def _mean(values: Iterator[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
