"""Verify a received bundle: its files against the artefact, signature, annotations, and self-test on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.artefact.artefact import Artefact
from cmdiad_fleet.artefact.describe import KEY_FINGERPRINT, annotations_of, files_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import self_test_of
from cmdiad_runtime.bundle.manifest import read_manifest
from cmdiad_runtime.bundle.self_test import SelfTest, require_passed, write_self_test
from cmdiad_runtime.bundle.signature import fingerprint_of
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import BundleError, CmdiadError, OutputError
from cmdiad_runtime.support.reporter import Reporter


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Requirements for a received bundle.

    Attributes:
        public_key: Key whose owner must have signed the bundle; None accepts any bundle, signed or not.
        engine: Engine that runs the self-test.
    """

    public_key: Path | None
    engine: EngineName = "cpu"


def check_head(folder: Path, artefact: Artefact, proof: Proof) -> None:
    """Verify the signature of a manifest and compare its files with the layers, before the large files are received.

    Args:
        folder: Folder with the manifest and, if there is one, the signature.
        artefact: Artefact that the two files belong to.
        proof: Requirements.

    Raises:
        BundleError: The manifest is damaged, not signed by the key, or has other files than the artefact.
        EngineError: The package that verifies signatures is missing.
    """
    record, _ = read_manifest(folder, proof.public_key)
    own = artefact.files
    expected = {**{name: own[name] for name in own if (folder / name).exists()}, **record.files}
    if own != expected:
        differing = sorted(name for name in {*own, *expected} if own.get(name) != expected.get(name))
        raise BundleError(
            folder,
            found=f"an artefact whose files are not those of the bundle's manifest ({', '.join(differing):.200})",
            expected="one layer for each file of the bundle",
            action="publish the bundle again",
        )


def prove(folder: Path, artefact: Artefact, proof: Proof, reporter: Reporter) -> SelfTest:
    """Verify every hash and the signature of a received bundle, its annotations, and its self-test on this machine.

    Args:
        folder: Folder of the bundle.
        artefact: Artefact that the bundle came from.
        proof: Requirements.
        reporter: Receiver of progress.

    Raises:
        BundleError: The bundle is damaged, not signed by the key, or its figures are not those of the annotations.
        EngineError: The engine is missing or failed.
        CertificateError: The self-test failed.
    """
    bundle = Bundle.open(folder, require_signature=proof.public_key)
    _check_annotations(bundle, artefact, proof)
    return require_passed_here(bundle, proof.engine, reporter)


def require_passed_here(bundle: Bundle, engine: EngineName, reporter: Reporter) -> SelfTest:
    """Run the self-test of a verified bundle on this machine, and record and return the test.

    Raises:
        EngineError: The engine is missing or failed.
        CertificateError: The self-test failed.
    """
    test = self_test_of(bundle, engine, rebuild=True, reporter=reporter)
    with suppress(OutputError):  # Without a cache folder, the test is repeated where its record is needed.
        write_self_test(bundle, test)
    require_passed(bundle.path, test)
    return test


def is_same_bundle(folder: Path, artefact: Artefact) -> bool:
    """Return True if a folder is an intact bundle with exactly the files of an artefact. No signature is verified."""
    try:
        files = files_of(Bundle.open(folder))
    except CmdiadError:
        return False
    return files == artefact.files


@contextmanager
def named(folder: Path, name: str) -> Iterator[None]:
    """Let errors about a temporary folder name the artefact instead."""
    try:
        yield
    except CmdiadError as error:
        texts = (error.subject, error.found, error.expected, error.action)
        if not any(str(folder) in text for text in texts):
            raise
        subject, problem, expected, action = (text.replace(str(folder), name) for text in texts)
        raise type(error)(subject, found=problem, expected=expected, action=action) from error


def _check_annotations(bundle: Bundle, artefact: Artefact, proof: Proof) -> None:
    """Refuse an artefact that shows people other figures than the bundle has. Unknown annotations are ignored."""
    expected = annotations_of(bundle)
    if proof.public_key is not None:
        expected[KEY_FINGERPRINT] = fingerprint_of(proof.public_key)
    for name, text in expected.items():
        if artefact.annotations.get(name, text) != text:
            raise BundleError(
                bundle.path,
                found=f"the annotation {name} = {artefact.annotations[name]:.80}",
                expected=f"{text:.80}, as in the bundle",
                action="publish the bundle again, and check who owns the registry",
            )
