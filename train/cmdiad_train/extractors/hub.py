"""Download timm's weights from timm's hub: resumable, checked against the hash on record, quick to say "no network".

Names, addresses and access tokens are those of timm and its hub library (`HF_ENDPOINT`, `HF_TOKEN` and proxies apply).
An interrupted download leaves a hidden `.part` file, from which the next attempt resumes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable

ANSWER_SECONDS = 4.0
"""Longest wait for the first answer of the hub, name resolution included."""
_FILES = ("model.safetensors", "pytorch_model.bin")

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class HubFile:
    """A file on the hub.

    Attributes:
        name: timm model name with its tag.
        url: Address of the file.
        etag: Hash that the hub states: SHA-256 of the content for weights.
        size: Bytes of the file.
    """

    name: str
    url: str
    etag: str
    size: int


def full_name(name: str) -> str:
    """Return a timm model name with the tag of its weights: "resnet18" becomes "resnet18.a1_in1k".

    Raises:
        RunError: timm has no weights of this name.
    """
    config = _record(name)
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


def cached_file(name: str) -> Path | None:
    """Return the weights of a timm model in the cache of the hub library, or None if another program fetched none."""
    from huggingface_hub import try_to_load_from_cache

    config = _record(name)
    if not config.hf_hub_id:
        return None
    candidates = (try_to_load_from_cache(config.hf_hub_id, file) for file in _files(config))
    return next((Path(path) for path in candidates if isinstance(path, str)), None)


def _url(repository: str, file: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, file, endpoint=os.environ.get("HF_ENDPOINT"))


def require_answer(name: str) -> None:
    """Raise RunError if the hub cannot be reached and its cache lacks the weights; quick, because timm is not imported.

    Args:
        name: timm model name with its tag, as the hub lists timm's models.
    """
    from huggingface_hub import get_hf_file_metadata, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    repository = f"timm/{name}"
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in _FILES):
        return

    def ask() -> None:
        with suppress(HfHubHTTPError):  # an answer, which `find` examines
            get_hf_file_metadata(_url(repository, _FILES[0]), timeout=ANSWER_SECONDS)

    _answer(name, ask)


def find(name: str) -> HubFile:
    """Return the file with the weights of a timm model on the hub.

    Raises:
        RunError: There is no network or no such file, or the hub refuses access.
    """
    config = _record(name)
    if not config.hf_hub_id:
        raise RunError(
            f"timm weights of {name}",
            found="no file on timm's hub",
            action="download the file that timm's record names, and run: cmdiad-extractor import FILE",
        )
    urls = [_url(config.hf_hub_id, file) for file in _files(config)]
    return _answer(name, lambda: _first(full_name(name), urls))


def download(file: HubFile, folder: Path) -> Path:
    """Download a file into a folder, or complete an interrupted download.

    Args:
        file: Result of `find`.
        folder: Existing folder.

    Returns:
        The complete file, with the suffix that it has on the hub. The caller removes or renames the file.

    Raises:
        RunError: The download broke off, or the content differs from the hash on record.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = folder / f".{file.name}-{file.etag[:16]}.part"
    done = part.stat().st_size if part.exists() else 0
    if done > file.size:
        part.unlink()
        done = 0
    try:
        if done < file.size:
            with part.open("ab") as stream:
                headers = build_hf_headers()
                http_get(file.url, stream, resume_size=done, headers=headers, expected_size=file.size)
    except Exception as error:  # the transport of the hub library raises errors of several packages
        done = part.stat().st_size if part.exists() else 0
        raise RunError(
            f"timm weights of {file.name}",
            found=f"a download that broke off after {done / 1e6:.1f} of {file.size / 1e6:.1f} MB ({_line(error)})",
            action="run the same command again, which resumes",
        ) from error
    digest = sha256_of(part)
    if re.fullmatch("[0-9a-f]{64}", file.etag) and digest != file.etag:
        part.unlink()
        raise RunError(
            f"timm weights of {file.name}",
            found=f"content with the SHA-256 {digest[:16]}…",
            expected=f"{file.etag[:16]}…, as the hub states",
            action="run the same command again",
        )
    return part.replace(part.with_suffix(Path(file.url).suffix))


def pretrained_overlay(name: str) -> dict[str, Any]:
    """Return what timm's `pretrained_cfg_overlay` needs to load a model's weights without a wait for the network.

    Raises:
        RunError: The weights are not in the cache of the hub library, and the hub cannot be reached.
    """
    cached = cached_file(name)
    if cached is not None:
        return {"file": str(cached)}
    if _record(name).hf_hub_id:
        find(name)
    return {}


def _record(name: str) -> Any:
    make_torchvision_importable()
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None or not config.has_weights:
        raise RunError(
            f"timm model {name}",
            found="no such weights in timm's record",
            expected="a preset, or a name in timm.list_pretrained()",
            action="correct the name",
        )
    return config


def _files(config: Any) -> tuple[str, ...]:
    return (config.hf_hub_filename,) if config.hf_hub_filename else _FILES


def _first(name: str, urls: list[str]) -> HubFile:
    """Return the first file that exists."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import EntryNotFoundError

    for url in urls:
        try:
            metadata = get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
        except EntryNotFoundError:
            continue
        return HubFile(name, url, metadata.etag or "", int(metadata.size or 0))
    raise FileNotFoundError("the hub has no file of these weights")


def _answer(name: str, ask: Callable[[], _Value]) -> _Value:
    """Return the answer of the hub; a daemon thread asks, because a name lookup cannot be interrupted.

    Raises:
        RunError: There is no answer in time, or the hub refuses.
    """
    answers: list[_Value] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # the hub library raises errors of several packages
            errors.append(error)

    thread = threading.Thread(target=work, name="cmdiad-hub", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if answers:
        return answers[0]
    raise _refused(name, errors[0] if errors else None)


def _refused(name: str, error: Exception | None) -> RunError:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    subject = f"timm weights of {name}"
    action = (
        f"with internet access run: cmdiad-extractor fetch {name} --out FILE.safetensors; bring the file here and run: "
        "cmdiad-extractor import FILE.safetensors"
    )
    if isinstance(error, GatedRepoError):
        return RunError(
            subject,
            found="weights whose licence must be accepted on the hub first",
            action="accept the licence, set HF_TOKEN and run the command again",
        )
    if isinstance(error, (HfHubHTTPError, FileNotFoundError)):
        return RunError(subject, found=f"a refusal of timm's hub ({_line(error)})", action=action)
    cause = f"no answer within {ANSWER_SECONDS:g} s" if error is None else _line(error)
    return RunError(subject, found=f"no connection to timm's hub ({cause})", action=action)


def _line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:160] or type(error).__name__
