"""The command `cmdiad-run`: verdicts, and every kind of bad input in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.bundle import engine_selection as choose
from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.inspection import inspector as inspector_module
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support.lock import LOCK_NAME
from helpers import (
    Ended,
    assert_refused,
    command,
    flip_byte,
    python,
    read_image,
    rewrite_manifest,
    sample_files,
    threshold_report,
    truncate,
    write_cloud,
    write_image,
)

Cached = Callable[..., Path]
UNCHECKED = [word for check in CHECKS for word in ("--ignore-check", check)]
"""Options for samples that the checks of the recording conditions would refuse before anything else."""


def next_command(bundle: Path) -> str:
    """Return the last line that `cmdiad-run` prints on standard error."""
    return f"next: cmdiad-threshold {bundle} --bad DIR"


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_each_sample_gets_a_verdict_by_the_threshold(
    data: Path, exported: Cached, tmp_path: Path, modality: str
) -> None:
    bundle, out = exported(modality, "f2f", "fp16"), tmp_path / "out"
    ended = command(cli, bundle, data / "gear" / "test", "--modality", modality, "--output", out)
    assert ended.code == 0, ended.err
    expected = ["skipped: 5 masks", f"5 of 5 samples inspected, results in {out}", next_command(bundle)]
    assert ended.err.splitlines() == [*threshold_report(bundle).splitlines(), *expected]
    lines = results(out)
    threshold = json.loads((bundle / "manifest.json").read_text())["calibration"]["score_threshold"]
    for line, printed in zip(lines, ended.out.splitlines(), strict=True):
        assert line["threshold"] == threshold
        assert line["verdict"] == ("NG" if line["score"] > threshold else "OK")
        reason = "score" if line["verdict"] == "NG" else None
        assert line["reason"] == reason
        assert printed == f"{line['verdict']}\t{line['score']:.6g}\t{line['input']}\t{reason or '-'}"
        assert set(line["timings_ms"]) == {"read", "preprocess", "engine", "map"}
        assert (out / line["overlay"]).is_file()
    assert len({line["overlay"] for line in lines}) == 5
    assert {p.name for p in out.iterdir()} == {"results.jsonl", "overlays", LOCK_NAME}


def test_overlays_have_the_samples_own_size(data: Path, exported: Cached, tmp_path: Path) -> None:
    source = sample_files(data, "test", "good", "rgb")[0]
    image = read_image(source)
    write_image(tmp_path / "wide.png", image[:80])
    Image.fromarray(image).resize((150, 200)).save(tmp_path / "tall.jpg")
    cloud = write_cloud(tmp_path / "cloud.tiff", read_xyz(sample_files(data, "test", "good", "xyz")[0])[6:, :100])
    out = tmp_path / "out"
    wide, tall = tmp_path / "wide.png", tmp_path / "tall.jpg"
    assert command(cli, exported("rgb"), wide, tall, "--output", out, *UNCHECKED).code == 0
    assert [read_image(out / line["overlay"]).shape for line in results(out)] == [(80, 112, 3), (200, 150, 3)]
    assert command(cli, exported("xyz", "none", "fp16"), cloud, "--output", tmp_path / "xyz", *UNCHECKED).code == 0
    (line,) = results(tmp_path / "xyz")
    assert read_image(tmp_path / "xyz" / line["overlay"]).shape == (106, 100, 3)


def test_overlays_can_be_left_out(data: Path, exported: Cached, tmp_path: Path) -> None:
    path = sample_files(data, "test", "good", "rgb")[0]
    assert command(cli, exported("rgb"), path, "--output", tmp_path / "out", "--no-overlays").code == 0
    (line,) = results(tmp_path / "out")
    assert line["overlay"] is line["overlay_error"] is None
    assert list((tmp_path / "out" / "overlays").iterdir()) == []


def test_newest_bundle_of_the_modality_is_tested_and_named(
    exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for modality in ("rgb", "xyz"):
        shutil.copytree(exported(modality, "f2f", "fp16"), tmp_path / "bundles" / f"{modality}.cmdiad")
    self_test = command(cli, "--modality", "rgb")
    assert self_test.code == 0, self_test.err
    assert self_test.err.splitlines()[0] == "bundle: bundles/rgb.cmdiad (the newest)"


def path_that_is_no_bundle(kind: str, folder: Path, photo: Path) -> Path:
    """Make a first path that is no bundle."""
    path = folder / "bundels" / "gear-v7"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "folder of photos":
        path.mkdir()
        shutil.copy(photo, path)
    elif kind == "photo":
        return photo
    elif kind == "zip":
        shutil.make_archive(str(path), "zip", folder / "bundles" / "rgb.cmdiad")
        return path.with_suffix(".zip")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["no such file or folder"]),
        ("folder", ["a folder without manifest.json"]),
        ("folder of photos", ["a folder without manifest.json", "the newest bundle here is bundles/rgb.cmdiad"]),
        ("photo", ["a file", "pass a bundle, then input"]),
        ("zip", ["a file", "unpack the bundle"]),
    ],
)
@pytest.mark.failure_mode("A mistyped or packed bundle")
def test_first_path_that_is_no_bundle_gets_no_verdict(
    data: Path, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: list[str]
) -> None:
    """The newest bundle must not judge in place of a mistyped one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported("rgb"), tmp_path / "bundles" / "rgb.cmdiad")
    photo = sample_files(data, "test", "good", "rgb")[0]
    path = path_that_is_no_bundle(kind, tmp_path, photo)
    for arguments in ([path], [path, photo], [path, photo, "--modality", "rgb", "--output", "out"]):
        ended = command(cli, *arguments)
        assert_refused(ended, 4, path, *words)
        assert ended.out == ""
    assert not Path("out").exists()


