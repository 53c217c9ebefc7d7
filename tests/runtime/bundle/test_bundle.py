"""A bundle is whole and what it says, or it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import FORMAT_VERSION
from cmdiad_runtime.errors import BundleError
from helpers import flip_byte, rewrite_manifest, truncate

Cached = Callable[..., Path]
FILES = ["manifest.json", "graph.onnx", "golden.npz"]


def test_intact_bundle_opens(exported: Cached) -> None:
    bundle = Bundle.open(str(exported("rgb")))
    assert bundle.graph.is_file()
    assert bundle.golden.is_file()
    assert bundle.precision == "fp32"
    assert bundle.calibration.samples == 3 + 6
    assert bundle.calibration.score_threshold > 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip_byte, truncate, Path.unlink])
def test_each_damaged_file_is_named(own_bundle: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(own_bundle / name)
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    missing_manifest = name == "manifest.json" and damage is Path.unlink
    assert refused.value.subject == str(own_bundle if missing_manifest else own_bundle / name)
    assert "export" in refused.value.action


@pytest.mark.parametrize("name", ["graph.onnx", "golden.npz"])
@pytest.mark.parametrize("position", [0, -1])
def test_first_and_last_byte_count(own_bundle: Path, name: str, position: int) -> None:
    flip_byte(own_bundle / name, position)
    with pytest.raises(BundleError, match="whose hash is not the manifest's"):
        Bundle.open(own_bundle)


@pytest.mark.parametrize("name", ["graph.onnx", "golden.npz"])
def test_appended_bytes_are_noticed(own_bundle: Path, name: str) -> None:
    with (own_bundle / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="bytes where the manifest says"):
        Bundle.open(own_bundle)


def test_any_flipped_byte_of_the_manifest_is_noticed(own_bundle: Path) -> None:
    path = own_bundle / "manifest.json"
    content = path.read_bytes()
    intact = json.loads(content)
    for position in range(0, len(content), 5):
        flip_byte(path, position)
        try:
            harmless = json.loads(path.read_bytes()) == intact  # the last digit of a float may mean the same
        except ValueError:
            harmless = False
        if not harmless:
            with pytest.raises(BundleError):
                Bundle.open(own_bundle)
        path.write_bytes(content)
    Bundle.open(own_bundle)


def test_files_of_two_bundles_are_not_mixed(own_bundle: Path, exported: Cached) -> None:
    shutil.copy(exported("rgb", "none", "fp16") / "graph.onnx", own_bundle / "graph.onnx")
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    assert refused.value.subject == str(own_bundle / "graph.onnx")


@pytest.mark.parametrize(("field", "value"), [("xyz_feed", "sonar"), ("rgb_filter", "lanczos")])
def test_an_unknown_value_of_a_later_field_says_to_update(own_bundle: Path, field: str, value: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["preprocessing"].update({field: value}))
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    assert refused.value.action.startswith("the bundle was made by a newer cmdiad: update")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_newer_format_says_to_update(own_bundle: Path, version: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(BundleError, match=f"found bundle format {version}. Expected format 1 or older") as refused:
        Bundle.open(own_bundle)
    assert refused.value.action.startswith("the bundle was made by a newer cmdiad: update")


@pytest.mark.parametrize("version", ["2", None, 1.0, 0, True])
def test_impossible_format_is_damage(own_bundle: Path, version: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    assert "damaged" in refused.value.action


def test_another_kind_of_file(own_bundle: Path) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(format="something"))
    with pytest.raises(BundleError, match="another kind of file"):
        Bundle.open(own_bundle)
    (own_bundle / "manifest.json").write_text("[1, 2]")
    with pytest.raises(BundleError, match="another kind of file"):
        Bundle.open(own_bundle)


@pytest.mark.parametrize(
    "name",
    ["../outside.bin", "engines/../../outside.bin", "{absolute}", "./a", "a//b", "a/", "", "C:a", "..\\a", "a\nb"],
)
def test_paths_that_leave_the_bundle(own_bundle: Path, name: str) -> None:
    outside = own_bundle.parent / "outside.bin"
    shutil.copy(own_bundle / "graph.onnx", outside)
    (own_bundle / "engines").mkdir()
    name = name.format(absolute=outside)

    def point_outside(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"]["graph.onnx"]

    rewrite_manifest(own_bundle, point_outside)
    with pytest.raises(BundleError, match="which leaves the bundle") as refused:
        Bundle.open(own_bundle)
    assert repr(name) in str(refused.value)


def test_graph_replaced_by_a_link(own_bundle: Path) -> None:
    outside = shutil.move(own_bundle / "graph.onnx", own_bundle.parent / "graph.onnx")
    (own_bundle / "graph.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="found a link. Expected only files and folders"):
        Bundle.open(own_bundle)


def test_bundle_behind_a_link_is_fine(own_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current.cmdiad").symlink_to(own_bundle)
    assert Bundle.open(tmp_path / "current.cmdiad").precision == "fp32"


@pytest.mark.parametrize("field", ["name", "graph", "preprocessing", "calibration", "files"])
def test_missing_field(own_bundle: Path, field: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.pop(field))
    with pytest.raises(BundleError, match=field) as refused:
        Bundle.open(own_bundle)
    assert refused.value.subject == str(own_bundle / "manifest.json")


@pytest.mark.parametrize("entry", [{}, {"bytes": 3}, None])
def test_file_entry_without_hash(own_bundle: Path, entry: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["files"].update({"golden.npz": entry}))
    with pytest.raises(BundleError):
        Bundle.open(own_bundle)


def test_unknown_preprocessing_option(own_bundle: Path) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["preprocessing"].update(sharpen=True))
    with pytest.raises(BundleError, match="sharpen"):
        Bundle.open(own_bundle)


@pytest.mark.parametrize("name", ["graph.onnx", "golden.npz"])
def test_required_file_that_the_manifest_does_not_list(own_bundle: Path, name: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"no {name} among its files"):
        Bundle.open(own_bundle)


def test_missing_folder_and_file_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path / "no.cmdiad")
    (tmp_path / "file.cmdiad").write_text("mine")
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "file.cmdiad")


def test_bundle_without_a_measured_search_is_an_older_one(own_bundle: Path) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["certificate"].pop("search"))
    assert Bundle.open(own_bundle).precision == "fp32"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recall", None),
        ("recall", True),
        ("score_max_share", "0.001"),
        ("distance_max_error", 10**400),
        ("label_flips", [0]),
        ("passed", False),
        ("passed", 1),
    ],
)
def test_certificate_of_a_search_that_says_nothing(own_bundle: Path, field: str, value: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["certificate"]["search"]["chosen"].update({field: value}))
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    assert refused.value.subject == str(own_bundle / "manifest.json")


@pytest.mark.parametrize("field", ["chosen", "tolerance"])
def test_certificate_of_a_search_without_a_field(own_bundle: Path, field: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["certificate"]["search"].pop(field))
    with pytest.raises(BundleError, match=field):
        Bundle.open(own_bundle)


@pytest.mark.parametrize("value", [None, "5", 10**400])
def test_plan_without_its_figures(own_bundle: Path, value: object) -> None:
    figures = ("bank", "latency_ms", "memory_mb", "graph_mb", "auroc", "score_max_share")
    chosen = dict.fromkeys(figures, 0.5)
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(plan={"chosen": chosen}))
    Bundle.open(own_bundle)
    rewrite_manifest(own_bundle, lambda manifest: manifest["plan"]["chosen"].update(memory_mb=value))
    with pytest.raises(BundleError) as refused:
        Bundle.open(own_bundle)
    assert refused.value.subject == str(own_bundle / "manifest.json")
