"""A line that requires a signature takes no bundle without it, and looks at nothing else in it before."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import change_bundle
from cmdiad_runtime.bundle.manifest import write_manifest
from cmdiad_runtime.bundle.signature import new_key, sign, verify_signature
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.cli.sign import cli as sign_cli
from cmdiad_runtime.errors import BundleError, EngineError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from helpers import assert_refused, command, flip_byte, rewrite_manifest, set_threshold

SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
RFC_8032_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
RFC_8032_KEY = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_8032_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def _pem(path: Path, kind: str, der: bytes) -> Path:
    from base64 import b64encode

    path.write_bytes(
        b"-----BEGIN %b KEY-----\n%b\n-----END %b KEY-----\n" % (kind.encode(), b64encode(der), kind.encode())
    )
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public key file."""
    private = tmp_path / "line.key"
    return private, new_key(private)


@pytest.fixture
def signed(own_bundle: Path, keys: tuple[Path, Path]) -> Path:
    """A signed bundle."""
    _sign(own_bundle, keys[0])
    return own_bundle


def _sign(bundle: Path, private: Path) -> None:
    assert command(sign_cli, bundle, "--key", private).code == 0


def test_second_example_of_rfc_8032(tmp_path: Path) -> None:
    private = _pem(tmp_path / "private", "PRIVATE", PKCS8_PREFIX + RFC_8032_SEED)
    public = _pem(tmp_path / "public", "PUBLIC", SPKI_PREFIX + RFC_8032_KEY)
    assert sign(b"\x72", private) == RFC_8032_SIGNATURE
    (tmp_path / "manifest.sig").write_bytes(RFC_8032_SIGNATURE)
    verify_signature(tmp_path, b"\x72", public)
    with pytest.raises(BundleError, match="not this key's of this manifest"):
        verify_signature(tmp_path, b"\x73", public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    command_line = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys[1]), "-rawin"]
    files = ["-in", str(signed / "manifest.json"), "-sigfile", str(signed / "manifest.sig")]
    assert subprocess.run([*command_line, *files], check=False, capture_output=True).returncode == 0
    flip_byte(signed / "manifest.json")
    assert subprocess.run([*command_line, *files], check=False, capture_output=True).returncode != 0


def test_signed_bundle_is_inspected_and_tested(signed: Path, keys: tuple[Path, Path], data: Path) -> None:
    image = next((data / "gear" / "test" / "good" / "rgb").iterdir())
    assert command(run_cli, signed, image, "--require-signature", keys[1]).code == 0
    assert "self-test passed" in command(run_cli, signed, "--require-signature", keys[1]).out
    with Inspector.open(signed, OpenOptions(require_signature=keys[1])) as inspector:
        assert inspector.bundle.path == signed


def test_unsigned_bundle(own_bundle: Path, keys: tuple[Path, Path]) -> None:
    Bundle.open(own_bundle)
    ended = command(run_cli, own_bundle, "--require-signature", keys[1])
    assert_refused(ended, 4, "manifest.sig", "no signature", keys[1], "cmdiad-sign")


def test_signature_of_another_key(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = new_key(tmp_path / "other.key")
    assert_refused(command(run_cli, signed, "--require-signature", other), 4, "manifest.sig", other)
    Bundle.open(signed, require_signature=keys[1])


def test_manifest_made_whole_again_after_tampering(signed: Path, keys: tuple[Path, Path]) -> None:
    rewrite_manifest(signed, lambda manifest: manifest.update(name="forged"))
    Bundle.open(signed)  # its own hash stops accidents only
    with pytest.raises(BundleError, match="not this key's of this manifest"):
        Bundle.open(signed, require_signature=keys[1])


def test_files_are_covered_through_their_hashes(signed: Path, keys: tuple[Path, Path]) -> None:
    flip_byte(signed / "graph.onnx")
    with pytest.raises(BundleError, match="whose hash is not the manifest's"):
        Bundle.open(signed, require_signature=keys[1])


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 64, b"\xff" * 64, b"\0" * 65, b"\0" * 1_000_000])
def test_nonsense_in_place_of_a_signature(signed: Path, keys: tuple[Path, Path], content: bytes) -> None:
    (signed / "manifest.sig").write_bytes(content)
    with pytest.raises(BundleError, match="not this key's of this manifest"):
        Bundle.open(signed, require_signature=keys[1])


def test_folder_in_place_of_a_signature(own_bundle: Path, keys: tuple[Path, Path]) -> None:
    (own_bundle / "manifest.sig").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.sig"):
        Bundle.open(own_bundle, require_signature=keys[1])