def test_without_any_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command(cli), 4, "No bundle found in the folder bundles", "cmdiad-export")
    assert_refused(command(cli, "--modality", "xyz"), 4, "No bundle for --modality xyz")


@pytest.mark.parametrize(("modality", "precision"), [("rgb", "fp32"), ("xyz", "fp16")])
def test_self_test_without_inputs(exported: Cached, tmp_path: Path, modality: str, precision: str) -> None:
    ended = command(cli, exported(modality, "none", precision), "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("self-test passed: 6 golden samples on onnxruntime ")
    comparison = json.loads((tmp_path / "out" / "self-test.json").read_text())
    assert comparison["passed"] is True
    assert comparison["precision"] == precision


def test_failed_self_test(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = choose.open_engine

    def off(graph: Path, name: str) -> Any:
        engine = original(graph, name)  # type: ignore[arg-type]
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda inputs: {k: 1.01 * v for k, v in run(inputs).items()})
        return engine

    monkeypatch.setattr(choose, "open_engine", off)
    ended = command(cli, own_bundle)
    assert_refused(ended, 8, own_bundle, "of the threshold on this machine", "those of the certificate")
    assert ended.out.startswith("self-test FAILED")


# --- one bad sample does not stop the others ---------------------------------------------------------------------


def assert_not_inspected(ended: Ended, folder: Path, path: Path, reason: str, *words: str) -> None:
    """Check that the only sample is NG with a reason on stdout, on stderr, in the results and by the exit code."""
    assert ended.code == 3, ended.err
    assert ended.out == f"NG\t-\t{path}\t{reason}\n"
    (line,) = results(folder)
    assert (line["verdict"], line["inspected"], line["score"], line["map_max"]) == ("NG", False, None, None)
    assert (line["reason"], line["input"]) == (reason, str(path))
    for word in words:
        assert word.lower() in line["message"].lower(), (word, line["message"])
    assert ended.err.endswith(f"{reason}: {line['message']}\n0 of 1 samples inspected, results in {folder}\n")
    assert read_image(folder / line["overlay"]).ndim == 3


def test_one_bad_sample_among_three(data: Path, exported: Cached, tmp_path: Path) -> None:
    good = sample_files(data, "test", "good", "rgb")
    bad = truncate(Path(shutil.copy(good[0], tmp_path / "bad.png")))
    ended = command(cli, exported("rgb"), good[0], bad, good[1], "--output", tmp_path / "out")
    assert ended.code == 3
    assert [line.split("\t")[2] for line in ended.out.splitlines()] == [str(good[0]), str(bad), str(good[1])]
    assert ended.out.splitlines()[1] == f"NG\t-\t{bad}\tunreadable"
    lines = results(tmp_path / "out")
    assert ended.err.splitlines() == [
        *threshold_report(exported("rgb")).splitlines(),
        f"unreadable: {lines[1]['message']}",
        f"2 of 3 samples inspected, results in {tmp_path / 'out'}",
        next_command(exported("rgb")),
    ]
    assert [line["inspected"] for line in lines] == [True, False, True]
    assert "a damaged or incomplete file" in lines[1]["message"]
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3


def test_missing_file_and_empty_folder_are_ng_while_the_others_are_inspected(
    data: Path, exported: Cached, tmp_path: Path
) -> None:
    good, missing, empty = sample_files(data, "test", "good", "rgb")[0], tmp_path / "missing.png", tmp_path / "empty"
    empty.mkdir()
    ended = command(cli, exported("rgb"), missing, empty, good)
    assert ended.code == 3
    assert ended.out.splitlines()[:2] == [f"NG\t-\t{missing}\tmissing-file", f"NG\t-\t{empty}\tnot-a-file"]
    assert ended.out.splitlines()[2].startswith(("OK\t", "NG\t0", "NG\t1"))
    assert ended.err.splitlines()[-2:] == ["1 of 3 samples inspected", next_command(exported("rgb"))]


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def bad_image(kind: str, path: Path) -> Path:
    """Write an image that cannot be inspected."""
    if kind == "empty":
        path.touch()
    elif kind == "truncated":
        truncate(write_image(path, picture()))
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "folder-like":
        path.symlink_to(path.parent / "nowhere")
    elif kind == "grey":
        write_image(path, picture()[..., 0])
    elif kind == "rgba":
        write_image(path, np.dstack([picture(), np.full((112, 112), 128, np.uint8)]))
    elif kind == "16-bit":
        write_image(path, picture()[..., 0].astype(np.uint16) * 256)
    elif kind == "uniform":
        write_image(path, np.full((112, 112, 3), 77, np.uint8))
    elif kind == "cloud":
        write_cloud(path, np.ones((112, 112, 3), np.float32))
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "problem"),
    [
        ("missing", "missing-file", "no such file"),
        ("folder-like", "missing-file", "no such file"),
        ("empty", "unreadable", "an empty file"),
        ("truncated", "unreadable", "a damaged or incomplete file"),
        ("text", "unsupported", "a file that is no image of these formats"),
        ("grey", "unsupported", "a grey image"),
        ("rgba", "unsupported", "transparent pixels (alpha 128)"),
        ("16-bit", "unsupported", "16 bits per channel"),
        ("uniform", "no-contrast", "an image that is all background"),
        ("cloud", "unsupported", "32 bits per channel"),
    ],
)
def test_bad_images(exported: Cached, tmp_path: Path, kind: str, reason: str, problem: str) -> None:
    path = bad_image(kind, tmp_path / "part.png")
    ended = command(cli, exported("rgb"), path, "--output", tmp_path / "out")
    assert_not_inspected(ended, tmp_path / "out", path, reason, f"found {problem}")


