"""`cmdiad-info`: what a bundle or a run is, in text and JSON, whatever the file holds."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.cli import door
from cmdiad_runtime.cli.info import cli
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.cli.threshold import cli as threshold_cli
from commands import commands
from helpers import assert_refused, command, flip_byte, python, rewrite_manifest

Cached = Callable[..., Path]
FIXTURES = Path(__file__).parents[2] / "fixtures"


def summary(path: Path) -> dict[str, Any]:
    ended = command(cli, path, "--json")
    assert ended.code == 0, ended.err
    content: dict[str, Any] = json.loads(ended.out)
    return content


def lines(path: Path) -> dict[str, str]:
    ended = command(cli, path)
    assert ended.code == 0, ended.err
    return {line[:17].strip(): line[18:] for line in ended.out.splitlines()}


def test_bundle(exported: Cached, trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))  # Without self-tests of the same bundle in other tests.
    bundle = exported("rgb")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    metrics = json.loads((trained("rgb") / "run.json").read_text(encoding="utf-8"))["metrics"]
    content = summary(bundle)
    assert content["data"]["train_samples"] == 6
    assert content["figures"]["image_auroc"] == metrics["image_auroc"]
    assert content["threshold"]["score_threshold"] == manifest["calibration"]["score_threshold"]
    assert content["certificate"]["comparisons"] == manifest["certificate"]["comparisons"]
    text = lines(bundle)
    assert text["test split"].startswith(f"image AUROC {metrics['image_auroc']:.3f}, pixel AUROC")
    assert text["trained on"].startswith("gear, 6 training samples, ")
    assert f"score {manifest['calibration']['score_threshold']:.6g}, map" in text["threshold"]
    assert text["false rejects"].startswith("5.00% asked for; 95 % interval ")
    assert (
        text["deciding score"]
        == {"map": "largest value of the map", "image": "image score"}[manifest["calibration"].get("verdict", "image")]
    )
    assert text["engine"] == "cpu (onnxruntime): certified for processors of this architecture"


def test_int8_bundle_is_tested_at_each_opening_without_vnni(
    exported: Cached, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    bundle = exported("rgb", precision="int8-cpu")
    for exact, expected in ((True, "certified for processors"), (False, "tested with the golden samples at each")):
        monkeypatch.setattr(
            "cmdiad_runtime.bundle.engine_selection.adds_int8_products_exactly", lambda exact=exact: exact
        )
        assert lines(bundle)["engine"].startswith(f"cpu (onnxruntime): {expected}")


def test_bundle_with_another_threshold_and_a_self_test(
    own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    assert command(threshold_cli, own_bundle, "--threshold", 123).code == 0
    assert command(run_cli, own_bundle, "--self-test").code == 0
    text = lines(own_bundle)
    assert text["threshold"].startswith("score 123, ")
    assert text["false rejects"].startswith("0.00% of the held-out samples; ")
    assert text["exported with"].startswith("score ")
    assert text["engine"].startswith("cpu (onnxruntime): self-test passed 20")


def test_run(trained: Cached, data: Path) -> None:
    run = trained("rgb")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    content = summary(run)
    assert content["kind"] == "run"
    assert content["data"]["folder"] == str(data / "gear")
    assert content["figures"]["image_auroc"] == record["metrics"]["image_auroc"]
    assert content["threshold"]["samples"] >= 3
    assert lines(run)["threshold"] == lines_of_threshold(content)


def lines_of_threshold(content: dict[str, Any]) -> str:
    threshold = content["threshold"]
    return f"score {threshold['score_threshold']:.6g}, map {threshold['map_threshold']:.6g}"


def test_unfinished_run(trained: Cached, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("rgb"), tmp_path / "run"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "fitting", "metrics": None}), encoding="utf-8")
    (run / "calibration.json").unlink()
    text = lines(run)
    assert "unfinished" in text["written"]
    assert text["test split"].startswith("no figures")
    assert "threshold" not in text


@pytest.mark.parametrize("path", ["format1/both-each.cmdiad", "format1/xyz-points.cmdiad", "run2/xyz-points.run"])
def test_earlier_formats(path: str) -> None:
    assert "held-out good samples" in lines(FIXTURES / path)["rests on"]


@pytest.mark.seconds
def test_no_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; sys.argv[0] = 'cmdiad-info'\n"
        "from cmdiad_runtime.cli.info import main; main()"
    )
    for path in ("format1/both-each.cmdiad", "run2/xyz-points.run"):
        assert "threshold" in python(code, FIXTURES / path)


def test_text_of_a_stranger_cannot_write_to_the_terminal(own_bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["versions"] = {"cmdiad": "1\x1b[2J"}
        manifest["provenance"]["data"] |= {"train_samples": "\r\n", "test": {"samples": "\x1b", "good": []}}

    rewrite_manifest(own_bundle, change)
    ended = command(cli, own_bundle)
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert "no figures" in ended.out


def test_what_is_damaged_is_refused(own_bundle: Path, trained: Cached, tmp_path: Path) -> None:
    flip_byte(own_bundle / "graph.onnx")
    assert_refused(command(cli, own_bundle), 4, "graph.onnx")
    run = Path(shutil.copytree(trained("rgb"), tmp_path / "run"))
    for content, words in (
        ("{", "no readable JSON"),
        ("[]", "no JSON object"),
        ("{}", "no cmdiad-run"),
        ('{"format": "cmdiad-run", "format_version": 3}', "run.json"),
        ('{"format": "cmdiad-run", "format_version": 99}', "made by a newer cmdiad"),
    ):
        (run / "run.json").write_text(content, encoding="utf-8")
        assert_refused(command(cli, run), 7, words)
    assert_refused(command(cli, tmp_path), 4, "neither manifest.json nor run.json")
    assert_refused(command(cli, tmp_path / "typo.cmdiad"), 4, "typo.cmdiad")


def test_the_door_leads_to_all_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {f"cmdiad-{word}" for word in door.COMMANDS} == set(commands())
    for word, (module, _) in door.COMMANDS.items():
        assert commands()[f"cmdiad-{word}"].callback.__module__ == module  # type: ignore[union-attr]
    for arguments, code, words in (
        (["info", str(FIXTURES / "run2" / "xyz-points.run")], 0, "trained on"),
        (["info", "--help"], 0, "Usage: cmdiad-info"),
        ([], 0, "cmdiad threshold"),
        (["inf"], 2, "'inf' is not one of"),
    ):
        monkeypatch.setattr(sys, "argv", ["cmdiad", *arguments])
        with pytest.raises(SystemExit) as ended:
            door.main()
        assert ended.value.code == code
        printed = capsys.readouterr()
        assert words in printed.out + printed.err
