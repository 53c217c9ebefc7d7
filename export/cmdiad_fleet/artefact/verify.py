"""Verify a bundle or an artefact without keeping anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.artefact.artefact import Artefact
from cmdiad_fleet.artefact.describe import describe
from cmdiad_fleet.artefact.proof import Proof, require_passed_here
from cmdiad_fleet.artefact.publish import open_bundle_to_publish
from cmdiad_fleet.artefact.pull import Source, pull
from cmdiad_runtime.bundle.self_test import SelfTest
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_runtime.support.scratch import scratch_folder


@dataclass(frozen=True)
class Verified:
    """Result of a verification that passed.

    Attributes:
        artefact: Bundle as an artefact.
        test: Self-test on this machine.
    """

    artefact: Artefact
    test: SelfTest


def verify_bundle(path: Path, digest: str, proof: Proof, reporter: Reporter) -> Verified:
    """Verify the folder of a bundle, and return the artefact that publishing would make of the bundle.

    Args:
        path: Folder of the bundle.
        digest: Address that the bundle must have, or "".
        proof: Requirements.
        reporter: Receiver of progress.

    Raises:
        BundleError: The bundle is damaged, has another address, or is not signed by the key.
        EngineError: The engine is missing or failed.
        CertificateError: The self-test failed on this machine.
    """
    bundle = open_bundle_to_publish(path, proof.public_key)
    artefact = describe(bundle, proof.public_key).artefact
    if digest not in ("", artefact.digest):
        raise BundleError(
            path, found=f"the digest {artefact.digest}", expected=digest, action="check which bundle you need"
        )
    return Verified(artefact, require_passed_here(bundle, proof.engine, reporter))


def verify_artefact(source: Source, proof: Proof, reporter: Reporter) -> Verified:
    """Verify an artefact of a registry or layout in a temporary folder.

    Raises:
        CmdiadError: See `pull`.
    """
    with scratch_folder("verify") as folder:
        pulled = pull(source, folder / "bundle.cmdiad", proof, reporter)
    return Verified(pulled.artefact, pulled.test)
