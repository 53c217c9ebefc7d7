"""`cmdiad-bench methods --seed`: one training for each seed, means with range, and intervals where they are honest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_bench import kept_results
from cmdiad_bench.cli import cli
from cmdiad_bench.methods import measure
from cmdiad_bench.methods.method import Choice, Method, methods_of
from cmdiad_bench.methods.page import render
from cmdiad_bench.methods.seeds import over_seeds
from cmdiad_bench.methods.table import as_markdown, comparison, tables_of
from cmdiad_runtime.errors import RunError
from cmdiad_train.evaluation.bootstrap import image_auroc_interval
from helpers import Ended, assert_refused, command

FIGURES = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_10", "aupro_5", "aupro_1")
SAMPLES = [(f"test/{kind}/{number:03}", kind) for kind in ("cut", "good") for number in range(4)]


def result(auroc: float = 0.9, **changes: Any) -> dict[str, Any]:
    return {
        "samples": 8,
        "good": 4,
        "false_rejects": 1,
        "missed_defects": 2,
        **dict.fromkeys(FIGURES, auroc),
        "image_auroc_by_defect": {"cut": auroc},
        "intervals": {name: [0.1, 1.0] for name in FIGURES},
        "training_seconds": 10.0,
        "latency_ms": {"p50": 20.0, "p99": 30.0},
        "peak_resident_mb": 300.0,
        "graph_mb": 7.0,
        **changes,
    }


def scores(values: list[float]) -> list[list[Any]]:
    return [[name, kind, value] for (name, kind), value in zip(SAMPLES, values, strict=True)]


@pytest.fixture(scope="module")
def method(data: Path) -> Method:
    (one,) = methods_of(data, Choice(("patchcore",), ("rgb",), {"rgb-backbone": "test_resnet"}, seeds=(3, 0, 3)))
    return one


def rows(method: Method, by_seed: dict[int, Any]) -> dict[str, str]:
    record = json.loads(json.dumps(comparison([method], {method.name: {"gear": by_seed}}, {})))
    (row,) = tables_of(record)[0].rows
    return row


def test_each_seed_is_a_recipe(method: Method, data: Path) -> None:
    assert method.seeds == (3, 0), "a seed that is named twice is trained once"
    assert {seed: recipe.seed for seed, recipe in method.recipes.items()} == {3: 3, 0: 0}
    assert {replace(recipe, seed=0) for recipe in method.recipes.values()} == {method.recipes[0]}
    (single,) = methods_of(data, Choice(("patchcore",), ("rgb",), {"rgb-backbone": "test_resnet", "seed": "5"}))
    assert list(single.recipes) == [5]


def test_one_seed_is_its_result() -> None:
    assert over_seeds({4: result(0.8)}) == result(0.8)


def test_several_seeds_are_means_with_ranges() -> None:
    summary = over_seeds(
        {
            0: result(0.5, false_rejects=0, latency_ms={"p50": 10.0, "p99": 20.0}),
            1: result(0.75, missed_defects=4),
            2: result(1.0, graph_mb=10.0),
        }
    )
    assert (summary["image_auroc"], summary["ranges"]["image_auroc"]) == (0.75, [0.5, 1.0])
    assert summary["false_rejects"] == pytest.approx(2 / 3) and summary["ranges"]["false_rejects"] == [0, 1]
    assert summary["missed_defects"] == pytest.approx(8 / 3)
    assert summary["image_auroc_by_defect"] == {"cut": 0.75}
    assert summary["latency_ms"] == {"p50": pytest.approx(50 / 3), "p99": pytest.approx(80 / 3)}
    assert summary["graph_mb"] == 8.0
    assert set(summary["intervals"].values()) == {None}, "no scores are known"
    assert [one["image_auroc"] for one in summary["seeds"].values()] == [0.5, 0.75, 1.0]
    assert list(summary["seeds"]) == ["0", "1", "2"]


def test_a_figure_that_one_seed_lacks_has_no_mean() -> None:
    summary = over_seeds({0: result(aupro_1=None, training_seconds=None), 1: result(latency_ms=None)})
    assert summary["aupro_1"] is None and summary["ranges"]["aupro_1"] is None
    assert summary["training_seconds"] is None and summary["latency_ms"] is None
    assert summary["aupro_30"] == 0.9


def test_one_failure_is_a_failure_of_the_method(method: Method) -> None:
    row = rows(method, {3: result(), 0: {"failed": "no disk"}})
    assert row["image AUROC"] == "failed"
    record = comparison([method], {method.name: {"gear": {3: result(), 0: {"failed": "no disk"}}}}, {})
    assert "patchcore-rgb, gear: failed. Seed 0: no disk" in as_markdown(record)
    assert record["methods"][0]["categories"]["gear"]["seeds"]["3"]["image_auroc"] == 0.9
    lacking = {"lacks": ["xyz"]}
    assert rows(method, {3: lacking, 0: lacking})["image AUROC"] == "no xyz in the data"


def test_a_missing_seed_is_named_and_the_others_have_means(method: Method) -> None:
    missing = {"missing": True}
    record = comparison(
        [method], {method.name: {"gear": {3: missing, 0: result(0.5)}, "nut": {3: missing, 0: missing}}}, {}
    )
    mean, gear, nut, *_ = tables_of(record)
    assert gear.rows[0]["method"] == "patchcore-rgb (1 of 2 seeds)"
    assert gear.rows[0]["image AUROC"] == "0.500 (0.500 to 0.500)" and gear.rows[0]["missed"] == "2.0 of 4 (2 to 2)"
    assert (nut.rows[0]["method"], nut.rows[0]["image AUROC"]) == ("patchcore-rgb", "missing")
    assert mean.rows[0]["image AUROC"] == "–", "a mean over other categories or seeds cannot be compared"
    assert "- Missing: patchcore-rgb, gear (seed 3), nut: not measured yet." in as_markdown(record)
    refused = {3: missing, 0: result(not_exportable="an operator")}
    assert rows(method, refused)["exported"] == "no"
    failed = comparison([method], {method.name: {"gear": {3: missing, 0: {"failed": "no disk"}}}}, {})
    assert tables_of(failed)[0].rows[0]["image AUROC"] == "failed"
    assert "- Missing: patchcore-rgb, gear (seed 3): not measured yet." in as_markdown(failed)


def test_the_interval_is_that_of_the_mean_over_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    first = [float(value) for value in rng.normal(size=8) + np.repeat([1, 0], 4)]
    defective = [kind != "good" for _, kind in SAMPLES]
    alone = image_auroc_interval(np.array(defective), np.array(first))
    assert alone is not None and alone[0] < alone[1]
    twice = over_seeds({0: result(scores=scores(first)), 1: result(scores=scores(first))})
    assert twice["intervals"]["image_auroc"] == pytest.approx(list(alone)), "equal trainings have the interval of one"
    perfect = [1.0] * 4 + [0.0] * 4
    mixed = over_seeds({0: result(scores=scores(first)), 1: result(scores=scores(perfect))})
    expected = [(end + 1) / 2 for end in alone]
    assert mixed["intervals"]["image_auroc"] == pytest.approx(expected), "the mean with an AUROC of 1 in every draw"
    other = scores(perfect)
    other[0][0] = "test/cut/004"
    assert over_seeds({0: result(scores=scores(first)), 1: result(scores=other)})["intervals"]["image_auroc"] is None
    assert over_seeds({0: result(scores=scores(first)), 1: result()})["intervals"]["image_auroc"] is None


def test_rows_of_several_seeds(method: Method) -> None:
    perfect = scores([1.0] * 4 + [0.0] * 4)
    row = rows(method, {3: result(0.9, scores=perfect, missed_defects=1), 0: result(1.0, scores=perfect)})
    assert row["image AUROC"] == "0.950 (0.900 to 1.000) [1.000, 1.000]"
    assert row["pixel AUROC"] == "0.950 (0.900 to 1.000)"
    assert (row["missed"], row["rejected"]) == ("1.5 of 4 (1 to 2)", "1.0 of 4 (1 to 1)")
    assert row["exported"] == "yes"
    refused = result(not_exportable="an operator")
    assert rows(method, {3: result(), 0: refused})["exported"] == "1 of 2"
    assert rows(method, {3: refused, 0: refused})["exported"] == "no"


def test_a_narrow_column_of_the_page_breaks_before_ranges_and_intervals_alone(method: Method) -> None:
    perfect = scores([1.0] * 4 + [0.0] * 4)
    by_seed = {3: result(0.9, scores=perfect), 0: result(1.0, scores=perfect)}
    page = render(comparison([method], {method.name: {"gear": by_seed}}, {})).replace("\N{NO-BREAK SPACE}", "_")
    assert "<td>0.950 (0.900_to_1.000) [1.000,_1.000]</td>" in page and "<td>20_/_30</td>" in page


def test_means_over_categories_have_the_range_of_the_seeds(method: Method) -> None:
    results: dict[str, Any] = {"gear": {3: result(0.5), 0: result(0.7)}, "nut": {3: result(0.9), 0: result(0.7)}}
    mean = comparison([method], {method.name: results}, {})["methods"][0]["mean"]
    assert mean["image_auroc"] == pytest.approx(0.7)
    assert mean["ranges"]["image_auroc"] == pytest.approx([0.7, 0.7]), "of the means, not of the categories"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measure without a training; return the names of what was trained."""
    names: list[str] = []

    def measured(self: Any) -> dict[str, Any]:
        self.run.mkdir()
        names.append(self.run.name[:-13])
        return result(0.5 + self.method.recipe.seed / 10)

    monkeypatch.setattr(measure._Measurement, "_trained", measured)
    monkeypatch.setattr(measure._Measurement, "_exported", lambda self: {})
    return names


