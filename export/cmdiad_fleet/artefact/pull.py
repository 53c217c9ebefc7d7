"""Pull a bundle: resolve the digest, receive, verify, test on this machine, and only then give the bundle its name.

Received blobs lie in the folder `.NAME.pull` next to the target until the bundle is complete. A killed pull leaves
that folder behind, and the next pull to the same target continues there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cmdiad_fleet.artefact.artefact import OWN_FILES, Artefact, digest_of, read_artefact
from cmdiad_fleet.artefact.download import PARTIAL, download, joined
from cmdiad_fleet.artefact.place import Access, Place, RegistryError, open_place
from cmdiad_fleet.artefact.proof import Proof, check_head, is_same_bundle, named, prove
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_runtime.bundle.self_test import SelfTest
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import atomic_directory, free_name, is_sha256, write_errors
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.reporter import Reporter

_SPARE_BYTES = 64 << 20
"""Bytes on the disk that must stay free."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Name of the artefact to receive, mirrors, and settings of the connections.

    Attributes:
        reference: Name of the artefact, with a tag or a digest.
        mirrors: Other places, in the order in which they are tried.
        access: Choices for connections.
    """

    reference: Reference
    mirrors: tuple[Reference, ...] = ()
    access: Access = field(default_factory=Access)


@dataclass(frozen=True)
class Pulled:
    """Result of a pull.

    Attributes:
        artefact: Artefact that the bundle came from.
        address: Name of the artefact with its digest and without tag.
        place: Name of the place that had the manifest.
        test: Self-test on this machine.
        received: False if the bundle was there already.
    """

    artefact: Artefact
    address: Reference
    place: str
    test: SelfTest
    received: bool


def pull(source: Source, target: Path, proof: Proof, reporter: Reporter, *, replace_target: bool = False) -> Pulled:
    """Receive a bundle into a new folder. The folder appears complete and proven, or not at all.

    Args:
        source: Artefact and places.
        target: Folder of the bundle. If the same bundle lies there already, only the proof is repeated.
        proof: Requirements for the bundle.
        reporter: Receiver of progress.
        replace_target: True to remove another folder of this name first. The caller owns the place.

    Raises:
        RegistryError: No place has the artefact, or all differ from its digest.
        BundleError: The artefact is no bundle, damaged, or not signed by the key.
        EngineError: The engine is missing or failed.
        CertificateError: The self-test failed on this machine.
        OutputError: The target exists, is in use, or has no room.
    """
    target = target.resolve()
    if not target.name:
        raise _occupied(target)
    with _open_places(source) as places:
        artefact, place = _resolve(places, source.reference)
        address = source.reference.pinned(artefact.digest)
        reporter.say(f"{source.reference} is {artefact.digest} (from {place})")
        if _is_occupied(target):
            if is_same_bundle(target, artefact):
                shutil.rmtree(_staging_of(target), ignore_errors=True)  # A pull was killed at its very end.
                return Pulled(artefact, address, place, prove(target, artefact, proof, reporter), received=False)
            if not replace_target:
                raise _occupied(target)
            shutil.rmtree(target)
        with _staging(target, artefact) as staging:
            _receive(artefact, places, staging, proof, source.access, reporter)
            with atomic_directory(target) as folder, named(folder, str(address)):
                _assemble(artefact, staging, folder)
                test = prove(folder, artefact, proof, reporter)
    return Pulled(artefact, address, place, test, received=True)


@contextmanager
def _open_places(source: Source) -> Iterator[list[Place]]:
    """Yield the places of a source in their order. Mirrors receive no credentials from the environment."""
    others = source.access.without_credentials()
    with ExitStack() as stack:
        places: list[Place] = [open_place(source.reference, source.access)]
        stack.callback(places[0].close)
        for mirror in source.mirrors:
            own = mirror.registry == source.reference.registry
            places.append(open_place(mirror, source.access if own else others))
            stack.callback(places[-1].close)
        yield places


def _resolve(places: Sequence[Place], reference: Reference) -> tuple[Artefact, str]:
    """Return the artefact and the name of the first place that has it; a digest decides which bytes are right."""
    problems = []
    for place in places:
        try:
            content = place.manifest(reference)
        except RegistryError as error:
            problems.append(error)
            continue
        digest = digest_of(content)
        if reference.digest in ("", digest):
            return read_artefact(content, str(reference)), place.name
        problems.append(
            RegistryError(
                place.name,
                found=f"a manifest with the digest {digest}",
                expected=f"the digest {reference.digest}",
                action="use a --mirror, and check who owns the registry",
            )
        )
    raise joined(problems)


def _receive(
    artefact: Artefact, places: Sequence[Place], staging: Path, proof: Proof, access: Access, reporter: Reporter
) -> None:
    """Receive all layers. The small files that name and sign all others come first, and are verified at once."""
    head = staging / "head"
    shutil.rmtree(head, ignore_errors=True)
    head.mkdir()
    first = [layer for layer in artefact.layers if layer.title in OWN_FILES]
    for layer in first:
        shutil.copyfile(download(layer, places, staging, access, reporter), head / layer.title)
    with named(head, artefact.digest):
        check_head(head, artefact, proof)
    for layer in artefact.layers:
        if layer not in first:
            download(layer, places, staging, access, reporter)


def _assemble(artefact: Artefact, staging: Path, folder: Path) -> None:
    """Give the received files their names. The files stay in the staging folder until the bundle has its name."""
    for layer in artefact.layers:
        path = folder / layer.title
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(staging / layer.sha256, path)
        except OSError:  # A file system without hard links.
            shutil.copyfile(staging / layer.sha256, path)


@contextmanager
def _staging(target: Path, artefact: Artefact) -> Iterator[Path]:
    """Lock the folder for received blobs until the block ends; remove the folder if the block succeeds.

    Raises:
        OutputError: The parent is missing, another pull works there, or the disk has no room.
    """
    folder = _staging_of(target)
    if not folder.parent.is_dir():
        raise OutputError(
            target, found=f"no folder {folder.parent}", expected="an existing folder", action="create the folder"
        )
    with write_errors(target, folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    with lock_folder(folder), write_errors(target, folder):
        _remove_others(folder, artefact)
        _require_room(folder, artefact)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _remove_others(folder: Path, artefact: Artefact) -> None:
    """Remove blobs that an earlier pull of another artefact left, and keep those that this one needs too."""
    needed = {layer.sha256 for layer in artefact.layers}
    for path in folder.iterdir():
        blob = path.name.removesuffix(PARTIAL)
        if is_sha256(blob) and blob not in needed:
            path.unlink()


def _require_room(folder: Path, artefact: Artefact) -> None:
    present = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    missing = max(0, artefact.bytes - present) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise OutputError(
            folder,
            found=f"{free >> 20} MiB free",
            expected=f"at least {missing >> 20} MiB",
            action="free some space or choose another folder",
        )


def _staging_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.pull")


def _is_occupied(target: Path) -> bool:
    return os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))


def _occupied(target: Path) -> OutputError:
    return OutputError(
        target,
        found="a file, or a folder that is not this bundle",
        expected="a new folder",
        action=f"choose another name: {free_name(target)} is free" if target.name else "name a new folder",
    )
