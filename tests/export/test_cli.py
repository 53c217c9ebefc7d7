"""The command `cmdiad-export`."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import data_trees as trees
from cmdiad_bench.cli import cli as bench
from cmdiad_export import bundle_writer
from cmdiad_export import cli as export_cli
from cmdiad_export.cli import cli
from cmdiad_export.options import ExportOptions
from cmdiad_export.planning import planner
from cmdiad_export.planning.planner import Planned
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.engines import PRECISIONS
from cmdiad_runtime.support.records import RecordError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.family import TrainedDetector
from cmdiad_train.fit.fit import fit
from cmdiad_train.runs import run as run_module
from cmdiad_train.runs.record import read_record, write_record
from cmdiad_train.runs.run import load_run
from helpers import assert_refused, command, flip_byte, python, tiny_recipe, truncate

Cached = Callable[..., Path]


@pytest.fixture
def run(trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, as the only one under ./runs."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained("rgb"), tmp_path / "runs" / "gear-rgb-none"))


def test_newest_finished_run_is_taken_and_named(run: Path, trained: Cached) -> None:
    older = shutil.copytree(trained("xyz"), run.parent / "z-older")
    unfinished = shutil.copytree(trained("rgb"), run.parent / "z-unfinished")
    record = json.loads((unfinished / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps({**record, "status": "fitting"}))
    set_age(older, 100)
    set_age(run, 50)
    ended = command(cli)
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[0] == "run: runs/gear-rgb-none (the newest)"
    assert ended.out == "bundle: bundles/gear-rgb-none-fp32.cmdiad\n"
    assert "fp32 graph" in ended.err
    assert Bundle.open("bundles/gear-rgb-none-fp32.cmdiad").preprocessing.modality == "rgb"
    following = next(line for line in ended.err.splitlines() if line.startswith("next: "))
    folder = json.loads((run / "run.json").read_text())["data"]["folder"]
    assert following == f"next: cmdiad-run bundles/gear-rgb-none-fp32.cmdiad {folder}/test --output inspected"


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (("OK/1.png", "NOK/2.png"), "NOK"),
        (("OK/rgb/1.png", "NOK/scratch/rgb/2.png"), "NOK/scratch"),
        (("OK/1.png",), "OK"),
        (("1.png",), "."),
        ((), None),
    ],
)
def test_the_next_command_names_a_folder_that_exists(
    trained: Cached, tmp_path: Path, files: tuple[str, ...], folder: str | None
) -> None:
    for name in files:
        trees.picture(tmp_path / "photos" / name, len(name))
    record = read_record(trained("rgb"))
    own = replace(record, data=replace(record.data, folder=str(tmp_path / "photos")))
    samples = export_cli._samples_of(own)
    assert samples == (None if folder is None else tmp_path / "photos" / folder)


def test_a_placeholder_claims_no_folder_for_results(
    run: Path, exported: Cached, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(run)
    write_record(run, replace(record, data=replace(record.data, folder="/no/such/folder")))
    export_cli._report_threshold(run, exported("rgb"))
    following = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("next: "))
    assert following.endswith(" PICTURES  # for PICTURES put a folder of new pictures")
    assert "--output" not in following


def test_the_printed_report_works_for_a_category_that_is_a_link_of_another_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("links").mkdir()
    Path("links/parts").symlink_to(data / "gear")
    fit(Path("links"), "parts", tiny_recipe(), Path("runs/parts"))
    ended = command(cli, "runs/parts", "--out", "parts.cmdiad")
    assert ended.code == 0, ended.err
    printed = next(line for line in ended.err.splitlines() if "cmdiad-bench report" in line)
    report = command(bench, *shlex.split(printed[printed.index("report ") :]))
    assert report.code == 0, report.err
    assert Path("report/report.html").exists()
    assert export_cli._report_of_all([Path("runs/parts")], Path("bundles")) == ""


def test_the_report_of_all_is_printed_for_a_data_set_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with OK and NOK directly in it is a category, but the folder around it is no data set."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "gear/train/good/rgb", "plates/OK")
    shutil.copytree(data / "gear/test/hole/rgb", "plates/NOK")
    fit(Path("plates"), None, tiny_recipe(), Path("runs/plates"))
    ended = command(cli, "--category", "all")
    assert ended.code == 0, ended.err
    printed = [line for line in ended.err.splitlines() if "cmdiad-bench report" in line]
    assert len(printed) == 1, "the command of the one bundle"
    report = command(bench, *shlex.split(printed[0][printed[0].index("report ") :]))
    assert report.code == 0, report.err
    assert Path("report/report.html").exists()
    (tmp_path / "loose.png").write_bytes(b"")
    assert export_cli._report_of_all([Path("runs/plates")], Path("bundles")) == "", "found among other pictures"
    shutil.rmtree(tmp_path / "plates")
    assert export_cli._report_of_all([Path("runs/plates")], Path("bundles")) == "", "gone"
    record = read_record(Path("runs/plates"))
    of_gear = replace(record.data, folder=str(data / "gear"), category="gear")
    write_record(Path("runs/plates"), replace(record, data=of_gear))
    expected = f"cmdiad-bench report {data} bundles --category all --out reports"
    assert export_cli._report_of_all([Path("runs/plates")], Path("bundles")) == expected


def set_age(run: Path, seconds: int) -> None:
    import os

    stamp = 1_700_000_000 - seconds
    os.utime(run / "run.json", (stamp, stamp))


def test_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command(cli), 7, "No finished run found in the folder runs", "cmdiad-train")


def test_missing_run(tmp_path: Path) -> None:
    assert_refused(command(cli, tmp_path / "nowhere", "--out", tmp_path / "b"), 7, tmp_path / "nowhere" / "run.json")


def test_unfinished_run(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "fitting"}))
    assert_refused(command(cli, run), 7, run, "an unfinished training", "cmdiad-train")


def test_run_of_a_newer_format(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "format_version": 99}))
    assert_refused(command(cli, run), 7, run / "run.json", "99", "update cmdiad")


FILES = ["run.json", "calibration.json", "banks.safetensors", "extractor-rgb.safetensors", "golden.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_damaged_run_names_the_file(run: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(run / name)
    assert_refused(command(cli, run), 7, run / name, "a file of a run written by cmdiad-train")
    assert not list(Path("bundles").glob("*"))


def test_run_without_a_field(run: Path) -> None:
    (run / "calibration.json").write_text("{}")
    assert_refused(command(cli, run), 7, run / "calibration.json", "Calibration")
    record = json.loads((run / "run.json").read_text())
    del record["recipe"]
    (run / "run.json").write_text(json.dumps(record))
    assert_refused(command(cli, run), 7, run / "run.json", "recipe")
    (run / "run.json").write_text("[]")
    assert_refused(command(cli, run), 7, run / "run.json")


def test_flipped_header_byte_of_a_run(run: Path) -> None:
    flip_byte(run / "banks.safetensors", 12)
    assert_refused(command(cli, run), 7, run)


def test_existing_bundle_is_kept(run: Path, own_bundle: Path) -> None:
    before = (own_bundle / "manifest.json").read_bytes()
    assert_refused(command(cli, run, "--out", own_bundle), 6, own_bundle, "a folder that is not empty")
    assert (own_bundle / "manifest.json").read_bytes() == before


def test_output_below_a_file(run: Path) -> None:
    (run.parent / "file").write_text("mine")
    assert_refused(command(cli, run, "--out", run.parent / "file" / "b.cmdiad"), 6, "file/b.cmdiad")


def test_bundles_folder_that_is_a_file(run: Path) -> None:
    Path("bundles").write_text("mine")
    ended = command(cli, run)
    assert ended.code == 6
    assert "bundles" in ended.error


def test_tensorrt_is_refused(run: Path) -> None:
    assert_refused(command(cli, run, "--target", "tensorrt"), 5, "--target tensorrt", "--target onnx")
    assert not Path("bundles").exists()


def test_auto_target_follows_what_is_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[str] = []
    monkeypatch.setattr(bundle_writer, "write_bundle", lambda run, out, options, _: targets.append(options.target))
    monkeypatch.setattr(export_cli, "_report_threshold", lambda run, out: None)
    for found in (None, object()):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        assert command(cli, run, "--target", "auto").code == 0
    for target in ("onnx", "rtx"):
        assert command(cli, run, "--target", target).code == 0
    assert targets == ["onnx", "rtx", "onnx", "rtx"]


def test_refused_certificate(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdiad_runtime.bundle import certificate
    from cmdiad_runtime.bundle.certificate import Tolerance

    monkeypatch.setitem(certificate.TOLERANCES, "fp32", Tolerance(score=-1, map=-1))
    assert_refused(command(cli, run), 8, run, "an fp32 graph")
    assert list(Path("bundles").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "int4"),
        ("--search-mb", "0"),
        ("--search-mb", "nan"),
        ("--budget-ms", "inf"),
        ("--budget-mb", "nan"),
        ("--search", "tree"),
        ("--target", "openvino"),
        ("--numbr", "1"),
        ("a", "b"),
    ],
)
def test_wrong_command_line(arguments: tuple[str, ...]) -> None:
    ended = command(cli, *arguments)
    assert ended.code == 2
    assert "Usage:" in ended.err


def test_options_reach_the_export(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[ExportOptions] = []
    monkeypatch.setattr(bundle_writer, "write_bundle", lambda run, out, options, _: received.append(options))
    monkeypatch.setattr(export_cli, "_report_threshold", lambda run, out: None)
    assert command(cli, run, "--engine", "int8", "--search", "fast", "--search-mb", "64").code == 0
    assert command(cli, run, "--precision", "fp16", "--target", "rtx").code == 0
    assert command(cli, run).code == 0
    assert received == [
        ExportOptions(precision="int8", search="fast", scratch_megabytes=64),
        ExportOptions(precision="fp16", target="rtx"),
        ExportOptions(precision="fp32", search="exact", scratch_megabytes=None, target="onnx"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "fp4"),
        ("precision", None),
        ("search", ["exact"]),
        ("target", "tensorrt"),
        ("scratch_megabytes", -1),
        ("scratch_megabytes", "64"),
        ("scratch_megabytes", float("nan")),
    ],
)
def test_impossible_options_are_refused(field: str, value: Any) -> None:
    with pytest.raises(RecordError, match=f"ExportOptions.{field}"):
        ExportOptions(**{field: value})


@pytest.fixture
def without_banks(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a family without memory banks: the smallest detector that fits the seam."""
    load = run_module.load_run

    def load_other(path: Path) -> object:
        loaded = load(path)
        return replace(loaded, detector=Brightness(loaded.detector.input_names))

    monkeypatch.setattr(run_module, "load_run", load_other)
    return run


