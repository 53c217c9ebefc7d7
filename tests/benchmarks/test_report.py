"""The evaluation report: the same figures in page and JSON, nothing but the page, nothing that data can inject."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import integrate

from cmdiad_bench.cli import cli
from cmdiad_bench.report import comparison, galleries, report
from cmdiad_bench.report import page as page_module
from cmdiad_bench.report.figures import Compared, Scores, comparison_figure, score_figure
from cmdiad_bench.report.pictures import draw_pictures
from cmdiad_runtime.bundle.calibration import SessionScores
from cmdiad_runtime.bundle.session import Session
from cmdiad_runtime.bundle.threshold import calibrate, calibrate_sessions
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.evaluation.evaluate import METRICS
from helpers import assert_refused, command, rewrite_manifest, set_threshold, truncate, write_cloud, write_image

Cached = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails where a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += text + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_harmless(self) -> None:
        """No script, no handler, and nothing that is not in the page itself."""
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in self.tags}
        for tag, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            for name in ("src", "href"):
                value = attributes.get(name)
                assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, value)
        assert all("loading" not in image for image in self.all("img"))  # Late pictures move the places of links.


@pytest.fixture(scope="session")
def bundle(exported: Cached) -> Path:
    return exported("rgb", "f2f", "fp16")


def read(out: Path) -> tuple[dict[str, Any], Page]:
    return json.loads((out / "report.json").read_text(encoding="utf-8")), Page(out / "report.html")


def renamed(bundle: Path, target: Path, category: str) -> Path:
    """A copy of a bundle that says it was trained on another category."""
    shutil.copytree(bundle, target)
    rewrite_manifest(target, lambda manifest: manifest["provenance"]["data"].update(category=category))
    return target


def test_report_has_the_figures_of_accuracy(data: Path, bundle: Path, tmp_path: Path) -> None:
    assert command(cli, "accuracy", bundle, data, "--json", tmp_path / "accuracy.json").code == 0
    ended = command(cli, "report", data, bundle, "--out", tmp_path / "a" / "report")
    assert ended.code == 0, ended.err
    record, page = read(tmp_path / "a" / "report")
    assert sorted(p.name for p in (tmp_path / "a" / "report").iterdir()) == ["report.html", "report.json"]
    page.assert_harmless()
    (found,) = record["classes"]
    accuracy = json.loads((tmp_path / "accuracy.json").read_text())
    del accuracy["machine"]  # with the load of the machine, which changes between the commands
    assert {key: found[key] for key in accuracy} == accuracy
    assert record["command"].startswith("cmdiad-bench report ")
    assert record["mean"] == {"classes": 1, "intervals": record["mean"]["intervals"]} | {m: found[m] for m in METRICS}
    assert found["bundle_sha256"] == sha256_of(bundle / "manifest.json")
    for metric in METRICS:
        assert f"{found[metric]:.3f}" in page.text
        low, high = found["intervals"][metric] or (None, None)
        assert low is None or f"{low:.3f}–{high:.3f}" in page.text
    for row in found["defects"]:
        assert row["defect"] in page.text
    assert found["calibration"]["warning"] in page.text
    assert found["bundle_sha256"] in page.text


def test_verdicts_of_each_sample(data: Path, bundle: Path, tmp_path: Path) -> None:
    assert command(cli, "report", data, bundle, "--out", tmp_path).code == 0
    record, page = read(tmp_path)
    found = record["classes"][0]
    samples = found["per_sample"]
    assert [s["name"] for s in samples if s["defect"] == "good"] == ["test/good/000", "test/good/001"]
    assert len(samples) == found["samples"] == 5
    for sample in samples:
        assert (sample["verdict"] == "NG") == (sample["score"] > found["threshold"])
        assert sample["correct"] == ((sample["verdict"] == "NG") == (sample["defect"] != "good"))
        assert sample["name"] in page.text
    wrong = [s for s in samples if not s["correct"]]
    assert len(wrong) == found["false_rejects"] + found["missed_defects"]
    assert sum(row["missed"] for row in found["defects"]) == found["missed_defects"]
    assert sum(row["samples"] for row in found["defects"]) == 3
    tpr = np.interp(1.0, found["curves"]["roc"]["fpr"], found["curves"]["roc"]["tpr"])
    assert tpr == 1.0
    assert found["curves"]["pro"]["fpr"][-1] == pytest.approx(0.3)
    area = integrate.trapezoid(found["curves"]["pro"]["pro"], found["curves"]["pro"]["fpr"]) / 0.3
    assert area == pytest.approx(found["aupro_30"], abs=0.01)


def test_pictures_of_both_sensors_and_the_legend(data: Path, bundle: Path, tmp_path: Path) -> None:
    """Image, depth, heatmap and the surroundings of the largest value of each sample."""
    assert command(cli, "report", data, bundle, "--out", tmp_path).code == 0
    pictures = read(tmp_path)[1].all("img")
    assert len(pictures) == 5 * 4 + 1
    assert all(picture["alt"] for picture in pictures)
    for label, count in (("Depth of", 2), ("Depth, defect outlined of", 3), ("Heatmap of", 5)):
        assert sum(str(picture["alt"]).startswith(f"{label} test/") for picture in pictures) == count


def test_a_data_set_of_images_has_no_column_of_clouds(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    for folder in (own_data / "gear/test").glob("*/xyz"):
        shutil.rmtree(folder)
    assert command(cli, "report", own_data, bundle, "--out", tmp_path).code == 0
    page = read(tmp_path)[1]
    assert len(page.all("img")) == 5 * 3 + 1
    assert not {"Depth", "no cloud", "no image"} & set(page.text.split("\n")) and "no cloud" not in page.text


def test_defects_without_masks_have_no_outline(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    for folder in (own_data / "gear/test").glob("*/gt"):
        shutil.rmtree(folder)
    ended = command(cli, "report", own_data, bundle, "--out", tmp_path)
    assert ended.code == 0, ended.err
    record, page = read(tmp_path)
    assert record["classes"][0]["without_mask"] == 3
    assert "outlined" not in page.text and "No pixel figures: no defect has a usable mask." in page.text
    assert "AUPRO 10 %" not in page.text  # a column without a figure
    assert "AUPRO 30 %" not in page.text  # a tile without a figure


def test_every_misjudged_sample_is_shown(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    """A threshold that no defect reaches: all are missed, and each shows its score below the threshold."""
    set_threshold(own_bundle, 1e6)
    ended = command(cli, "report", data, own_bundle, "--out", tmp_path / "high")
    assert ended.code == 0
    assert ended.err.splitlines()[-1].startswith("warning: gear: 3 of 3 defects are missed")
    record, page = read(tmp_path / "high")
    assert record["classes"][0]["weakness"].startswith("3 of 3 defects are missed")
    assert page.text.count("3 of 3 defects are missed") == 1 and "Defects: 3, 3 missed by the score" in page.text
    missed = [sample["name"] for sample in record["classes"][0]["per_sample"] if not sample["correct"]]
    assert len(missed) == record["classes"][0]["missed_defects"] == 3
    assert "Missed defects" in page.text and "Rejected good parts" not in page.text
    assert page.text.count("< threshold 1000000") == 5
    set_threshold(own_bundle, 1e-6)
    assert command(cli, "report", data, own_bundle, "--out", tmp_path / "low").code == 0
    record, page = read(tmp_path / "low")
    assert record["classes"][0]["missed_defects"] == 0 and "defects are missed" not in page.text
    assert "Rejected good parts" in page.text and "Missed defects" not in page.text
    assert page.text.count("> threshold 0.000001000") == 5


def test_long_galleries_are_cut_and_folded(data: Path, own_bundle: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(galleries, "_MOST", 2)
    monkeypatch.setattr(page_module, "OPEN", 1)
    set_threshold(own_bundle, 1e6)
    assert command(cli, "report", data, own_bundle, "--out", tmp_path).code == 0
    page = read(tmp_path)[1]
    assert "3 of 3 defects. The 2 that score lowest are shown." in page.text
    assert "1 more" in page.text


def test_samples_without_a_score_are_listed_with_their_reason(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    truncate(next((own_data / "gear/test/hole/rgb").iterdir()))
    assert command(cli, "report", own_data, bundle, "--out", tmp_path).code == 0
    record, page = read(tmp_path)
    (sample,) = (sample for sample in record["classes"][0]["per_sample"] if sample["score"] is None)
    assert "NG without a score" in page.text
    assert sample["reason"] in page.text and sample["message"] in page.text


def test_the_other_sensor_is_for_display_alone(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    truncate(next((own_data / "gear/test/good/xyz").iterdir()))
    shutil.rmtree(own_data / "gear/test/hole/xyz")
    ended = command(cli, "report", own_data, bundle, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    page = read(tmp_path / "report")[1]
    assert sum(str(picture["alt"]).startswith("Depth") for picture in page.all("img")) == 3
    assert page.text.count("no cloud") == 2
    assert page.text.count("no image") == 0


HOSTILE = "\"><script>alert(1)<img src=x onerror=alert(2)> {{ 7*7 }}'&amp;"


def test_names_are_only_text(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    (own_data / "gear/test/hole").rename(own_data / "gear/test" / HOSTILE)
    category = "<b>gear&"
    (own_data / "gear").rename(own_data / category)
    ended = command(cli, "report", own_data, bundle, "--category", category, "--out", tmp_path / "<report>")
    assert ended.code == 0, ended.err
    record, page = read(tmp_path / "<report>")
    page.assert_harmless()
    assert HOSTILE in {row["defect"] for row in record["classes"][0]["defects"]}
    assert f"test/{HOSTILE}/000" in page.text
    assert category in page.text
    assert any(picture["alt"] == f"Heatmap of test/{HOSTILE}/000" for picture in page.all("img"))


def test_classes_and_their_mean(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(own_data / "gear", own_data / "wheel")
    shutil.rmtree(own_data / "wheel/test/contamination")
    wheel = renamed(bundle, tmp_path / "wheel.cmdiad", "wheel")
    ended = command(cli, "report", own_data, bundle, wheel, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    record, page = read(tmp_path / "report")
    assert [found["category"] for found in record["classes"]] == ["gear", "wheel"]
    assert [found["samples"] for found in record["classes"]] == [5, 3]
    for metric in METRICS:
        values = [found[metric] for found in record["classes"]]
        assert record["mean"][metric] == pytest.approx(sum(values) / 2)
        assert record["mean"]["intervals"][metric] is None  # one defect alone in one class
    assert "Mean of 2 classes" in page.text
    assert "No interval: at least two good samples and two defects are required." in page.text
    page.assert_harmless()
    targets = {attributes.get("id") for attributes in page.all("section")}
    assert [link["href"] for link in page.all("a")] == ["#class-1", "#class-2"]
    assert targets == {"class-1", "class-2"}


def test_two_detectors_of_one_class_have_no_mean(data: Path, bundle: Path, tmp_path: Path) -> None:
    assert command(cli, "report", data, bundle, bundle, "--out", tmp_path).code == 0
    record, page = read(tmp_path)
    assert record["mean"] is None
    assert "Mean of" not in page.text
    name = record["classes"][0]["bundle"]
    assert [found["name"] for found in record["classes"]] == [bundle.stem, f"{bundle.stem} (2)"]
    for text in (bundle.stem, f"{bundle.stem} (2)", f"gear: {bundle.stem} (2)", "gear: 2 bundles compared", name):
        assert text in page.text


def test_bundles_are_compared_sample_by_sample(data: Path, bundle: Path, tmp_path: Path) -> None:
    """One bundle misses all defects, the other rejects all parts: each sample is misjudged by exactly one."""
    paths = [tmp_path / f"{name}.cmdiad" for name in ("<b>low", "high")]
    for path, threshold in zip(paths, (1e-6, 1e6), strict=True):
        shutil.copytree(bundle, path)
        set_threshold(path, threshold)
    ended = command(cli, "report", data, *paths, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    record, page = read(tmp_path / "report")
    page.assert_harmless()
    assert [found["name"] for found in record["classes"]] == ["<b>low", "high"]
    assert "5 of 5 samples are misjudged by at least one bundle." in page.text
    heatmaps = [
        str(picture["alt"]) for picture in page.all("img") if str(picture["alt"]).startswith("Heatmap of test/")
    ]
    for name in ("<b>low", "high"):
        assert sum(alt.endswith(f" by {name}") for alt in heatmaps) == 5
    (chart,) = (svg for svg in page.all("svg") if "each bundle" in str(svg["aria-label"]))
    assert chart


def test_names_of_bundles_differ() -> None:
    records = [{"category": "gear", "bundle": name} for name in ("a", "b", "b", "b")]
    paths = [Path(f"{folder}/x.cmdiad") for folder in "pqr"] + [Path("y.cmdiad")]
    assert comparison.name_bundles(records, paths) == ["a", "x", "x (2)", "y"]
    others = [{"category": category, "bundle": "a"} for category in ("gear", "wheel")]
    assert comparison.name_bundles(others, paths[:2]) == ["a", "a"]


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e5])
def test_comparison_shares_one_axis_in_multiples_of_the_thresholds(scale: float) -> None:
    rng = np.random.default_rng(4)
    rows = [
        Compared("<x>" * 20, list(scale * rng.random(30)), [*(scale * (0.5 + rng.random(20))), 1e6 * scale], scale),
        Compared("y", list(9 * scale * rng.random(30)), list(9 * scale * (0.5 + rng.random(20))), 9 * scale),
    ]
    drawing = comparison_figure(rows)
    assert "<x>" not in drawing and "1 farther right" in drawing
    missed = sum(value <= row.threshold for row in rows for value in row.defects)
    assert bars(drawing, "good") == {"right": 60, "wrong": 0}
    assert bars(drawing, "defect") == {"right": 41 - missed, "wrong": missed}
    assert all(float(height) >= 0 for height in re.findall(r'<rect[^>]* height="([-\d.]+)"', drawing))


def test_held_out_scores_are_shown_where_the_bundle_has_them(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    assert command(cli, "report", data, own_bundle, "--out", tmp_path / "without").code == 0
    scores = [0.5, 0.75, 1e9]
    calibration = replace(calibrate(scores, scores, 0.5), verdict="map")
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(calibration=calibration.to_json()))
    assert command(cli, "report", data, own_bundle, "--out", tmp_path / "with").code == 0
    record, page = read(tmp_path / "with")
    assert record["classes"][0]["held_out_scores"] == [0.5, 0.75, 1e9]
    assert "Held out, good: 3, 1 above the threshold" in page.text


def test_sessions_and_their_scores(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    """Two sessions have a table; the training data alone has a warning."""
    assert command(cli, "report", data, own_bundle, "--out", tmp_path / "one").code == 0
    record, page = read(tmp_path / "one")
    assert [session["name"] for session in record["classes"][0]["sessions"]] == ["training"]
    assert "by session" not in page.text and "--good DIR" in page.text

    def change(manifest: dict[str, Any]) -> None:
        parts = (("training", (0.5, 0.75)), ("<b>day", (1.0, 9.0)))
        scores = [SessionScores(Session(name, 2), values, values) for name, values in parts]
        manifest["calibration"] = replace(calibrate_sessions(scores, 0.5), verdict="map").to_json()

    rewrite_manifest(own_bundle, change)
    assert command(cli, "report", data, own_bundle, "--out", tmp_path / "two").code == 0
    record, page = read(tmp_path / "two")
    page.assert_harmless()
    assert record["classes"][0]["sessions"][1] == {
        "name": "<b>day",
        "samples": 2,
        "lowest": 1.0,
        "highest": 9.0,
        "above": 1,
    }
    assert "Held-out good parts by session" in page.text and "<b>day" in page.text and "0.500–0.750" in page.text
    assert "--good DIR" not in page.text


def test_view_that_was_forced_against_the_evidence_is_named(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    reason = "the picture has structure outside of the part"
    rewrite_manifest(own_bundle, lambda manifest: manifest["inspected_area"].update(counter_evidence=reason))
    assert command(cli, "report", data, own_bundle, "--out", tmp_path).code == 0
    record, page = read(tmp_path)
    assert reason in record["classes"][0]["warning"]
    assert f"defects outside of the inspected area are not seen: {reason}." in page.text


def test_settings_are_shown_for_any_family(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["recipe"] = {"family": "crystal-ball", "detector": {"radius": 3, "glass": {"colour": "blue"}}}

    rewrite_manifest(own_bundle, change)
    assert command(cli, "report", data, own_bundle, "--out", tmp_path).code == 0
    record, page = read(tmp_path)
    assert record["classes"][0]["recipe"]["detector"]["glass"] == {"colour": "blue"}
    assert "crystal-ball" in page.text
    assert "radius: 3; glass.colour: blue" in page.text


@pytest.mark.parametrize("recipe", [None, {}, {"detector": 5}, {"family": 7, "mode": "faithful"}])
def test_a_bundle_that_opens_can_be_reported(
    data: Path, own_bundle: Path, tmp_path: Path, recipe: dict[str, Any] | None
) -> None:
    """The recipe is opaque, and bundles without recipe, provenance, versions and date of export are valid."""

    def change(manifest: dict[str, Any]) -> None:
        for name in ("recipe", "provenance", "versions", "created"):
            del manifest[name]
        manifest["graph"].pop("banks", None)
        for name in ("held_out_scores", "held_out_peaks", "sessions"):
            del manifest["calibration"][name]
        if recipe is not None:
            manifest["recipe"] = recipe

    rewrite_manifest(own_bundle, change)
    ended = command(cli, "report", data, own_bundle, "--out", tmp_path)
    assert ended.code == 0, ended.err
    record, page = read(tmp_path)
    (figures,) = record["classes"]
    assert [figures[name] for name in ("family", "hallucination", "held_out_scores")] == [None] * 3
    assert ("mode: faithful" in page.text) == (recipe is not None and "mode" in recipe)
    latency = command(cli, "latency", own_bundle, data / "gear" / "test", "--runs", 1)
    assert latency.code == 0, latency.err


def test_bad_command_lines_write_nothing(own_data: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    refused = command(cli, "report", own_data, bundle, bundle, "--category", "gear", "--out", out)
    assert refused.code == 2 and "--category needs exactly one BUNDLE" in refused.err
    wheel = renamed(bundle, tmp_path / "wheel.cmdiad", "wheel")
    assert_refused(command(cli, "report", own_data, bundle, wheel, "--out", out), 7, own_data, "category wheel")
    assert_refused(command(cli, "report", own_data, tmp_path / "no.cmdiad", "--out", out), 4, "no.cmdiad")
    inside = own_data / "gear/test/report"
    assert_refused(command(cli, "report", own_data, bundle, "--out", inside), 6, inside, "inside the data set")
    assert not out.exists() and not inside.exists()
    out.write_text("a file")
    assert_refused(command(cli, "report", own_data, bundle, "--out", out), 6, out)


def test_an_earlier_report_survives_a_failure(
    data: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(cli, "report", data, bundle, "--out", tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "render", fail)
    assert command(cli, "report", data, bundle, "--out", tmp_path).code == 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def bars(drawing: str, kind: str) -> dict[str, int]:
    """The heights of a histogram as counts, by whether the verdict is wrong."""
    found = {"right": 0, "wrong": 0}
    for wrong, count in re.findall(rf'<rect class="{kind}( wrong)?"[^>]*><title>(\d+) from', drawing):
        found["wrong" if wrong else "right"] += int(count)
    return found


@pytest.mark.parametrize("threshold", [1.0, -3.0, 0.0, 250.0])
def test_histogram_bars_side_with_the_verdicts(threshold: float) -> None:
    """A score at the threshold is not above it, whatever the scale; far ones stay within the drawing."""
    rng = np.random.default_rng(3)
    good = [*(threshold + rng.standard_normal(40) - 1.5), threshold]
    defect = [*(threshold + 10 * rng.random(25) - 1), threshold, threshold + 1e7]
    drawing = score_figure([Scores("Good", "good", good, True), Scores("Defects", "defect", defect, False)], threshold)
    above = [sum(value > threshold for value in values) for values in (good, defect)]
    assert bars(drawing, "good") == {"wrong": above[0], "right": len(good) - above[0]}
    assert bars(drawing, "defect") == {"wrong": len(defect) - above[1], "right": above[1]}
    for x, width in re.findall(r'<rect[^>]* x="([-\d.]+)"[^>]* width="([\d.]+)"', drawing):
        assert float(x) >= 0 and float(x) + float(width) <= 460


def test_histogram_of_equal_scores() -> None:
    drawing = score_figure([Scores("Good", "good", [1.0, 1.0], True), Scores("Defects", "defect", [1.0], False)], 1.0)
    assert bars(drawing, "good") == {"wrong": 0, "right": 2}
    assert bars(drawing, "defect") == {"wrong": 1, "right": 0}
    assert "nan" not in drawing and "inf" not in drawing


def decoded(uri: str | None) -> np.ndarray:
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as image:
        return np.asarray(image).astype(int)


def test_pictures_lie_over_each_other(tmp_path: Path) -> None:
    """A wide image: outline and heat appear where mask and map have them, at the image's own shape."""
    picture = np.full((60, 120, 3), 128, dtype=np.uint8)
    picture[0, 0] = 0
    image = write_image(tmp_path / "i.png", picture)
    cloud = write_cloud(tmp_path / "i.tiff", np.ones((60, 120, 3), dtype=np.float32))
    files = SampleFiles("test/hole/i", "hole", image, None, None)
    companion = SampleFiles("test/hole/i", "hole", None, cloud, None)
    mask = np.zeros((48, 48), dtype=bool)
    mask[20:28, 32:40] = True  # of the padded square: columns 80 to 100, rows 20 to 40 of the image
    found = draw_pictures(files, companion, mask, np.where(mask, 3.0, 0.0).astype(np.float32), Preprocessing("rgb"), 1)
    assert decoded(found.image).shape == decoded(found.depth).shape == (60, 120, 3)
    outline, heat = decoded(found.image), decoded(found.heatmap)
    assert outline.shape == heat.shape == (60, 120, 3)
    rows, columns = np.nonzero(np.abs(outline - 128).max(axis=2) > 60)
    assert 15 <= rows[rows > 2].min() <= 20 and 40 <= rows.max() <= 44
    assert 75 <= columns[columns > 2].min() <= 80 and 99 <= columns.max() <= 104
    assert np.ptp(heat[30, 90]) > 30  # coloured
    assert np.ptp(heat[30, 30]) < 10  # grey as it was
    assert decoded(found.depth).std() > 5  # a cloud over the same picture has the outline too


def test_a_picture_without_companion_or_mask(tmp_path: Path) -> None:
    cloud = write_cloud(tmp_path / "i.tiff", np.random.default_rng(0).random((20, 20, 3)).astype(np.float32))
    files = SampleFiles("test/hole/i", "hole", None, cloud, None)
    found = draw_pictures(files, None, None, np.zeros((8, 8), np.float32), Preprocessing("xyz"), 1.0)
    assert found.image is None and not found.outlined
    assert decoded(found.heatmap).shape == decoded(found.depth).shape