@pytest.mark.parametrize("manifest", [b"\xff\xfe no text", b"[" * 100_000, b'{"format": "something else"}'])
def test_nothing_is_parsed_before_the_signature(own_bundle: Path, keys: tuple[Path, Path], manifest: bytes) -> None:
    (own_bundle / "manifest.json").write_bytes(manifest)
    with pytest.raises(BundleError, match="no signature"):
        Bundle.open(own_bundle, require_signature=keys[1])


def test_no_bundle_is_chosen_unverified(keys: tuple[Path, Path]) -> None:
    ended = command(run_cli, "--require-signature", keys[1])
    assert ended.code == 2
    assert "name the BUNDLE" in ended.err


def test_manifest_does_not_list_the_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    manifest = Bundle.open(signed).manifest
    for key in ("format", "format_version", "files"):
        del manifest[key]
    write_manifest(signed, manifest)
    assert "manifest.sig" not in Bundle.open(signed).manifest["files"]


def test_another_threshold_needs_another_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    Bundle.open(signed, require_signature=keys[1])
    set_threshold(signed, 77.0)
    with pytest.raises(BundleError, match="not this key's of this manifest"):
        Bundle.open(signed, require_signature=keys[1])
    change_bundle(signed, lambda b: b.certified_calibration)
    Bundle.open(signed, require_signature=keys[1])  # the manifest is what was signed, byte for byte


def test_damaged_bundle_is_not_signed(own_bundle: Path, keys: tuple[Path, Path]) -> None:
    flip_byte(own_bundle / "golden.npz")
    assert_refused(command(sign_cli, own_bundle, "--key", keys[0]), 4, "golden.npz")
    assert not (own_bundle / "manifest.sig").exists()


def test_new_key(tmp_path: Path) -> None:
    private, public = tmp_path / "a.key", tmp_path / "a.key.pub"
    mask = os.umask(0)
    try:
        ended = command(sign_cli, "--new-key", private)
    finally:
        os.umask(mask)
    assert ended.code == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")
    assert str(public) in ended.out


@pytest.mark.parametrize("name", ["a.key", "a.key.pub"])
def test_no_key_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert_refused(command(sign_cli, "--new-key", tmp_path / "a.key"), 6, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_new_key_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder"):
        new_key(tmp_path / "missing" / "a.key")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_other_files_in_place_of_keys(signed: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    public = command(run_cli, signed, "--require-signature", tmp_path / "text")
    assert_refused(public, 4, tmp_path / "text", "Ed25519 public key")
    private = command(sign_cli, signed, "--key", tmp_path / "text")
    assert_refused(private, 4, tmp_path / "text", "Ed25519 private key")


def test_wrong_half_of_the_pair(signed: Path, keys: tuple[Path, Path]) -> None:
    assert_refused(command(run_cli, signed, "--require-signature", keys[0]), 4, keys[0], "Ed25519 public key")
    assert_refused(command(sign_cli, signed, "--key", keys[1]), 4, keys[1], "Ed25519 private key")


def test_missing_key(signed: Path, tmp_path: Path) -> None:
    ended = command(run_cli, signed, "--require-signature", tmp_path / "none.pub")
    assert_refused(ended, 4, tmp_path / "none.pub", "no such file")


def test_keys_of_another_kind_and_behind_a_passphrase(signed: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    other = ec.generate_private_key(ec.SECP256R1())
    secret = ed25519.Ed25519PrivateKey.generate()
    kind = (Encoding.PEM, PrivateFormat.PKCS8)
    (tmp_path / "other").write_bytes(other.private_bytes(*kind, NoEncryption()))
    (tmp_path / "other.pub").write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "secret").write_bytes(secret.private_bytes(*kind, BestAvailableEncryption(b"word")))
    assert_refused(command(run_cli, signed, "--require-signature", tmp_path / "other.pub"), 4, "Ed25519 public key")
    assert_refused(command(sign_cli, signed, "--key", tmp_path / "other"), 4, "Ed25519 private key")
    assert_refused(command(sign_cli, signed, "--key", tmp_path / "secret"), 4, "behind a passphrase")


def test_missing_package_is_named(signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(EngineError, match=r'pip install "cmdiad\[signature\]"'):
        Bundle.open(signed, require_signature=keys[1])
    Bundle.open(signed)


@pytest.mark.parametrize("arguments", [[], ["bundle"], ["--key", "k"], ["bundle", "--key", "k", "--new-key", "n"]])
def test_half_a_command_line(arguments: list[str]) -> None:
    ended = command(sign_cli, *arguments)
    assert ended.code == 2
    assert "BUNDLE and --key, or --new-key alone" in ended.err
