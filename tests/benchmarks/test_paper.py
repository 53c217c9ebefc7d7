"""`cmdiad-bench paper`: a table with published figures next to measured ones, which resumes and names failures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cmdiad_bench.cli import cli
from cmdiad_bench.paper import rows as module
from cmdiad_bench.paper.published import CLASSES, PUBLISHED
from cmdiad_bench.paper.rows import FIGURES
from cmdiad_bench.paper.table import as_markdown, as_text, make_table
from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.registry import family_options
from helpers import SIZE, Ended, assert_refused, command

TINY = {
    "rgb-backbone": "test_vit",
    "rgb-weights": "seeded",
    "xyz-weights": "seeded",
    "xyz-groups": 64,
    "xyz-group-size": 16,
    "xyz-width": 24,
    "xyz-depth": 2,
    "xyz-heads": 3,
    "xyz-grid": 14,
    "size": SIZE,
    "epochs": 1,
    "batch": 2,
}
SETTINGS = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]


def paper(data: Path, out: Path, *options: object) -> Ended:
    return command(cli, "paper", data, "--out", out, "--device", "cpu", *SETTINGS, *options)


def test_a_table_is_measured_once_and_again_after_a_change(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, chosen = tmp_path / "paper", ("--row", "rgb", "--row", "xyz-f2f")
    ended = paper(own_data, out, *chosen)
    assert ended.code == 0, ended.err
    table = json.loads((out / "paper.json").read_text())
    first, second = table["rows"]
    assert (first["row"], second["row"]) == ("rgb", "xyz-f2f")
    assert first["published"] == {"image_auroc": 0.851, "pixel_auroc": None, "aupro_30": None}
    assert all(0 <= value <= 1 for row in table["rows"] for value in row["measured"].values())
    assert table["departures"]["epochs"] == "1"
    assert "Do not compare the columns" in ended.out and "xyz-weights seeded" in ended.out
    assert (out / "paper.md").read_text().startswith("| row | image AUROC, published | image AUROC, measured |")

    def fit(*_: object) -> None:
        raise RunError("training", found="a second one", action="none")

    monkeypatch.setattr(module, "fit", fit)
    assert paper(own_data, out, *chosen).out == ended.out
    assert len(list((out / "runs").glob("rgb-gear-*"))) == 1
    refused = paper(own_data, out, *chosen, "--set", "epochs=2")
    assert_refused(refused, 6, out, "rgb, gear with another recipe", "epochs 2 instead of 1", "paper-2")
    assert len(list((out / "runs").iterdir())) == 2
    os.utime(next((own_data / "gear/train/good/rgb").iterdir()), ns=(0, 0))
    again = paper(own_data, out, "--row", "rgb")
    assert again.code == 7 and "Failed: rgb, gear: training: found a second one." in again.out
    assert not list((out / "runs").glob("rgb-gear-*")), "the outdated run is removed"


def test_a_failed_row_is_named_and_tried_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    ended = command(cli, "paper", data, "--row", "xyz-f2f", "--out", tmp_path / "paper")
    assert ended.code == 7
    line = "Failed: xyz-f2f, gear: --paper xyz-f2f: found no weights of Point-MAE on this machine."
    assert line in ended.out
    assert f"- {line}" in (tmp_path / "paper/paper.md").read_text()
    assert not (tmp_path / "paper/results").exists()


def test_an_interruption_leaves_the_table_of_what_is_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that an earlier call finished are in the table before the first training, and the others are missing."""
    out, trained = tmp_path / "paper", iter([0.75, None, 0.5, None])
    other = "gear: not measured yet. Repeat the command to continue."

    def fit(*_: object) -> SimpleNamespace:
        value = next(trained)
        if value is None:
            raise KeyboardInterrupt
        return SimpleNamespace(metrics={"samples": 4, **dict.fromkeys(FIGURES, value)})

    def interrupted(*rows: str) -> tuple[dict[str, float], str]:
        assert paper(data, out, *(part for row in rows for part in ("--row", row))).code == 130
        table = json.loads((out / "paper.json").read_text())
        return {row["row"]: row["measured"]["aupro_30"] for row in table["rows"]}, (out / "paper.md").read_text()

    monkeypatch.setattr(module, "fit", fit)
    measured, text = interrupted("rgb", "xyz")
    assert measured == {"rgb": 0.75, "xyz": None}
    assert f"- Missing: xyz, {other}" in text and "Missing: rgb" not in text
    measured, text = interrupted("xyz", "xyz-f2f", "rgb")
    assert measured == {"xyz": 0.5, "xyz-f2f": None, "rgb": 0.75}
    assert f"- Missing: xyz-f2f, {other}" in text and text.count("Missing") == 1