def compare(data: Path, out: Path, *options: object) -> tuple[dict[str, Any], str]:
    """Compare one method; return its record, and what the command said."""
    arguments = ("--family", "patchcore", "--modality", "rgb", "--set", "rgb-backbone=test_resnet", *options)
    ended = command(cli, "methods", data, "--out", out, *arguments)
    assert ended.code == 0, ended.err
    (method,) = json.loads((out / "methods.json").read_text())["methods"]
    return dict(method), ended.err


def test_every_seed_is_measured_once(data: Path, tmp_path: Path, trained: list[str]) -> None:
    compare(data, tmp_path, "--seed", 1)
    both, _ = compare(data, tmp_path, "--seed", 1, "--seed", 2)
    assert trained == ["patchcore-rgb-gear-seed1", "patchcore-rgb-gear-seed2"] and both["seeds"] == [1, 2]
    assert both["categories"]["gear"]["image_auroc"] == pytest.approx(0.65)
    assert compare(data, tmp_path, "--set", "seed=2")[0]["categories"]["gear"]["image_auroc"] == 0.7
    compare(data, tmp_path)
    assert trained[2:] == ["patchcore-rgb-gear-seed0"], "without --seed one training, with the seed 0"


def test_the_tables_have_the_kept_seeds_from_the_start_and_each_new_seed_at_once(
    data: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption of the training of seed 1, and one of seed 2 after that of seed 1."""
    arguments = ("--family", "patchcore", "--modality", "rgb", "--set", "rgb-backbone=test_resnet")
    compare(data, tmp_path, "--seed", 0)
    measured = measure._Measurement._trained

    def interrupted_by(seed: int, *options: object) -> tuple[str, str]:
        def training(self: Any) -> dict[str, Any]:
            if self.method.recipe.seed == seed:
                raise KeyboardInterrupt
            return measured(self)

        monkeypatch.setattr(measure._Measurement, "_trained", training)
        seeds = ("--seed", 0, "--seed", 1, "--seed", 2)
        assert command(cli, "methods", data, "--out", tmp_path, *arguments, *seeds, *options).code == 130
        (row,) = tables_of(json.loads((tmp_path / "methods.json").read_text()))[0].rows
        (line,) = (line for line in (tmp_path / "methods.md").read_text().splitlines() if "Missing" in line)
        return f"{row['method']}: {row['image AUROC']}", line.partition(":")[2].partition(":")[0].strip()

    start = "patchcore-rgb (1 of 3 seeds): 0.500 (0.500 to 0.500)"
    assert interrupted_by(1) == (start, "patchcore-rgb, gear (seeds 1, 2)")
    second = "patchcore-rgb (2 of 3 seeds): 0.550 (0.500 to 0.600)"
    assert interrupted_by(2) == (second, "patchcore-rgb, gear (seed 2)")
    assert interrupted_by(0, "--runs", 3) == ("patchcore-rgb: missing", "patchcore-rgb, gear"), "of 50 runs"
    assert trained == ["patchcore-rgb-gear-seed0", "patchcore-rgb-gear-seed1"]


def test_a_category_that_is_named_like_a_seed_has_its_own_results(
    data: Path, tmp_path: Path, trained: list[str]
) -> None:
    for name in ("gear", "gear-seed1", "gear-seed1-seed1"):
        shutil.copytree(data / "gear", tmp_path / "data" / name)
    options = ("--category", "all", "--seed", 1, "--seed", 0)
    for _ in range(2):
        compare(tmp_path / "data", tmp_path / "methods", *options)
    assert len(trained) == len({*trained}) == len(list((tmp_path / "methods/runs").iterdir())) == 6


def test_results_of_another_program_are_measured_again(
    data: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said = compare(data, tmp_path)
    assert "the kept result" not in said
    monkeypatch.setattr(kept_results, "program_digest", lambda: "0" * 64)
    _, said = compare(data, tmp_path)
    assert len(trained) == 2
    assert "the kept result is of another recipe, other data or another version of cmdiad" in said
    assert len(list((tmp_path / "runs").iterdir())) == 1, "the run of the other program is removed"
    compare(data, tmp_path)
    assert len(trained) == 2


def test_results_of_other_settings_or_data_are_not_replaced(data: Path, tmp_path: Path, trained: list[str]) -> None:
    out = tmp_path / "methods"
    compare(data, out, "--seed", 0, "--seed", 1)
    arguments = ("--family", "bank", "--family", "patchcore", "--modality", "rgb", "--set", "rgb-backbone=test_resnet")

    def refused(place: Path, *options: object) -> None:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        ended = command(cli, "methods", place, "--out", out, *arguments, *options)
        words = ["patchcore-rgb, gear with another recipe or other data", "methods-2"]
        words += [f"the data set {place.resolve()}/gear"] if place != data else []
        words += ["size 64 instead of 320"] if options else []
        assert_refused(ended, 6, out, *words)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    refused(data, "--set", "patchcore.size=64", "--seed", 1)
    shutil.copytree(data / "gear", tmp_path / "other/gear")
    refused(tmp_path / "other")
    assert len(trained) == 2, "no other method was trained either"
    compare(data, out, "--set", "coreset=0.1")
    assert len(trained) == 2, "the default of the option"
    next((out / "results").glob("*seed0.settings.json")).write_text("[]")
    assert_refused(command(cli, "methods", data, "--out", out, *arguments), 6, "their record cannot be read")


def test_other_settings_may_follow_a_failure_but_no_interruption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--family", "patchcore", "--modality", "rgb", "--set", "rgb-backbone=test_resnet")

    def ended_by(error: BaseException, size: int) -> Ended:
        def stopped(*_: object) -> None:
            raise error

        monkeypatch.setattr(measure, "fit", stopped)
        return command(cli, "methods", data, "--out", tmp_path / "methods", *arguments, "--set", f"size={size}")

    failure = RunError("training", found="too few patches", action="None")
    assert ended_by(failure, 64).code == ended_by(failure, 96).code == 7
    assert ended_by(KeyboardInterrupt(), 128).code == 130
    assert_refused(ended_by(failure, 160), 6, "size 160 instead of 128")
    assert ended_by(failure, 128).code == 7


def test_the_same_data_by_another_path_are_measured_once(
    data: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(data, tmp_path / "methods")
    monkeypatch.chdir(data)
    compare(Path(), tmp_path / "methods")
    monkeypatch.chdir(data.parent)
    compare(Path(data.name), tmp_path / "methods")
    assert len(trained) == 1


@pytest.mark.slow
@pytest.mark.long
def test_two_seeds_are_trained_and_exported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, tiny = tmp_path / "methods", {"rgb-backbone": "test_resnet", "size": 64, "coreset": 0.1}
    settings = [part for name, value in tiny.items() for part in ("--set", f"{name}={value}")]

    def compared() -> Ended:
        chosen = ("--family", "patchcore", "--modality", "rgb", "--seed", 0, "--seed", 1, "--runs", 2)
        return command(cli, "methods", data, "--out", out, "--device", "cpu", *chosen, *settings)

    ended = compared()
    assert ended.code == 0, ended.err
    (method,) = json.loads((out / "methods.json").read_text())["methods"]
    measured = method["categories"]["gear"]
    first, second = (measured["seeds"][seed] for seed in ("0", "1"))
    assert measured["image_auroc"] == pytest.approx((first["image_auroc"] + second["image_auroc"]) / 2)
    assert len(first["scores"]) == first["samples"] == 5
    assert {tuple(one[:2]) for one in first["scores"]} == {tuple(one[:2]) for one in second["scores"]}
    assert len(list((out / "bundles").iterdir())) == len(list((out / "runs").iterdir())) == 2
    assert "seeds 0, 1" in (out / "methods.md").read_text()

    def refused(*_: object) -> None:
        raise RunError("training", found="a second one", action="None")

    monkeypatch.setattr(measure, "fit", refused)
    assert compared().out == ended.out
