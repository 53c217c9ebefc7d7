"""Names of artefacts, and manifests of artefacts from a registry that sends anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmdiad_fleet.artefact.artefact import TITLE, read_artefact
from cmdiad_fleet.artefact.describe import describe
from cmdiad_fleet.artefact.reference import ArtefactNameError, Reference, is_loopback_registry
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import BundleError
from graphs import tiny_bundle
from helpers import python

HEX = "ab" * 32
HEAVY = """
import sys
import cmdiad_fleet.cli.publish, cmdiad_fleet.cli.pull, cmdiad_fleet.cli.verify
print({"oras", "requests", "urllib3", "numpy", "onnxruntime", "cryptography"} & sys.modules.keys())
"""


def test_the_commands_load_no_heavy_package() -> None:
    assert python(HEAVY) == "set()\n"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "layout", "tag", "digest"),
    [
        ("reg.plant:5000/parts/gear:7", "reg.plant:5000", "parts/gear", None, "7", ""),
        ("localhost/gear", "localhost", "gear", None, "", ""),
        (f"[::1]:5000/gear:7@sha256:{HEX}", "[::1]:5000", "gear", None, "7", f"sha256:{HEX}"),
        ("oci:/a/b.tar:v1", "", "", Path("/a/b.tar"), "v1", ""),
        ("oci:C:x/y", "", "", Path("C:x/y"), "", ""),
        (f"oci:me@home/y@sha256:{HEX}", "", "", Path("me@home/y"), "", f"sha256:{HEX}"),
    ],
)
def test_a_name_is_read_and_written_alike(text, registry, repository, layout, tag, digest):
    reference = Reference.parse(text)
    assert reference == Reference(registry, repository, layout, tag, digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gear",
        "parts/gear:7",  # other tools read this as a repository of docker.io
        "reg.plant/Gear",
        "reg.plant/../gear",
        "reg.plant/gear:",
        "reg.plant/gear@sha256:12",
        "reg.plant/gear@md5:" + "0" * 32,
        "user:password@reg.plant/gear",
        "https://reg.plant/gear",
        "reg.plant/gear?x",
        "reg.plant/gear\n",
        "oci:",
        "reg.plant/" + "a" * 2000,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ArtefactNameError):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("127.0.0.1.evil.com", False),
        ("10.0.0.1", False),
    ],
)
def test_only_this_machine_is_loopback(host, loopback):
    assert is_loopback_registry(host) == loopback


@pytest.fixture
def manifest(tmp_path) -> dict[str, Any]:
    bundle = Bundle.open(tiny_bundle(tmp_path / "tiny.cmdiad"))
    return json.loads(describe(bundle, None).artefact.content)


def retitled(*titles: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for layer, title in zip(manifest["layers"], titles, strict=False):
            layer["annotations"][TITLE] = title

    return change


def sized(size: object, position: int = 0) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["layers"][position].update(size=size)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (retitled("../../etc/passwd"), "leaves the bundle"),
        (retitled("/etc/passwd"), "leaves the bundle"),
        (retitled("a\\..\\b"), "leaves the bundle"),
        (retitled("C:x"), "leaves the bundle"),
        (retitled("a/\x1b[2J"), "leaves the bundle"),
        (retitled(""), "leaves the bundle"),
        (retitled("graph.onnx", "graph.onnx"), "twice"),
        (retitled("graph.onnx", "GRAPH.onnx"), "twice"),
        (retitled("a", "a/b"), "a folder too"),
        (retitled("x", "y", "z"), "no manifest.json"),
        (sized(1 << 40), "at most"),
        (sized(4 << 20, 2), "at most 4194304"),
        (sized(True), "damaged"),
        (sized(-1), "damaged"),
        (lambda manifest: manifest["layers"][0].update(digest="sha256:../../x"), "damaged"),
        (lambda manifest: manifest.update(layers=manifest["layers"] * 200), "layers"),
        (lambda manifest: manifest.update(layers=[]), "layers"),
        (lambda manifest: manifest.update(artifactType="application/vnd.oci.image"), "another type"),
        (lambda manifest: manifest.update(annotations={"a": 1}), "damaged"),
        (lambda manifest: manifest.update(annotations=[1]), "damaged"),
        (lambda manifest: manifest.pop("config"), "damaged"),
    ],
)
def test_a_manifest_with_bad_intentions_is_refused(manifest, change, word):
    change(manifest)
    if word == "at most 4194304":
        manifest["layers"][2]["size"] += 1
    with pytest.raises(BundleError, match=word):
        read_artefact(json.dumps(manifest).encode(), "reg.plant/gear")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"artifactType": 1}'])
def test_other_bytes_are_refused(content):
    with pytest.raises(BundleError):
        read_artefact(content, "reg.plant/gear")


def test_the_address_depends_on_the_bundle_alone(tmp_path, manifest):
    bundle = Bundle.open(tmp_path / "tiny.cmdiad")
    first = describe(bundle, None).artefact
    again = describe(Bundle.open(tmp_path / "tiny.cmdiad"), None).artefact
    assert first == again
    assert read_artefact(first.content, "x") == first
    other = Bundle.open(tiny_bundle(tmp_path / "other.cmdiad", name="other"))
    assert describe(other, None).artefact.digest != first.digest