def bad_cloud(kind: str, path: Path, cloud: np.ndarray) -> Path:
    """Write a cloud that cannot be inspected."""
    arrays = {
        "wrong shape": cloud[..., 0],
        "wrong dtype": (cloud * 1000).astype(np.int16),
        "not finite": np.full_like(cloud, np.inf),
        "no points": np.zeros_like(cloud),
        "millimetres": cloud * 1000,
    }
    few = np.zeros_like(cloud)
    rows, columns = np.mgrid[1:8, 1:8] * 0.0005  # dense enough for a part, but only 49 points
    few[52:59, 52:59] = np.stack([columns, rows, np.full((7, 7), 0.4)], axis=-1)
    arrays["few points"] = few
    if kind == "truncated":
        return truncate(write_cloud(path, cloud))
    if kind == "image":
        write_image(path.with_suffix(".png"), picture()).rename(path)
    elif kind != "missing":
        write_cloud(path, arrays[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "problem"),
    [
        ("missing", "missing-file", "no such file"),
        ("truncated", "unreadable", "a damaged or incomplete file"),
        ("image", "unsupported", "a file that is not a TIFF"),
        ("wrong shape", "missing-file", "a depth image of shape [112, 112] without intrinsics"),
        ("wrong dtype", "unsupported", "int16 values"),
        ("not finite", "no-points", "no valid point"),
        ("no points", "no-points", "no valid point"),
        ("few points", "no-points", "49 points after resizing"),
        ("millimetres", "unsupported", "points at a median distance"),
    ],
)
def test_bad_clouds(data: Path, exported: Cached, tmp_path: Path, kind: str, reason: str, problem: str) -> None:
    cloud = read_xyz(sample_files(data, "test", "good", "xyz")[0])
    path = bad_cloud(kind, tmp_path / "part.tiff", cloud)
    ended = command(cli, exported("xyz", "none", "fp16"), path, "--output", tmp_path / "out", *UNCHECKED)
    assert_not_inspected(ended, tmp_path / "out", path, reason, f"found {problem}")


