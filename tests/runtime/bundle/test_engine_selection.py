"""Which engine runs a bundle: fingerprint, rebuild, self-test, and `auto`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pytest

from cmdiad_runtime.bundle import engine_selection
from cmdiad_runtime.bundle.built_engines import build_for_bundle, engines_of, estimate, profiles_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import AUTO, choose_engine
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.self_test import has_passed, run_self_test, write_self_test
from cmdiad_runtime.bundle.site import site_folder, site_place
from cmdiad_runtime.cli import run as cli_module
from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.engines import Arrays, EngineName
from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from cmdiad_runtime.errors import BundleError, EngineError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.support.files import sha256_of
from doubles import FakeCuda, install
from graphs import cloud_graph, tiny_bundle, tiny_certificate
from helpers import RecordingReporter, assert_refused, command

NATIVE = {"tensorrt": "10.3.0", "rtx": "rtx-1.7.1.116"}
LIBRARY: dict[str, Any] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle(tmp_path / "tiny.cmdiad"))


@pytest.fixture(params=NATIVE)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A native engine whose library is installed, as a double."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    install(NATIVE[request.param], monkeypatch)
    return request.param


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a folder look like one of a read-only file system, also to root."""
    import os

    original = os.access

    def access(path: Path, mode: int) -> bool:
        return not (mode & os.W_OK and Path(path).is_relative_to(folder)) and original(path, mode)

    monkeypatch.setattr(os, "access", access)


def self_test(bundle: Bundle, name: Any) -> Path:
    chosen = choose_engine(bundle, name, untested=True)
    path = write_self_test(bundle, run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256))
    chosen.engine.close()
    return path


# --- building for a bundle


def test_a_built_engine_lies_in_the_cache_with_its_label(bundle: Bundle, name: Any, cache: Path) -> None:
    before = sorted(bundle.path.rglob("*"))
    reporter = RecordingReporter()
    built = build_for_bundle(bundle, LIBRARY[name], reporter)
    assert built.path == site_folder(bundle) / f"{name}-fp32-sm86.engine"
    assert built.path.is_relative_to(cache)
    assert built.built_here
    assert sorted(bundle.path.rglob("*")) == before
    assert built.fingerprint.compute_capabilities == (86,)
    assert built.fingerprint.scratch_bytes == 4096
    assert engines_of(bundle, LIBRARY[name]) == [built]
    assert [done for _, done, _ in reporter.steps] == sorted(done for _, done, _ in reporter.steps)
    assert reporter.steps[-1][1:] == (100, 100)
    Bundle.open(bundle.path)


def test_profiles_come_from_the_golden_set(bundle: Bundle) -> None:
    golden = read_golden(bundle.golden)
    assert profiles_of(golden, 8) == {"weights": ((2, 6), (21, 6), (65, 6))}
    assert profiles_of([], 8) == {}


def test_the_estimate_knows_the_last_build(bundle: Bundle, name: Any) -> None:
    assert "as last time" not in estimate(bundle, LIBRARY[name])
    build_for_bundle(bundle, LIBRARY[name])
    line = estimate(bundle, LIBRARY[name])
    assert "for compute capability 8.6" in line
    assert "s as last time" in line
    assert "GB of memory" in line


