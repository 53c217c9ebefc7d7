"""Train recipes of any families with several seeds, and tabulate accuracy and verdicts on the test split.

`python -m studies recipes DATA CATEGORY ROWS.toml --out DIR` reads the recipes from a file:

    [rows]
    bank-camera = "--family bank --modality rgb"

Every recipe is trained once for each seed, in parallel processes if requested. Accuracy and verdicts are measured in
torch, without an export. Results in DIR are reused, and the table is rewritten after each result, so the program can be
stopped at any time.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cmdiad_bench.machine import describe_machine
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.reporter import Reporter
from studies.families import figures_of, in_processes, name_of_device, read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIGURES = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_1")


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        row: Name of the line of the table, which all seeds share.
        options: Options of `cmdiad-train`, without data, seed, device and output.
        seed: Seed of everything random.
    """

    row: str
    options: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the run and of the file with its figures."""
        return f"{self.row}-{self.seed}"


def read_recipes(file: Path, seeds: Sequence[int], only: Sequence[str] = ()) -> list[Recipe]:
    """Return all trainings of a file of rows, those of the first seed first.

    Args:
        file: TOML file with a table `rows`: name and options of `cmdiad-train`.
        seeds: Seeds of each row.
        only: Beginnings of the names to keep; all if empty.

    Raises:
        ValueError: The file has no table `rows` of texts.
    """
    rows = tomllib.loads(file.read_text(encoding="utf-8")).get("rows")
    if not isinstance(rows, dict) or not all(isinstance(options, str) for options in rows.values()):
        raise ValueError(f'{file} needs a table [rows] with lines such as name = "--family bank --modality rgb"')
    chosen = {
        row: tuple(shlex.split(options)) for row, options in rows.items() if not only or row.startswith(tuple(only))
    }
    return [Recipe(row, options, seed) for seed in seeds for row, options in chosen.items()]


@dataclass(frozen=True)
class RecipeStudy:
    """Data that all recipes are trained and measured on, and how.

    Attributes:
        data: Data set.
        category: Category of the data set.
        out: Folder for `runs`, `figures`, the shared feature store and the table.
        device: Device of the training, "cpu" or "cuda".
        jobs: Trainings at the same time; 1 trains in this process.
    """

    data: Path
    category: str
    out: Path
    device: str = "cpu"
    jobs: int = 1

    def measure(self, recipes: Sequence[Recipe], reporter: Reporter) -> list[dict[str, Any]]:
        """Train and evaluate every recipe and return the figures of those that succeeded.

        A training that fails is reported and left out; the next call tries again.

        Args:
            recipes: What to train.
            reporter: Receiver of one line per training.
        """
        machine, started = describe_machine(), time.monotonic()
        waiting = [recipe for recipe in recipes if self._measured(recipe) is None]
        for number, (recipe, error) in enumerate(in_processes(self.train, waiting, self.jobs)):
            ended = f"{time.monotonic() - started:.0f} s" if error is None else f"failed: {error}"
            reporter.say(f"{number + 1} of {len(waiting)}: {recipe.name}, {ended}")
            self._write(recipes, machine)
        return self._write(recipes, machine)

    def train(self, recipe: Recipe) -> None:
        """Train a recipe and write its figures; an interrupted training resumes."""
        from cmdiad_train.cli.train import cli
        from cmdiad_train.runs.run import load_run

        run, started = self.out / "runs" / recipe.name, time.monotonic()
        data = (str(self.data), "--category", self.category, "--seed", str(recipe.seed), *recipe.options)
        place = ("--device", self.device, "--cache-dir", str(self.out / "features"), "--out", str(run), "--no-test")
        cli.main([*data, *place], standalone_mode=False)
        seconds = time.monotonic() - started
        figures = figures_of(load_run(run), self.data, self.category, self.device)
        described = {"row": recipe.row, "seed": recipe.seed, **self._asked(recipe)}
        self._figures(recipe).parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._figures(recipe), {**described, **figures, "seconds": seconds, "device": name_of_device(self.device)}
        )

    def _write(self, recipes: Sequence[Recipe], machine: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write `recipes.json` and `recipes.md` with what is measured so far, and return the figures."""
        rows = [row for recipe in recipes if (row := self._measured(recipe)) is not None]
        write_json(self.out / "recipes.json", {"category": self.category, "machine": machine, "rows": rows})
        with atomic_write(self.out / "recipes.md") as temporary:
            temporary.write_text(markdown(rows), encoding="utf-8")
        return rows

    def _asked(self, recipe: Recipe) -> dict[str, str]:
        """Return what figures depend on, apart from the seed."""
        return {"data": str(self.data), "category": self.category, "options": shlex.join(recipe.options)}

    def _measured(self, recipe: Recipe) -> dict[str, Any] | None:
        """Return the figures of a recipe, or None if there are none with these options and data."""
        file = self._figures(recipe)
        row = read_json(file) if file.exists() else {}
        return row if row and all(row[name] == value for name, value in self._asked(recipe).items()) else None

    def _figures(self, recipe: Recipe) -> Path:
        return self.out / "figures" / f"{recipe.name}.json"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as a table: means over the seeds, and the range of image AUROC, rejected and missed."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["row"], []).append(row)
    defects = sorted(rows[0]["image_auroc_by_defect"]) if rows else []
    titles = ["row", "view", "seeds", "image AUROC", "pixel AUROC", "AUPRO@30", "AUPRO@1", " / ".join(defects)]
    titles += ["rejected", "missed", "training s"]
    lines = [titles, ["---"] * len(titles)]
    for name, seeds in groups.items():
        aurocs, good, samples = [row["image_auroc"] for row in seeds], seeds[0]["good"], seeds[0]["samples"]
        figures = [f"{mean(row[figure] for row in seeds):.3f}" for figure in FIGURES]
        figures[0] += f" ({min(aurocs):.3f}–{max(aurocs):.3f})"
        by_defect = " / ".join(f"{mean(row['image_auroc_by_defect'][d] for row in seeds):.2f}" for d in defects)
        rejected, missed = (_counts([row[key] for row in seeds]) for key in ("rejected", "missed"))
        verdicts = [f"{rejected} of {good}", f"{missed} of {samples - good}"]
        seconds = f"{mean(row['seconds'] for row in seeds):.0f}"
        lines.append([name, seeds[0]["view"], str(len(seeds)), *figures, by_defect, *verdicts, seconds])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _counts(counts: Sequence[int]) -> str:
    """Return the mean of counts, and their range if they differ."""
    spread = f" ({min(counts)}–{max(counts)})" if min(counts) != max(counts) else ""
    return f"{mean(counts):.1f}{spread}"