@pytest.mark.parametrize("row", ["rgb", "xyz"])
def test_data_without_clouds_are_named_as_the_cause(own_data: Path, tmp_path: Path, row: str) -> None:
    """A masked image needs a cloud, too; the test split is not blamed for having no complete sample."""
    for folder in list((own_data / "gear").rglob("xyz")):
        shutil.rmtree(folder)
    ended = paper(own_data, tmp_path / "paper", "--row", row)
    assert ended.code == 7
    assert f"Failed: {row}, gear: {own_data / 'gear'}: found training samples with rgb alone." in ended.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--row", "f2f"), "'f2f' is not one of xyz, xyz-f2f"),
        (("--set", "epochs"), "is not NAME=VALUE"),
        (("--set", "epoch=1"), "Error: Invalid value for '--set': epoch=1: No such option"),
        (("--set", "epochs=x"), "Error: Invalid value for '--set': epochs=x: 'x' is not a valid"),
    ],
)
def test_wrong_command_lines(data: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    ended = paper(data, tmp_path / "paper", *options)
    assert ended.code == 2
    assert words in " ".join(ended.err.split())
    assert "cmdiad-train" not in ended.err


def test_an_unforeseen_error_is_the_failure_of_one_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([ZeroDivisionError("of a program"), RunError("training", found="no error of a program", action="No")])

    def fit(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr(module, "fit", fit)
    ended = paper(data, tmp_path / "paper", "--row", "rgb", "--row", "xyz-f2f")
    file = tmp_path / "paper/failures/rgb-gear.txt"
    assert ended.code == 7
    assert (
        f"Failed: rgb, gear: Unforeseen error: ZeroDivisionError: of a program. The traceback is in {file}."
        in ended.out
    )
    assert "Failed: xyz-f2f, gear: training: found no error of a program" in ended.out
    assert file.read_text().startswith("Traceback")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_does_not_exist_is_one_error(data: Path, tmp_path: Path) -> None:
    ended = command(cli, "paper", data, "--out", tmp_path / "paper", "--device", "cuda", *SETTINGS)
    assert_refused(ended, 7, "--device cuda")
    assert not (tmp_path / "paper").exists() and "failed" not in ended.err


def test_unusable_output(own_data: Path, tmp_path: Path) -> None:
    inside, file = own_data / "gear/train/paper", tmp_path / "file"
    assert_refused(paper(own_data, inside), 6, inside, "inside the data set", "--out")
    assert not inside.exists()
    file.write_text("text")
    assert_refused(paper(own_data, file), 6, file, "a writable folder")


def test_unknown_data(tmp_path: Path) -> None:
    assert_refused(paper(tmp_path / "no-data", tmp_path / "paper"), 7, "no-data")


def test_every_row_of_the_option_is_published() -> None:
    [option] = [option for option in family_options("bank") if option.name == "paper"]
    assert list(PUBLISHED) == list(option.type.choices)  # type: ignore[attr-defined]


def test_means_are_those_of_rounded_values_over_all_classes() -> None:
    values: dict[str, object] = {"image_auroc": 0.91249, "pixel_auroc": None, "aupro_30": 0.5}
    results = {"xyz-f2f": {name: dict(values) for name in CLASSES}}
    table = make_table(results, {})
    [row] = table["rows"]
    assert row["measured"] == {"image_auroc": 0.912, "pixel_auroc": None, "aupro_30": 0.5}
    assert not any("Do not compare" in note for note in table["notes"])
    assert "0.938" in as_text(table) and "| 3D alone, F2F (xyz-f2f) | 0.938 | 0.912 | – | – |" in as_markdown(table)
    results["xyz-f2f"]["foam"] = {"failed": "no disk"}
    assert make_table(results, {})["rows"][0]["measured"]["image_auroc"] is None
