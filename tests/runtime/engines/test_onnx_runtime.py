"""ONNX Runtime's providers: exactly the one that was asked for, or an error."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest

from cmdiad_runtime.engines import onnx_runtime, open_engine
from cmdiad_runtime.engines.onnx_runtime import PROVIDERS, RTX_PLUGIN
from cmdiad_runtime.errors import EngineError
from doubles import install
from graphs import cloud_graph, cloud_inputs

DEVICES = ["cuda", "ort-tensorrt", "ort-rtx"]


class Session:
    """Stands in for InferenceSession where there is no device; keeps what it was opened with."""

    opened: ClassVar[list[Session]] = []
    actual: str | None = None

    def __init__(self, graph: str, options: Any, providers: Any = None, disabled_optimizers: Any = ()) -> None:
        self.options, self.providers = options, providers
        Session.opened.append(self)

    def get_providers(self) -> list[str]:
        return [Session.actual or "CPUExecutionProvider", "CPUExecutionProvider"]

    def get_outputs(self) -> list[Any]:
        return []

    def get_modelmeta(self) -> Any:
        return types.SimpleNamespace(custom_metadata_map={})


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    return cloud_graph(tmp_path / "graph.onnx")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """ONNX Runtime that claims every provider."""
    install("10.3.0", monkeypatch)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(Session, "opened", [])
    return Session.opened


def test_threads_rest_between_two_samples(graph: Path, sessions: list[Session]) -> None:
    open_engine(graph)
    assert sessions[0].options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize("exact", [True, False])
def test_int8_kernels_that_cut_off_sums_are_not_used(
    graph: Path, sessions: list[Session], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "adds_int8_products_exactly", lambda: exact)
    open_engine(graph)
    name = "session.x64quantprecision"
    if exact:
        with pytest.raises(RuntimeError):
            sessions[0].options.get_session_config_entry(name)
    else:
        assert sessions[0].options.get_session_config_entry(name) == "1"


@pytest.mark.parametrize("exact", [True, False])
def test_shared_int8_weights_are_named_where_they_cannot_be_stored_as_uint8(
    graph: Path, sessions: list[Session], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("graph.cc:4142 AddInitializedOrtValue Attempt to replace the existing tensor")

    monkeypatch.setattr(onnx_runtime, "adds_int8_products_exactly", lambda: exact)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(EngineError, match="existing tensor" if exact else "share.*no VNNI.*Export the run again"):
        open_engine(graph)


def test_an_error_of_the_processor_is_an_exception_and_no_line_of_the_log(
    graph: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = cloud_inputs(3)
    inputs["cells"][0] = 1000
    with pytest.raises(EngineError, match="out of"):
        open_engine(graph).run(inputs)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", DEVICES)
def test_a_provider_that_is_not_there_is_an_error(graph: Path, name: Any) -> None:
    assert PROVIDERS[name] not in onnxruntime.get_available_providers()
    with pytest.raises(
        EngineError, match=rf"found providers .*CPUExecutionProvider. Expected {PROVIDERS[name]}. Run pip"
    ):
        open_engine(graph, name)


@pytest.mark.parametrize("name", DEVICES)
def test_a_silent_fallback_is_an_error(graph: Path, sessions: list[Session], name: Any) -> None:
    with pytest.raises(EngineError, match=f"found a fallback to CPUExecutionProvider. Expected {PROVIDERS[name]}"):
        open_engine(graph, name)


@pytest.mark.parametrize("name", DEVICES)
def test_only_the_one_provider_is_asked_for_and_falling_back_is_forbidden(
    graph: Path, sessions: list[Session], name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "actual", PROVIDERS[name])
    engine = open_engine(graph, name)
    (session,) = sessions
    ((provider, options),) = session.providers
    assert provider == PROVIDERS[name]
    assert not any("fp16" in option or "int8" in option for option in options)
    assert session.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert engine.identity == (
        f"onnxruntime {onnxruntime.__version__}, {PROVIDERS[name]} on NVIDIA Double (compute capability 8.6)"
    )


def test_tensorrts_engines_are_kept_in_the_cache(
    graph: Path, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "actual", PROVIDERS["ort-tensorrt"])
    open_engine(graph, "ort-tensorrt")
    ((_, options),) = sessions[0].providers
    folder = str(graph.parent / "cache" / "ort-tensorrt")
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == folder


# --- the TensorRT-RTX provider as a plugin, a package of its own


class Ort:
    """What ONNX Runtime offers for plugins, with a device or without."""

    def __init__(self, devices: list[Any], failure: str = "") -> None:
        self.registered: list[tuple[str, str]] = []
        self.devices, self.failure = devices, failure

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.failure:
            raise RuntimeError(self.failure)
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        return self.devices if self.registered else []


def install_plugin(ort: Ort, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = types.SimpleNamespace(get_library_path=lambda: "/plugin.so")
    monkeypatch.setitem(sys.modules, RTX_PLUGIN, plugin)
    for name in ("register_execution_provider_library", "get_ep_devices"):
        monkeypatch.setattr(onnxruntime, name, getattr(ort, name))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_the_plugin_is_registered_and_its_device_taken(
    graph: Path, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = types.SimpleNamespace(ep_name=PROVIDERS["ort-rtx"])
    ort = Ort([types.SimpleNamespace(ep_name="CPUExecutionProvider"), device, device])
    install_plugin(ort, monkeypatch)
    asked: list[tuple[list[Any], dict[str, str]]] = []

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            asked.append((devices, options))

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(Session, "actual", PROVIDERS["ort-rtx"])
    open_engine(graph, "ort-rtx")
    assert ort.registered == [(PROVIDERS["ort-rtx"], "/plugin.so")]
    assert asked == [([device], {})]
    assert sessions[0].providers is None


@pytest.mark.parametrize(
    ("ort", "found"),
    [
        (Ort([]), "the plugin, but no device that the plugin supports"),
        (Ort([], "libcuda.so.1: no such file\nmore"), "libcuda.so.1"),
    ],
)
def test_a_plugin_without_a_device_is_an_error(
    graph: Path, ort: Ort, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(ort, monkeypatch)
    with pytest.raises(EngineError, match=rf"found {found}.*. Expected {PROVIDERS['ort-rtx']}"):
        open_engine(graph, "ort-rtx")