def test_some_points_that_are_not_finite_count_as_missing(data: Path, exported: Cached, tmp_path: Path) -> None:
    cloud = read_xyz(sample_files(data, "test", "good", "xyz")[0])
    holes = np.random.default_rng(0).random(cloud.shape[:2]) < 0.03
    paths = [
        write_cloud(tmp_path / f"{value}.tiff", np.where(holes[..., None], np.float32(value), cloud))
        for value in (0.0, np.nan, np.inf)
    ]
    ended = command(cli, exported("xyz", "none", "fp16"), *paths, "--ignore-check", "frozen")
    assert ended.code == 0, ended.err
    assert len({line.split("\t")[1] for line in ended.out.splitlines()}) == 1


@pytest.mark.failure_mode("An image without its cloud, or of another size")
def test_mismatched_and_missing_partners(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    """A detector for images masked by the cloud needs the right cloud beside each image."""
    bundle = own_bundle
    rewrite_manifest(bundle, lambda manifest: manifest["preprocessing"].update(rgb_mask="cloud"))
    (tmp_path / "rgb").mkdir()
    (tmp_path / "xyz").mkdir()
    image = Path(shutil.copy(sample_files(data, "test", "good", "rgb")[0], tmp_path / "rgb" / "000.png"))
    ended = command(cli, bundle, image, "--output", tmp_path / "1")
    words = "no cloud", str(tmp_path / "xyz" / "000.tiff"), "--rgb-mask none"
    assert_not_inspected(ended, tmp_path / "1", image, "missing-modality", *words)
    cloud = read_xyz(sample_files(data, "test", "good", "xyz")[0])
    write_cloud(tmp_path / "xyz" / "000.tiff", cloud[:100])
    ended = command(cli, bundle, image, "--output", tmp_path / "2")
    words = "(112, 112)", "(100, 112)", "registered pixel by pixel"
    assert_not_inspected(ended, tmp_path / "2", image, "size-mismatch", *words)
    write_cloud(tmp_path / "xyz" / "000.tiff", cloud)
    assert command(cli, bundle, image).code == 0


def test_folder_without_inputs(exported: Cached, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = command(cli, exported("rgb"), tmp_path / "empty", "--output", tmp_path / "out")
    assert_not_inspected(ended, tmp_path / "out", tmp_path / "empty", "not-a-file", "no rgb file")


# --- bundles -----------------------------------------------------------------------------------------------------


def first_sample(data: Path) -> Path:
    return sample_files(data, "test", "good", "rgb")[0]


@pytest.mark.parametrize("name", ["manifest.json", "graph.onnx", "golden.npz"])
@pytest.mark.parametrize("damage", [flip_byte, truncate, Path.unlink])
@pytest.mark.parametrize("self_test", [False, True])
def test_damaged_bundle(
    data: Path, own_bundle: Path, name: str, damage: Callable[[Path], object], self_test: bool
) -> None:
    damage(own_bundle / name)
    named = own_bundle if (name, damage) == ("manifest.json", Path.unlink) else own_bundle / name
    arguments = () if self_test else (first_sample(data),)
    assert_refused(command(cli, own_bundle, *arguments), 4, named)


def test_damaged_bundle_keeps_earlier_results(data: Path, own_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command(cli, own_bundle, first_sample(data), "--output", out).code == 0
    before = results(out)
    truncate(own_bundle / "graph.onnx")
    assert command(cli, own_bundle, first_sample(data), "--output", out, "--append").code == 4
    assert results(out) == before


def test_bundle_of_a_newer_format(data: Path, own_bundle: Path) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(format_version=2))
    refused = command(cli, own_bundle, first_sample(data))
    assert_refused(refused, 4, own_bundle / "manifest.json", "bundle format 2", "format 1 or older", "update cmdiad")


@pytest.mark.parametrize("name", ["../graph.onnx", "/etc/hostname"])
def test_bundle_that_points_outside(data: Path, own_bundle: Path, name: str) -> None:
    rewrite_manifest(own_bundle, lambda m: m["files"].update({name: m["files"]["graph.onnx"]}))
    assert_refused(command(cli, own_bundle, first_sample(data)), 4, repr(name), "which leaves the bundle")


def test_missing_bundle(data: Path, tmp_path: Path) -> None:
    assert_refused(command(cli, tmp_path / "no.cmdiad", first_sample(data)), 4, tmp_path / "no.cmdiad")


@pytest.mark.parametrize(("own", "wanted"), [("rgb", "xyz"), ("xyz", "rgb")])
def test_wrong_modality(data: Path, exported: Cached, own: str, wanted: str) -> None:
    bundle = exported(own, "none", "fp16")
    refused = command(cli, bundle, data / "gear" / "test", "--modality", wanted)
    assert_refused(refused, 4, bundle, f"a bundle for --modality {own}", f"one for --modality {wanted}")


def test_engine_that_is_not_there(data: Path, exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    refused = command(cli, exported("rgb"), first_sample(data), "--engine", "cuda")
    assert_refused(refused, 5, "CUDAExecutionProvider", "cmdiad[gpu]")


# --- outputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below", "used"])
def test_output_that_cannot_be_written(data: Path, exported: Cached, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "overlays").write_text("mine")
    out = tmp_path / place
    assert_refused(
        command(cli, exported("rgb"), first_sample(data), "--output", out), 6, out, "choose another --output"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_self_test_output_that_cannot_be_written(exported: Cached, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = command(cli, exported("rgb"), "--output", tmp_path / "file")
    assert ended.code == 6
    assert str(tmp_path / "file") in ended.error


def test_interruption_leaves_what_was_done(
    data: Path, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = inspector_module.Inspector.judge, []

    def interrupt(self: object, name: str, *arguments: object, preprocess_ms: float) -> object:
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(self, name, *arguments, preprocess_ms=preprocess_ms)  # type: ignore[arg-type]

    monkeypatch.setattr(inspector_module.Inspector, "judge", interrupt)
    ended = command(cli, exported("rgb"), data / "gear" / "test", "--output", tmp_path / "out")
    assert ended.code == 130
    summary = f"2 of 5 samples inspected, results in {tmp_path / 'out'}"
    expected = ["skipped: 5 masks", summary, "", "interrupted", ""]
    assert ended.err == threshold_report(exported("rgb")) + "\n".join(expected)
    assert len(results(tmp_path / "out")) == 2
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.name.startswith(".")] == [LOCK_NAME]


@pytest.mark.parametrize("arguments", [("",), ("BUNDLE", ""), ("BUNDLE", "x.png", "--output", "")])
def test_unset_variable_is_a_wrong_command_line(exported: Cached, arguments: tuple[str, ...]) -> None:
    """An empty path would otherwise stand for the working directory."""
    ended = command(cli, *(exported("rgb") if word == "BUNDLE" else word for word in arguments))
    assert ended.code == 2
    assert "an empty path" in ended.err


@pytest.mark.parametrize("option", [("--modality", "radar"), ("--engine", "tpu"), ("--verbose",)])
def test_wrong_command_line(option: tuple[str, ...]) -> None:
    ended: Ended = command(cli, *option)
    assert ended.code == 2
    assert "Usage:" in ended.err


# --- as a process ------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cmdiad-run', '--help']\n"
        "from cmdiad_runtime.cli.run import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print([m for m in ('numpy', 'scipy', 'PIL', 'tifffile', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    printed = python(code).splitlines()
    assert printed[0].startswith("Usage: cmdiad-run")
    assert printed[-1] == "[]"


def test_installed_command_ends_with_documented_codes(data: Path, exported: Cached, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cmdiad-run")
    good, bad = first_sample(data), bad_image("grey", tmp_path / "grey.png")
    arguments = [program, exported("rgb"), good, bad, "--output", tmp_path / "out"]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ended.returncode == 3
    assert ended.stdout.splitlines()[1] == f"NG\t-\t{bad}\tunsupported"
    assert ended.stderr.splitlines() == [
        *threshold_report(exported("rgb")).splitlines(),
        f"unsupported: {results(tmp_path / 'out')[1]['message']}",
        f"1 of 2 samples inspected, results in {tmp_path / 'out'}",
        next_command(exported("rgb")),
    ]
