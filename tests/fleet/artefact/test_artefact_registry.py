"""Publish, pull and verify against a real registry process, with password and TLS."""

from __future__ import annotations

import shutil

import pytest

from cmdiad_fleet.artefact.describe import describe
from cmdiad_fleet.artefact.place import Access, RegistryError, open_place
from cmdiad_fleet.artefact.publish import publish
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_fleet.cli.fleet import cli
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import sign_bundle
from cmdiad_runtime.bundle.manifest import write_manifest
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.support.reporter import SILENT
from graphs import tiny_bundle
from helpers import assert_refused, command, flip_byte
from mqtt_broker import write_certificates
from oci_registry import PASSWORD, USER, registry


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A registry without password and TLS for all tests of this file."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for name in ("CMDIAD_REGISTRY_USER", "CMDIAD_REGISTRY_PASSWORD", "CMDIAD_REGISTRY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "tiny.cmdiad")


def fleet(*words):
    ended = command(cli, *words)
    assert ended.code == 0, ended.err
    return ended


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_comes_back_as_it_was_and_its_address_is_known_beforehand(real, bundle, tmp_path):
    digest = describe(Bundle.open(bundle), None).artefact.digest
    published = fleet("publish", bundle, f"{real.host}/parts/gear:7")
    address = published.out.strip()
    assert address == f"{real.host}/parts/gear@{digest}"
    assert "no signature" in published.err
    pulled = fleet("pull", f"{real.host}/parts/gear:7", "--out", tmp_path / "got.cmdiad", "--allow-unsigned")
    assert pulled.out.strip() == address
    assert content_of(tmp_path / "got.cmdiad") == content_of(bundle)
    assert address in (tmp_path / "got.cmdiad.pulled.json").read_text()
    fleet("pull", address, "--out", tmp_path / "pinned.cmdiad", "--allow-unsigned")
    assert digest in fleet("verify", address, "--allow-unsigned").out


def test_equal_blobs_are_sent_once(real, bundle, tmp_path):
    fleet("publish", bundle, f"{real.host}/parts/once:1")
    again = fleet("publish", bundle, f"{real.host}/parts/once:2")
    assert again.err.startswith("0 bytes sent") or "\n0 bytes sent" in again.err
    manifest = dict(Bundle.open(bundle).manifest)
    (bundle / "notes.txt").write_text("the second version")
    write_manifest(bundle, manifest)
    changed = fleet("publish", bundle, f"{real.host}/parts/once:3")
    sent = (bundle / "notes.txt").stat().st_size + (bundle / "manifest.json").stat().st_size
    assert f"{sent} bytes sent" in changed.err


def test_a_partial_file_continues_by_a_range_of_the_real_registry(real, bundle, tmp_path):
    """The registry loses the first bytes, which the partial file has: only a range gives the whole blob."""
    manifest = dict(Bundle.open(bundle).manifest)
    (bundle / "notes.bin").write_bytes(bytes(range(256)) * 1000)
    write_manifest(bundle, manifest)
    fleet("publish", bundle, f"{real.host}/parts/range:1")
    described = describe(Bundle.open(bundle), None).artefact
    blob = next(layer for layer in described.layers if layer.title == "notes.bin")
    staging = tmp_path / ".got.cmdiad.pull"
    staging.mkdir()
    (staging / f"{blob.sha256}.partial").write_bytes((bundle / "notes.bin").read_bytes()[:5000])
    flip_byte(real.blob(blob.digest), 100)
    fleet("pull", f"{real.host}/parts/range:1", "--out", tmp_path / "got.cmdiad", "--allow-unsigned")
    assert content_of(tmp_path / "got.cmdiad") == content_of(bundle)
    refused = command(cli, "pull", f"{real.host}/parts/range:1", "--out", tmp_path / "b.cmdiad", "--allow-unsigned")
    assert_refused(refused, 1, "other bytes", "notes.bin")


def test_a_missing_tag_is_one_line(real, tmp_path):
    ended = command(cli, "pull", f"{real.host}/parts/none:1", "--out", tmp_path / "got.cmdiad", "--allow-unsigned")
    assert_refused(ended, 1, "no such artefact", real.host)
    assert sorted(tmp_path.iterdir()) == []


def test_password_and_tls(bundle, tmp_path, monkeypatch):
    key = tmp_path / "line.key"
    public = new_key(key)
    sign_bundle(bundle, key)
    (tmp_path / "store").mkdir()
    write_certificates(tmp_path)
    trust = ("--public-key", public, "--ca-file", tmp_path / "ca.pem")
    with registry(tmp_path / "store", password=True, tls=tmp_path) as running:
        name = f"{running.host}/parts/gear:7"
        assert_refused(command(cli, "publish", bundle, name, *trust), 1, "no credentials", "CMDIAD_REGISTRY_USER")
        monkeypatch.setenv("CMDIAD_REGISTRY_USER", USER)
        monkeypatch.setenv("CMDIAD_REGISTRY_PASSWORD", "wrong-secret")
        ended = command(cli, "publish", bundle, name, *trust)
        assert_refused(ended, 1, "credentials that the registry refuses")
        assert "wrong-secret" not in ended.err + ended.out
        monkeypatch.setenv("CMDIAD_REGISTRY_PASSWORD", PASSWORD)
        assert "no signature" not in fleet("publish", bundle, name, *trust).err
        fleet("pull", name, "--out", tmp_path / "got.cmdiad", *trust)
        shutil.copy(tmp_path / "broker.pem", tmp_path / "other.pem")
        other = ("--public-key", public, "--ca-file", tmp_path / "other.pem")
        ended = command(cli, "pull", name, "--out", tmp_path / "no.cmdiad", *other)
        assert_refused(ended, 1, "a TLS connection that cannot be verified")
        monkeypatch.delenv("CMDIAD_REGISTRY_USER")
        (tmp_path / "config.json").write_text(f'{{"auths": {{"{running.host}": {{"auth": "{DOCKER}"}}}}}}')
        fleet("verify", name, *trust)
    assert content_of(tmp_path / "got.cmdiad") == content_of(bundle)


DOCKER = "bGluZTc6bGluZTctc2VjcmV0"
"""`line7:line7-secret` as `docker login` stores it."""


def test_a_signed_bundle_is_not_published_without_its_key(real, bundle, tmp_path):
    new_key(tmp_path / "line.key")
    sign_bundle(bundle, tmp_path / "line.key")
    assert_refused(command(cli, "publish", bundle, f"{real.host}/parts/signed:1"), 4, "--public-key")


def test_a_damaged_bundle_is_not_published(real, bundle):
    flip_byte(bundle / "graph.onnx")
    assert_refused(command(cli, "publish", bundle, f"{real.host}/parts/bad:1"), 4, "hash")


def test_a_registry_that_is_away_is_given_up_after_some_attempts(bundle, caplog):
    place = open_place(Reference.parse("127.0.0.1:9/parts/gear:7"), Access(attempts=2, wait_s=0))
    with pytest.raises(RegistryError, match="127.0.0.1:9: found no connection") as raised:
        publish(Bundle.open(bundle), None, place, "7", SILENT)
    assert raised.value.temporary
    (line,) = caplog.messages
    assert line.startswith("127.0.0.1:9: found no connection")
    assert line.endswith("Attempt 2 of 2 follows in 0 s.")