class Brightness(TrainedDetector):
    """The brightness of each pixel as the map, the largest as the score."""

    def __init__(self, input_names: list[str]) -> None:
        super().__init__()
        self.input_names = input_names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        anomaly_map = inputs[0][0].float().mean(2) / 255
        return anomaly_map.max().reshape(1), anomaly_map


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_family_is_exported_and_certified(without_banks: Path, precision: str) -> None:
    ended = command(cli, without_banks, "--precision", precision, "--out", "other.cmdiad")
    assert ended.code == 0, ended.err
    bundle = Bundle.open("other.cmdiad")
    assert bundle.precision == precision
    assert {"banks", "search"}.isdisjoint(bundle.manifest["graph"])
    assert "search" not in bundle.manifest["certificate"]
    assert all(comparison["passed"] for comparison in bundle.manifest["certificate"]["comparisons"])


@pytest.mark.parametrize(
    "options",
    [("--search", "fast"), ("--search", "proven"), ("--search-mb", "64"), ("--plan",), ("--budget-ms", "5")],
)
def test_options_for_banks_are_refused_for_another_family(without_banks: Path, options: tuple[str, ...]) -> None:
    assert_refused(command(cli, without_banks, *options), 5, "without memory banks", "export without --")
    assert not list(Path("bundles").glob("*"))


