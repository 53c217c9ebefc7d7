import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.engines.fingerprint import EngineFingerprint, capability_text
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.records import NewerRecordError, RecordError

CONTENT = b"an engine"
GRAPH = "ab" * 32
FINGERPRINT = EngineFingerprint(
    library="tensorrt_rtx",
    library_version="1.7.1.116",
    compute_capabilities=(86, 89, 120),
    precision="fp16",
    graph_sha256=GRAPH,
    engine_sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    certified=False,
    certification="has not run on a device",
    scratch_bytes=8_282_112,
)
INSTALLED: dict[str, Any] = {
    "library": "tensorrt_rtx",
    "library_version": "1.7.1.116",
    "compute_capability": 89,
    "graph_sha256": GRAPH,
}


def changed(**fields: object) -> dict[str, Any]:
    return {**FINGERPRINT.to_json(), **fields}


def test_json_text_round_trips() -> None:
    assert EngineFingerprint.from_json(json.loads(json.dumps(FINGERPRINT.to_json()))) == FINGERPRINT


def test_json_form_is_stable() -> None:
    assert FINGERPRINT.to_json() == {
        "library": "tensorrt_rtx",
        "library_version": "1.7.1.116",
        "compute_capabilities": [86, 89, 120],
        "precision": "fp16",
        "graph_sha256": GRAPH,
        "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size_bytes": 9,
        "certified": False,
        "certification": "has not run on a device",
        "scratch_bytes": 8_282_112,
        "weights_bytes": None,
        "layers": None,
        "note": "",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("library", "onnxruntime"),
        ("library", ["tensorrt"]),
        ("library_version", " "),
        ("library_version", 10),
        ("compute_capabilities", []),
        ("compute_capabilities", "86"),
        ("compute_capabilities", [89, 86]),
        ("compute_capabilities", [86, 86]),
        ("compute_capabilities", [86.0]),
        ("compute_capabilities", [True, 86]),
        ("compute_capabilities", [8]),
        ("precision", "int4"),
        ("graph_sha256", GRAPH.upper()),
        ("graph_sha256", GRAPH + "\n"),
        ("engine_sha256", None),
        ("size_bytes", 0),
        ("size_bytes", True),
        ("size_bytes", 9.0),
        ("certified", 1),
        ("certified", None),
        ("certification", ""),
        ("scratch_bytes", -1),
        ("weights_bytes", "12"),
        ("layers", False),
        ("note", None),
    ],
)
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RecordError, match=field):
        EngineFingerprint.from_json(changed(**{field: value}))


def test_the_constructor_is_as_strict() -> None:
    with pytest.raises(RecordError, match="size_bytes"):
        dataclasses.replace(FINGERPRINT, size_bytes=-1)


@pytest.mark.parametrize("name", FINGERPRINT.to_json())
def test_missing_fields_are_named(name: str) -> None:
    data = FINGERPRINT.to_json()
    del data[name]
    with pytest.raises(RecordError, match=f"no field {name}$"):
        EngineFingerprint.from_json(data)


def test_unknown_fields_are_named() -> None:
    with pytest.raises(NewerRecordError, match="unknown field colour"):
        EngineFingerprint.from_json(changed(colour="blue"))


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_anything_but_an_object_is_refused(data: object) -> None:
    with pytest.raises(RecordError, match="not an object"):
        EngineFingerprint.from_json(data)


def test_a_fitting_engine_has_no_mismatch() -> None:
    assert FINGERPRINT.mismatch(**INSTALLED) is None


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"library": "tensorrt"}, "built with tensorrt_rtx 1.7.1.116 and this is tensorrt 1.7.1.116"),
        ({"library_version": "1.7.0"}, "built with tensorrt_rtx 1.7.1.116 and this is tensorrt_rtx 1.7.0"),
        (
            {"compute_capability": 87},
            "built for compute capability 8.6, 8.9, 12.0 and this device has 8.7",
        ),
        (
            {"graph_sha256": "cd" * 32},
            "built from graph abababababab… and the bundle holds graph cdcdcdcdcdcd…",
        ),
    ],
)
def test_one_mismatch_as_text(difference: dict[str, Any], words: str) -> None:
    assert FINGERPRINT.mismatch(**{**INSTALLED, **difference}) == f"it was {words}"


def test_all_mismatches_are_reported_at_once() -> None:
    reasons = FINGERPRINT.mismatch(
        library="tensorrt", library_version="10.3.0", compute_capability=75, graph_sha256="0" * 64
    )
    assert reasons is not None
    assert reasons.count("it was built") == 3


def test_the_described_file_passes(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_bytes(CONTENT)
    FINGERPRINT.check_file(engine)


@pytest.mark.parametrize("content", [b"an Engine", CONTENT + b" ", CONTENT[:-1], b""])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    engine = tmp_path / "engine"
    engine.write_bytes(content)
    with pytest.raises(BundleError, match=str(engine)):
        FINGERPRINT.check_file(engine)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone: found No such file"):
        FINGERPRINT.check_file(tmp_path / "gone")


@pytest.mark.parametrize(("capability", "text"), [(75, "7.5"), (86, "8.6"), (120, "12.0"), (121, "12.1")])
def test_capability_text(capability: int, text: str) -> None:
    assert capability_text(capability) == text
