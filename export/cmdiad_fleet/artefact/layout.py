"""Read and write an OCI image layout on the disk: a folder, or an uncompressed `.tar` file of one.

A folder can hold many artefacts, which share equal blobs. An archive holds one. An archive is read in place: nothing
of its names, links or modes ever reaches the disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cmdiad_fleet.artefact.artefact import ARTEFACT_TYPE, IMAGE_MANIFEST, Blob, blob_of, canonical_json, read_digest
from cmdiad_fleet.artefact.place import Content, RegistryError
from cmdiad_fleet.artefact.reference import LAYOUT, Reference
from cmdiad_runtime.bundle.integrity import ENTRIES_LIMIT, MANIFEST_LIMIT
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write, free_name, sha256_of
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.regular_file import open_regular

ARCHIVE = ".tar"
INDEX, MARK, BLOBS = "index.json", "oci-layout", "blobs/sha256"
TAG = "org.opencontainers.image.ref.name"
_MARK_CONTENT = canonical_json({"imageLayoutVersion": "1.0.0"})
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_WAIT_S = 10.0


class Layout:
    """Implementation of `WritablePlace` for a layout on the disk.

    Args:
        path: Folder, or a file whose name ends in `.tar`. It may be missing before something is published.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"{LAYOUT}{path}"
        self._path = path
        self._archive = _Archive(path) if path.suffix == ARCHIVE and path.exists() else None
        self._members: dict[str, Path | bytes] = {}

    def manifest(self, reference: Reference) -> bytes:
        """Return a manifest; see `Place`."""
        digest = reference.digest or self._digest_of_tag(reference.tag)
        return self._read(f"{BLOBS}/{read_digest(digest)}")

    @contextmanager
    def blob(self, blob: Blob, start: int) -> Iterator[tuple[int, Content]]:
        """Open a blob from a position; see `Place`."""
        with self._open(f"{BLOBS}/{blob.sha256}") as file:
            file.seek(start)
            yield start, file

    def put_blob(self, blob: Blob, content: Path | bytes) -> bool:
        """Store a blob unless the layout has it; see `WritablePlace`."""
        if self._path.suffix == ARCHIVE:
            self._require_new()
            self._members[f"{BLOBS}/{blob.sha256}"] = content
            return True
        target = self._path / BLOBS / blob.sha256
        if target.is_file() and sha256_of(target) == blob.sha256:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                shutil.copyfile(content, temporary, follow_symlinks=False)
            if sha256_of(temporary) != blob.sha256:
                raise OutputError(
                    self.name, found="a file that changed while it was copied", action="run the command again"
                )
        return True

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store a manifest and point the tag to it; see `WritablePlace`."""
        blob = blob_of(content, IMAGE_MANIFEST)
        self.put_blob(blob, content)
        if self._path.suffix == ARCHIVE:
            members = {**self._members, MARK: _MARK_CONTENT, INDEX: _index([], blob, tag)}
            with atomic_write(self._path) as temporary:
                _write_archive(temporary, members)
            return
        with lock_folder(self._path, wait_s=_WAIT_S):
            entries = self._entries() if (self._path / INDEX).exists() else []
            for name, text in ((MARK, _MARK_CONTENT), (INDEX, _index(entries, blob, tag))):
                with atomic_write(self._path / name) as temporary:
                    temporary.write_bytes(text)

    def close(self) -> None:
        """Close the archive. Idempotent."""
        if self._archive is not None:
            self._archive.close()

    def _digest_of_tag(self, tag: str) -> str:
        """Return the digest that a tag points to; without a tag, that of the only artefact."""
        entries = self._entries()
        if not tag and len(entries) != 1:
            raise self._error(f"{len(entries)} artefacts and no tag or digest in the name", "a name of one artefact")
        for entry in entries:
            if not tag or _tag_of(entry) == tag:
                return str(entry["digest"])
        raise self._error(f"no tag {tag}", "a tag of the layout")

    def _entries(self) -> list[dict[str, Any]]:
        content = self._read(INDEX)
        try:
            entries = json.loads(content)["manifests"]
            for entry in entries:
                read_digest(entry["digest"])
                _tag_of(entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"a damaged {INDEX}", "the index of a layout") from error
        return list(entries)

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            content = file.read(MANIFEST_LIMIT + 1)
        if len(content) > MANIFEST_LIMIT:
            raise self._error(f"more than {MANIFEST_LIMIT} bytes in {name}", "a shorter file")
        return content

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = open_regular(self._path / name) if self._archive is None else self._archive.open(name)
        except OSError as error:
            raise self._error(f"no readable {name} ({cause_of(error)})", "a complete layout") from error
        with file:
            yield file

    def _require_new(self) -> None:
        if self._path.exists():
            raise OutputError(
                self._path,
                found="a file",
                expected="a new archive, which holds one artefact",
                action=f"choose another name: {free_name(self._path)} is free",
            )

    def _error(self, problem: str, expected: str) -> RegistryError:
        return RegistryError(self.name, found=problem, expected=expected, action="check the path and the tag")


class _Archive:
    """Tar file whose regular files are opened by name, without unpacking the archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = ExitStack()
        self._file: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}

    def open(self, name: str) -> BinaryIO:
        """Open a file of the archive for reading; OSError if there is none or the archive is damaged."""
        try:
            archive = self._listed()
            member = self._members.get(name)
            file = None if member is None else archive.extractfile(member)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise OSError("a damaged archive") from error
        if file is None:
            raise FileNotFoundError(f"no {name} in the archive")
        return file  # type: ignore[return-value]

    def close(self) -> None:
        self._opened.close()
        self._file = None

    def _listed(self) -> tarfile.TarFile:
        if self._file is not None:
            return self._file
        content = self._opened.enter_context(open_regular(self._path, follow=True))
        self._file = self._opened.enter_context(tarfile.open(fileobj=content, mode="r:"))  # noqa: SIM115 - open until `close`
        for count, member in enumerate(self._file):
            if count > ENTRIES_LIMIT:
                raise tarfile.TarError("too many members")
            if member.isreg() and not member.issparse():
                self._members[member.name.removeprefix("./")] = member
        return self._file


def _index(entries: list[dict[str, Any]], blob: Blob, tag: str) -> bytes:
    """Return the index with one more artefact. A moved tag leaves its former artefact without a tag."""
    kept = [_without_tag(entry) if tag and _tag_of(entry) == tag else entry for entry in entries]
    kept = [entry for entry in kept if entry["digest"] != blob.digest or _tag_of(entry)]
    if tag or all(entry["digest"] != blob.digest for entry in kept):
        added = {"mediaType": IMAGE_MANIFEST, "artifactType": ARTEFACT_TYPE, "digest": blob.digest, "size": blob.bytes}
        kept.append({**added, "annotations": {TAG: tag}} if tag else added)
    kept.sort(key=lambda entry: (_tag_of(entry), entry["digest"]))
    return canonical_json({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": kept})


def _tag_of(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(TAG, ""))


def _without_tag(entry: dict[str, Any]) -> dict[str, Any]:
    annotations = {name: text for name, text in entry["annotations"].items() if name != TAG}
    return {**entry, "annotations": annotations}


def _write_archive(path: Path, members: dict[str, Path | bytes]) -> None:
    """Write an archive whose bytes depend on names and contents alone."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(members.items()):
            _add(archive, name, content)


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    with open_regular(content) as file:
        member.size = content.stat().st_size
        hashed = _Hashed(file)
        archive.addfile(member, hashed)  # type: ignore[arg-type]
    if hashed.digest != Path(name).name:
        raise OutputError(content, found="a file that changed while it was copied", action="run the command again")


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        return block