def test_a_read_only_bundle_needs_no_other_place(
    bundle: Bundle, name: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only(bundle.path, monkeypatch)
    built = build_for_bundle(bundle, LIBRARY[name])
    record = self_test(bundle, name)
    assert record.parent == built.path.parent == site_place(bundle)
    chosen = choose_engine(bundle, name)
    assert chosen.name == built.path.stem
    chosen.engine.close()


def test_a_sealed_cache_is_read(bundle: Bundle, name: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build and test, then seal the image: neither the bundle nor the cache is written to afterwards."""
    build_for_bundle(bundle, LIBRARY[name])
    self_test(bundle, name)
    read_only(bundle.path.parent, monkeypatch)
    choose_engine(bundle, name).engine.close()
    assert_refused(command(cli, "--self-test", bundle.path, "--engine", name), 6, "CMDIAD_CACHE")


def test_nowhere_to_write_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdiad_runtime.bundle.site.cache_folder", lambda: None)
    with pytest.raises(OutputError, match="CMDIAD_CACHE"):
        site_folder(bundle)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file": "a", "seconds": 1, "fingerprint": {}}'])
def test_a_damaged_label_is_named(bundle: Bundle, name: Any, content: str) -> None:
    label = build_for_bundle(bundle, LIBRARY[name]).path.with_suffix(".json")
    label.write_text(content)
    with pytest.raises(BundleError) as refused:
        choose_engine(bundle, name)
    assert refused.value.subject == str(label)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seconds": "9"}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"file": 3}, "file"),
        ({"file": "../other.engine"}, "file"),
        ({"fingerprint": None}, "EngineFingerprint"),
        ({"moon": 1}, "newer cmdiad"),
    ],
)
def test_a_wrong_value_of_a_label_is_named(bundle: Bundle, name: Any, changes: dict[str, Any], word: str) -> None:
    label = build_for_bundle(bundle, LIBRARY[name]).path.with_suffix(".json")
    label.write_text(json.dumps({**json.loads(label.read_text()), **changes}))
    with pytest.raises(BundleError, match=word) as refused:
        choose_engine(bundle, name)
    assert refused.value.subject == str(label)


def test_an_interrupted_build_leaves_nothing(bundle: Bundle, name: Any) -> None:
    class Interrupting(RecordingReporter):
        def step(self, name: str, done: int, total: int) -> None:
            if done > 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_for_bundle(bundle, LIBRARY[name], Interrupting())
    assert [path.name for path in site_folder(bundle).iterdir()] == ["bundle.json"]


# --- no verdict without fit and self-test


def test_no_engine_says_how_to_get_one(bundle: Bundle, name: Any) -> None:
    with pytest.raises(EngineError) as refused:
        choose_engine(bundle, name)
    assert refused.value.found == f"no {LIBRARY[name]} engine"
    assert f"cmdiad-build {bundle.path} --target {name}" in refused.value.action


def test_an_untested_engine_gives_no_verdicts(bundle: Bundle, name: Any) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    with pytest.raises(EngineError) as refused:
        Inspector.open(bundle.path, OpenOptions(engine=name))
    assert "NVIDIA Double (compute capability 8.6)" in refused.value.found
    assert refused.value.action == f"run cmdiad-run --self-test {bundle.path} --engine {name}"
    record = self_test(bundle, name)
    assert record.parent == site_folder(bundle)
    assert record.name.startswith(f"{name}-fp32-sm86.")
    with Inspector.open(bundle.path, OpenOptions(engine=name)) as inspector:
        assert inspector.engine.identity.startswith(LIBRARY[name])


def test_the_record_says_what_ran_where_and_how_well(bundle: Bundle, name: Any) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    record = json.loads(self_test(bundle, name).read_text())
    assert record["format"] == "cmdiad-self-test"
    assert record["passed"] is True
    assert record["identity"].endswith("on NVIDIA Double (compute capability 8.6)")
    assert record["comparison"]["engine"].startswith(record["identity"])
    assert record["comparison"]["score_max_share"] < 1e-6
    assert record["samples"] == 3
    assert record["seconds"] >= 0
    assert set(record["versions"]) == {"cmdiad", "numpy", "python"}


CHANGES: dict[str, dict[str, Any]] = {
    "failed": {"passed": False},
    "another device": {"identity": "tensorrt 10.3.0 on another"},
    "another engine file": {"file_sha256": "0" * 64},
    "another certificate": {"certificate_sha256": "0" * 64},
    "another format": {"format": "notes"},
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_record_of_something_else_does_not_count(bundle: Bundle, name: Any, case: str) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    path = self_test(bundle, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **CHANGES[case]}))
    with pytest.raises(EngineError, match="no passed self-test"):
        choose_engine(bundle, name)


DAMAGE: dict[str, dict[str, Any]] = {
    "a verdict that is no bool": {"passed": 1},
    "no comparison": {"comparison": None},
    "samples as text": {"samples": "3"},
    "no time": {"created": "yesterday"},
    "a number as version": {"versions": {"cmdiad": 1}},
    "a negative duration": {"seconds": -1},
    "an unknown field": {"moon": 1},
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_record_does_not_count(bundle: Bundle, case: str) -> None:
    path = self_test(bundle, "cpu")
    record = json.loads(path.read_text())
    passed = (bundle, "cpu", record["identity"], record["file_sha256"])
    assert has_passed(*passed)
    path.write_text(json.dumps({**record, **DAMAGE[case]}))
    assert not has_passed(*passed)


def test_a_record_contradicting_its_comparison_does_not_count(bundle: Bundle) -> None:
    path = self_test(bundle, "cpu")
    record = json.loads(path.read_text())
    comparison = {**record["comparison"], "label_flips": 1}
    path.write_text(json.dumps({**record, "comparison": comparison}))
    assert not has_passed(bundle, "cpu", record["identity"], record["file_sha256"])


def test_a_record_that_cannot_be_read_does_not_count(bundle: Bundle, name: Any) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    self_test(bundle, name).write_text("{")
    with pytest.raises(EngineError, match="no passed self-test"):
        choose_engine(bundle, name)


def test_another_kind_of_device_has_to_be_tested_itself(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    install(NATIVE["rtx"], monkeypatch)
    build_for_bundle(bundle, "tensorrt_rtx")
    self_test(bundle, "rtx")
    same_code, _ = install(NATIVE["rtx"], monkeypatch)
    same_code.device_name = "NVIDIA Other"
    with pytest.raises(EngineError, match="NVIDIA Other"):
        choose_engine(bundle, "rtx")


def test_an_engine_for_another_device_is_refused_or_rebuilt(
    bundle: Bundle, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    install(NATIVE[name], monkeypatch, capability=(8, 9))
    with pytest.raises(EngineError) as refused:
        choose_engine(bundle, name, untested=True)
    assert "built for compute capability 8.6 and this device has 8.9" in refused.value.found
    chosen = choose_engine(bundle, name, untested=True, rebuild=True)
    assert chosen.name == f"{name}-fp32-sm89"
    chosen.engine.close()
    assert {engine.path.stem for engine in engines_of(bundle, LIBRARY[name])} == {
        f"{name}-fp32-sm86",
        f"{name}-fp32-sm89",
    }


def test_a_rebuilt_engine_needs_its_self_test_too(bundle: Bundle, name: Any) -> None:
    with pytest.raises(EngineError, match="no passed self-test"):
        Inspector.open(bundle.path, OpenOptions(engine=name, rebuild=True))
    assert engines_of(bundle, LIBRARY[name])


def test_the_cpu_is_certified_by_the_export_for_its_architecture(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "other.cmdiad", certificate=tiny_certificate("other"))
    bundle = Bundle.open(path)
    with pytest.raises(EngineError, match=f"no passed self-test of cpu with onnxruntime .*{platform.machine()}"):
        choose_engine(bundle, "cpu")
    self_test(bundle, "cpu")
    choose_engine(bundle, "cpu").engine.close()


def int8_bundle(folder: Path) -> Path:
    certificate = json.loads(json.dumps(tiny_certificate(platform.machine())).replace("fp32", "int8"))
    sha256 = sha256_of(cloud_graph(folder.with_suffix(".onnx")))
    graph = {"file": "graph.onnx", "sha256": sha256, "precision": "int8"}
    return tiny_bundle(folder, certificate=certificate, graph=graph)


@pytest.mark.failure_mode("A bundle in int8 or int8-cpu on an x86-64 processor without VNNI or AMX")
@pytest.mark.parametrize("engine", ["cpu", "auto"])
def test_int8_is_tested_where_sums_of_products_may_be_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    bundle, run = Bundle.open(int8_bundle(tmp_path / "int8.cmdiad")), OnnxRuntimeEngine.run

    def cut_off(self: OnnxRuntimeEngine, inputs: Arrays) -> Arrays:
        return {name: value * np.float32(0.9) for name, value in run(self, inputs).items()}

    monkeypatch.setattr(engine_selection, "adds_int8_products_exactly", lambda: False)
    choose_engine(bundle, engine).engine.close()
    monkeypatch.setattr(OnnxRuntimeEngine, "run", cut_off)
    with pytest.raises(EngineError, match=r"found a failed self-test.*--precision fp16, because this processor"):
        choose_engine(bundle, engine)
    monkeypatch.setattr(engine_selection, "adds_int8_products_exactly", lambda: True)
    choose_engine(bundle, engine).engine.close()


# --- auto


def test_auto_takes_a_tested_engine_and_says_what_it_passed_over(bundle: Bundle, name: Any) -> None:
    chosen = choose_engine(bundle, "auto")
    assert chosen.name == "cpu"
    assert set(chosen.passed_over) == set(AUTO) - {"cpu"}
    assert chosen.passed_over[name] == f"no {LIBRARY[name]} engine"
    build_for_bundle(bundle, LIBRARY[name])
    chosen = choose_engine(bundle, "auto")
    assert chosen.name == "cpu"
    assert "no passed self-test" in chosen.passed_over[name]
    self_test(bundle, name)
    chosen = choose_engine(bundle, "auto")
    assert chosen.name == f"{name}-fp32-sm86"
    chosen.engine.close()


def test_every_engine_is_offered_and_ordered() -> None:
    option = next(option for option in cli_module.cli.params if option.name == "engine")
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(get_args(EngineName))
    assert {"auto", "triton", *AUTO} == set(get_args(EngineName))
    assert AUTO[-1] == "cpu"


# --- the command


def test_the_command_tests_records_and_then_inspects_again(bundle: Bundle, name: Any) -> None:
    build_for_bundle(bundle, LIBRARY[name])
    ended = command(cli, "--self-test", bundle.path, "--engine", name)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"self-test passed: 3 golden samples on {LIBRARY[name]} ")
    assert ended.err.splitlines()[-1].startswith(f"result: {site_folder(bundle)}/{name}-fp32-sm86.")
    choose_engine(bundle, name).engine.close()


def test_without_the_flag_nothing_is_kept(bundle: Bundle) -> None:
    before = sorted(bundle.path.rglob("*"))
    assert command(cli, bundle.path).code == 0
    assert sorted(bundle.path.rglob("*")) == before


def test_the_command_rebuilds_where_it_may(bundle: Bundle, name: Any) -> None:
    assert_refused(command(cli, "--self-test", bundle.path, "--engine", name), 5, "cmdiad-build", "--rebuild")
    ended = command(cli, "--self-test", bundle.path, "--engine", name, "--rebuild")
    assert ended.code == 0, ended.err
    assert has_passed_here(bundle, name)


def has_passed_here(bundle: Bundle, name: str) -> bool:
    chosen = choose_engine(bundle, name, untested=True)  # type: ignore[arg-type]
    chosen.engine.close()
    return has_passed(bundle, chosen.name, chosen.engine.identity, chosen.file_sha256)


def test_a_failed_self_test_is_kept_and_refuses_verdicts(
    bundle: Bundle, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.engines._tensorrt import TensorRtEngine

    build_for_bundle(bundle, LIBRARY[name])
    original = TensorRtEngine.run
    monkeypatch.setattr(
        TensorRtEngine, "run", lambda self, inputs: {key: 1.01 * value for key, value in original(self, inputs).items()}
    )
    ended = command(cli, "--self-test", bundle.path, "--engine", name)
    assert_refused(ended, 8, bundle.path)
    assert ended.out.startswith("self-test FAILED")
    assert_refused(command(cli, bundle.path, "part.tiff", "--engine", name), 5, "no passed self-test")


def test_a_self_test_takes_no_inputs(bundle: Bundle) -> None:
    ended = command(cli, "--self-test", bundle.path, "part.tiff")
    assert ended.code == 2
    assert "leave INPUT out" in ended.err


def test_device_memory_is_given_back_whatever_happens(bundle: Bundle, name: Any) -> None:
    cuda = sys.modules["cuda.bindings.runtime"]
    assert isinstance(cuda, FakeCuda)
    build_for_bundle(bundle, LIBRARY[name])
    command(cli, bundle.path, "part.tiff", "--engine", name)  # refused: untested
    command(cli, "--self-test", bundle.path, "--engine", name)
    with Inspector.open(bundle.path, OpenOptions(engine=name)):
        pass
    cuda.assert_all_freed()
