"""Test which changes of the programs change the digest of kept results, and which kept result is used."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import cmdiad_bench
import cmdiad_export
import cmdiad_runtime
import cmdiad_train
from cmdiad_bench import kept_results
from cmdiad_bench.kept_results import outdated_text, stored_result
from cmdiad_runtime.support.files import write_json


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the packages that take part in the digest."""
    packages = {p.__name__: p for p in (cmdiad_runtime, cmdiad_train, cmdiad_export, cmdiad_bench)}
    for name, package in packages.items():
        shutil.copytree(package.__path__[0], tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    stand_ins = {name: SimpleNamespace(__name__=name, __path__=[str(tmp_path / name)]) for name in packages}
    monkeypatch.setattr(kept_results, "cmdiad_bench", stand_ins.pop("cmdiad_bench"))
    monkeypatch.setattr(kept_results, "_PACKAGES", tuple(stand_ins.values()))
    return tmp_path


def digest() -> str:
    return kept_results.program_digest.__wrapped__()


def test_another_place_and_compiled_files_do_not_change_the_digest(sources: Path) -> None:
    before = kept_results.program_digest()
    assert digest() == before, "a copy has the digest of the original"
    (sources / "cmdiad_train/fit/__pycache__").mkdir(exist_ok=True)
    (sources / "cmdiad_train/fit/__pycache__/fit.cpython-311.pyc").write_bytes(b"compiled")
    (sources / "cmdiad_bench/methods/page.py").write_text("another page")
    assert digest() == before


@pytest.mark.parametrize(
    "file",
    [
        "cmdiad_train/fit/fit.py",
        "cmdiad_train/extractors/weights/rgb.safetensors",
        "cmdiad_export/bundle_writer.py",
        "cmdiad_runtime/preprocess/prepare.py",
        "cmdiad_bench/latency.py",
        "cmdiad_bench/methods/measure.py",
    ],
)
def test_a_changed_source_changes_the_digest(sources: Path, file: str) -> None:
    with (sources / file).open("ab") as changed:
        changed.write(b"\n")
    assert digest() != kept_results.program_digest()


def test_a_renamed_source_changes_the_digest(sources: Path) -> None:
    (sources / "cmdiad_train/fit/fit.py").rename(sources / "cmdiad_train/fit/fitting.py")
    assert digest() != kept_results.program_digest()


def test_only_a_result_of_the_same_digest_is_used(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert stored_result(file, "a") is None and outdated_text(file, "a") == ""
    write_json(file, {"digest": "a", "image_auroc": 0.5})
    assert stored_result(file, "a") == {"digest": "a", "image_auroc": 0.5} and outdated_text(file, "a") == ""
    assert stored_result(file, "b") is None and "another version of cmdiad" in outdated_text(file, "b")
    file.write_text("[1")
    assert stored_result(file, "a") is None and "another recipe" in outdated_text(file, "a")
