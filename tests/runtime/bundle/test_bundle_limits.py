"""What a bundle may ask of the machine that opens it: sizes are checked before anything is hashed or unpacked."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.bundle import golden as golden_module
from cmdiad_runtime.bundle import integrity
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import GOLDEN_LIMIT, read_golden
from cmdiad_runtime.bundle.integrity import FILE_LIMIT, FILES_LIMIT, MANIFEST_LIMIT
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.errors import BundleError
from graphs import FINGERPRINT
from helpers import assert_refused, command, rewrite_manifest

ORDINARY = {"sha256": "0" * 64, "bytes": 0}


def _refused(bundle: Path, *words: object) -> None:
    assert_refused(command(cli, bundle), 4, *words)


def _grow(path: Path, size: int) -> None:
    """Make it so long without taking room on the disk."""
    with path.open("r+b") as file:
        file.truncate(size)


def _no_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(integrity, "sha256_of", refuse)


def test_manifest_over_the_limit(own_bundle: Path) -> None:
    path = own_bundle / "manifest.json"
    path.write_bytes(path.read_bytes().ljust(MANIFEST_LIMIT))
    Bundle.open(own_bundle)
    _grow(path, 1 << 40)
    _refused(own_bundle, path, f"more than {MANIFEST_LIMIT} bytes")


def test_file_over_the_limit_is_not_hashed(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _grow(own_bundle / "graph.onnx", FILE_LIMIT + 1)
    rewrite_manifest(own_bundle, lambda m: m["files"]["graph.onnx"].update(bytes=FILE_LIMIT + 1))
    _no_hashing(monkeypatch)
    _refused(own_bundle, own_bundle / "graph.onnx", f"{FILE_LIMIT + 1} bytes", f"at most {FILE_LIMIT}")


def test_files_over_the_limit_in_all_are_not_hashed(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def list_large_ones(manifest: dict[str, Any]) -> None:
        for number in range(5):
            path = own_bundle / f"large{number}"
            path.touch()
            _grow(path, FILE_LIMIT)
            manifest["files"][path.name] = {**ORDINARY, "bytes": FILE_LIMIT}

    rewrite_manifest(own_bundle, list_large_ones)
    _no_hashing(monkeypatch)
    _refused(own_bundle, "in all")


def test_number_of_files(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite_manifest(own_bundle, lambda m: m["files"].update({str(n): ORDINARY for n in range(FILES_LIMIT)}))
    _no_hashing(monkeypatch)
    _refused(own_bundle, f"{FILES_LIMIT + 3} files", f"at most {FILES_LIMIT}")


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"a":' * 200_000, b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", b"\xef\xbb\xbf{}"]
)
def test_nested_and_other_strange_json(own_bundle: Path, content: bytes) -> None:
    (own_bundle / "manifest.json").write_bytes(content)
    _refused(own_bundle, own_bundle / "manifest.json")


@pytest.mark.parametrize("depth", [*range(940, 1000, 4), 1100])
def test_nesting_at_the_edge_of_what_python_reads(own_bundle: Path, depth: int) -> None:
    text = (own_bundle / "manifest.json").read_text().rstrip().removesuffix("}")
    (own_bundle / "manifest.json").write_text(text + ', "deep": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(BundleError):
        Bundle.open(own_bundle)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_names_that_are_no_paths(own_bundle: Path, name: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["files"].update({name: ORDINARY}))
    _refused(own_bundle, own_bundle / "manifest.json")


def test_name_that_is_no_text(own_bundle: Path) -> None:
    path = own_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"files": {', '"files": {"\\ud800": {},', 1))
    _refused(own_bundle, path, "surrogates")


def test_loop_of_links(own_bundle: Path) -> None:
    (own_bundle / "a").symlink_to("b")
    (own_bundle / "b").symlink_to("a")
    rewrite_manifest(own_bundle, lambda manifest: manifest["files"].update({"a": ORDINARY}))
    _refused(own_bundle, own_bundle)


def test_pipe_in_place_of_a_file(own_bundle: Path) -> None:
    import os

    (own_bundle / "graph.onnx").unlink()
    os.mkfifo(own_bundle / "graph.onnx")
    _refused(own_bundle, "graph.onnx", "a pipe")


@pytest.mark.parametrize("files", [[], ["graph.onnx"], "graph.onnx", 3, {"graph.onnx": []}, {"graph.onnx": 1}])
def test_files_of_another_shape(own_bundle: Path, files: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(files=files))
    _refused(own_bundle, own_bundle)


@pytest.mark.parametrize("path", ["../outside.engine", "engines/unlisted.engine"])
def test_engine_that_is_not_among_the_files(own_bundle: Path, path: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(engines=[{"file": path, "fingerprint": FINGERPRINT}]))
    _refused(own_bundle, f"no {path} among its files")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"file": "engines/a.engine"}, "fingerprint"),
        ({"file": "engines/a.engine", "fingerprint": {}}, "fingerprint"),
        ({"file": "engines/a.engine", "fingerprint": {**FINGERPRINT, "size_bytes": 0}}, "size_bytes"),
        ({"file": None, "fingerprint": FINGERPRINT}, "EngineRecord.file"),
        ({"fingerprint": FINGERPRINT}, "file"),
        (None, "EngineRecord"),
    ],
)
def test_engine_without_label_or_file(own_bundle: Path, entry: object, word: str) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(engines=[entry]))
    _refused(own_bundle, own_bundle / "manifest.json", word, "damaged")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "null", '"5"'])
@pytest.mark.parametrize("field", ["score_threshold", "map_threshold"])
def test_thresholds_that_are_no_numbers(own_bundle: Path, field: str, number: str) -> None:
    placeholder = 123454321
    rewrite_manifest(own_bundle, lambda manifest: manifest["calibration"].update({field: placeholder}))
    path = own_bundle / "manifest.json"
    manifest = json.loads(path.read_text().replace(str(placeholder), number))
    manifest.pop("manifest_sha256")
    path.write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}))
    _refused(own_bundle, path)


@pytest.mark.parametrize("tolerance", ["score", "map"])
def test_tolerance_without_end(own_bundle: Path, tolerance: str) -> None:
    rewrite_manifest(own_bundle, lambda m: m["certificate"]["tolerances"]["fp32"].update({tolerance: 10**400}))
    _refused(own_bundle, own_bundle / "manifest.json")


@pytest.mark.parametrize("value", [-1, 10**9, 1.5, "224", None])
@pytest.mark.parametrize("name", ["size", "pad_multiple", "groups", "group_size", "grid"])
def test_sizes_that_no_machine_holds(own_bundle: Path, name: str, value: object) -> None:
    rewrite_manifest(own_bundle, lambda manifest: manifest["preprocessing"].update({name: value}))
    _refused(own_bundle, own_bundle / "manifest.json", f"Preprocessing.{name}")


def _archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def _npy(shape: tuple[int, ...], data: bytes) -> bytes:
    """An array file that claims to have this shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def test_golden_set_that_unpacks_to_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = _archive(tmp_path / "golden.npz", {"a/map.npy": _npy((1 << 20,), bytes(4 << 20))})
    assert golden.stat().st_size < 10_000
    monkeypatch.setattr(golden_module, "GOLDEN_LIMIT", 1 << 20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match=rf"more than {1 << 20}"):
        read_golden(golden)


def test_golden_limit_leaves_room() -> None:
    """A golden set of 20 clouds at the default sizes fits: inputs, the largest of them `weights`, and a map each."""
    weights, groups, maps = 4 * (56 * 56 + 1) * 1024, 4 * 3 * 1024 * (128 + 1), 4 * 224 * 224
    assert 20 * (weights + groups + maps) < GOLDEN_LIMIT


def test_array_that_claims_more_than_is_there(tmp_path: Path) -> None:
    golden = _archive(tmp_path / "golden.npz", {"a/map.npy": _npy((1 << 58,), bytes(16))})
    with pytest.raises(BundleError):
        read_golden(golden)


def _object_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"PK\x03\x04 no archive"),
        lambda path: path.write_bytes(b""),
        lambda path: _archive(path, {}),
        lambda path: _archive(path, {"a/score.npy": _object_array()}),
        lambda path: _archive(path, {"a/score.npy": b"text"}),
        lambda path: _archive(path, {"a/score": b"text"}),
        lambda path: _archive(path, {"a/score.npy": _npy((2,), bytes(8)), "a/map.npy": _npy((1,), bytes(4))}),
    ],
)
def test_golden_sets_that_are_none(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "golden.npz")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        read_golden(tmp_path / "golden.npz")