def test_a_refused_budget_is_named(without_banks: Path) -> None:
    assert_refused(command(cli, without_banks, "--budget-ms", "5"), 5, "export without --plan or a budget")


def test_proven_search_is_for_processors(run: Path) -> None:
    for options, found in ((("--engine", "fp16"), "--precision fp16"), (("--target", "rtx"), "TensorRT-RTX")):
        assert_refused(command(cli, run, "--search", "proven", *options), 5, "--search proven", found, "--search exact")
    assert not Path("bundles").exists()
    assert command(cli, run, "--search", "proven").code == 0
    manifest = Bundle.open("bundles/gear-rgb-none-fp32.cmdiad").manifest
    assert manifest["certificate"]["search"]["asked"] == "proven"


def test_fast_search(run: Path) -> None:
    ended = command(cli, run, "--search", "fast")
    assert ended.code == 0, ended.err
    assert "against brute force in float64 on 3 good and 3 tampered samples" in ended.err
    manifest = Bundle.open("bundles/gear-rgb-none-fp32.cmdiad").manifest
    assert manifest["certificate"]["search"]["asked"] == "fast"


def test_run_without_held_out_samples(run: Path) -> None:
    (run / "held_out.safetensors").unlink()
    assert_refused(command(cli, run, "--search", "fast"), 7, run / "held_out.safetensors", "train again")
    assert list(Path("bundles").iterdir()) == []
    assert command(cli, run).code == 0


def test_a_search_that_cannot_fit_is_refused(run: Path) -> None:
    ended = command(cli, run, "--search-mb", "1")
    assert_refused(ended, 5, "--search-mb", "found 1.", "Expected at least", "coarser grid")
    assert list(Path("bundles").iterdir()) == []


def test_run_without_calibration_samples(run: Path) -> None:
    (run / "quantisation.safetensors").unlink()
    assert_refused(command(cli, run, "--engine", "int8"), 7, run / "quantisation.safetensors", "train again")
    assert list(Path("bundles").iterdir()) == []


@pytest.fixture
def quick_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bank, in fp32."""
    monkeypatch.setattr(planner, "REDUCED", ())
    monkeypatch.setattr(planner, "with_smaller_banks", lambda *_: {})


def test_plan_is_a_table_a_file_and_a_picture(run: Path, quick_plan: None) -> None:
    ended = command(cli, run, "--plan")
    assert ended.code == 0, ended.err
    assert "| bank | rows | search | precision | p50 ms |" in ended.out
    assert "| 20% | " in ended.out
    assert ended.out.splitlines()[-1] == f"plan: {run / 'plan.json'}, {run / 'plan.png'}"
    points = json.loads((run / "plan.json").read_text(encoding="utf-8"))["points"]
    assert points[0]["precision"] == "fp32"
    assert (run / "plan.png").stat().st_size > 1000
    assert not Path("bundles").exists()


@pytest.fixture(scope="module")
def earlier_plan(trained: Cached, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A plan of one graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "REDUCED", ())
        patch.setattr(planner, "with_smaller_banks", lambda *_: {})
        return planner.make_plan(load_run(trained("rgb")), tmp_path_factory.mktemp("plan"), SILENT)


@pytest.fixture
def planned(earlier_plan: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands take `earlier_plan` instead of measuring a plan of their own."""
    monkeypatch.setattr(planner, "make_plan", lambda *_, **__: earlier_plan)


def test_plan_elsewhere(run: Path, planned: None, tmp_path: Path) -> None:
    assert command(cli, run, "--plan", "--out", tmp_path / "plans" / "one").code == 0
    assert sorted(p.name for p in (tmp_path / "plans" / "one").iterdir()) == ["plan.json", "plan.png"]
    assert not (run / "plan.json").exists()
    (tmp_path / "file").write_text("mine")
    assert_refused(command(cli, run, "--plan", "--out", tmp_path / "file"), 6, tmp_path / "file")


def test_bundle_within_a_budget(run: Path, planned: None) -> None:
    ended = command(cli, run, "--budget-ms", "100000", "--budget-mb", "100000")
    assert ended.code == 0, ended.err
    assert ended.out == "bundle: bundles/gear-rgb-none-budget.cmdiad\n"
    assert "| bank | rows |" in ended.err
    assert "for 100000 ms and 100000 MB: 20% bank" in ended.err
    assert Bundle.open("bundles/gear-rgb-none-budget.cmdiad").manifest["plan"]["chosen"]["bank"] == 0.2


def test_budget_that_cannot_be_met(run: Path, planned: None) -> None:
    ended = command(cli, run, "--budget-mb", "1")
    assert_refused(ended, 5, "a budget of 1 MB", "at the nearest of", "20% bank", "a coarser grid")
    assert list(Path("bundles").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--plan", "--budget-ms", "5"), "makes its own plan"),
        (("--plan", "--engine", "fp16"), "--precision"),
        (("--plan", "--target", "rtx"), "--target"),
        (("--budget-mb", "5", "--search", "fast"), "--search"),
        (("--budget-ms", "0"), "budget-ms"),
    ],
)
def test_options_that_a_plan_decides(run: Path, arguments: tuple[str, ...], word: str) -> None:
    ended = command(cli, run, *arguments)
    assert ended.code == 2
    assert word in ended.err
    assert not (run / "plan.json").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cmdiad-export', '--help']\n"
        "from cmdiad_export.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'timm') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"
