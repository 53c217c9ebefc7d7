"""Open a bundle for whichever sensors arrive: verify that its three bundles are the exported ones, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from cmdiad_runtime.bundle.bundle import Bundle, with_calibration
from cmdiad_runtime.bundle.integrity import IGNORED, SIGNATURE, damaged
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.pattern_manifest import PatternManifest, read_patterns
from cmdiad_runtime.engines.graph_file import WEIGHTS, shared_weights
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.support.files import is_temporary_name
from cmdiad_runtime.support.pattern_folder import PATTERNS


@dataclass(frozen=True)
class PatternBundle:
    """A verified bundle for whichever sensors arrive.

    Attributes:
        path: Folder of the bundle.
        record: Validated content of `patterns.json`.
        bundles: Verified bundle of each pattern.
    """

    path: Path
    record: PatternManifest
    bundles: Mapping[Sensors, Bundle]


def open_pattern_bundle(
    path: str | PathLike[str],
    open_bundle: Callable[[Path], Bundle] = Bundle.open,
    *,
    require_signature: str | PathLike[str] | None = None,
) -> PatternBundle:
    """Verify a bundle for whichever sensors arrive.

    Args:
        path: Folder with `patterns.json` and the bundles of all patterns.
        open_bundle: Function that verifies and opens one of the bundles.
        require_signature: Public key (PEM file) whose owner must have signed `patterns.json`. `open_bundle` must
            require the signatures of the bundles.

    Raises:
        BundleError: `patterns.json` or a bundle is missing, damaged, made by a newer cmdiad or not signed, a bundle is
            not the exported one or inspects other modalities than its pattern, or the folder contains anything else.
        EngineError: A signature is required and the package that verifies signatures is missing.
    """
    folder = Path(path)
    record = read_patterns(folder, require_signature)
    _check_unlisted(folder, record)
    bundles = {pattern: open_bundle(folder / part.folder) for pattern, part in record.patterns.items()}
    for pattern, bundle in bundles.items():
        if shared_weights(bundle.path) is not None and bundle.record.files[WEIGHTS].sha256 != record.weights:
            raise damaged(folder / WEIGHTS, f"weights whose hash is not that of {PATTERNS}")
        if exported_hash(bundle) != record.patterns[pattern].sha256:
            raise damaged(bundle.path, f"a bundle that was not exported with {PATTERNS}")
        needed = {"rgb", "xyz"} if pattern == "both" else {pattern}
        if bundle.preprocessing.modality != pattern or set(bundle.preprocessing.modalities) != needed:
            raise damaged(bundle.path, f"a bundle for {' and '.join(bundle.preprocessing.modalities)} as {pattern}")
    return PatternBundle(folder, record, MappingProxyType(bundles))


def exported_hash(bundle: Bundle) -> str:
    """Return the hash of the manifest as exported, whatever thresholds and checks were changed since."""
    content = with_calibration(bundle, bundle.certified_calibration)
    off = content.pop("envelope_off_original", None)
    if off is not None:
        content["envelope"] = {**content["envelope"], "off": off}
    return manifest_hash(content)


def _check_unlisted(folder: Path, record: PatternManifest) -> None:
    """Raise BundleError if the folder contains anything that `patterns.json` does not name."""
    listed = {part.folder for part in record.patterns.values()} | {PATTERNS, SIGNATURE, *IGNORED}
    if record.weights is not None:
        listed.add(WEIGHTS)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise damaged(folder, f"no readable folder ({error.strerror})") from error
    for name in names:
        if name not in listed and not is_temporary_name(name, SIGNATURE):
            raise damaged(folder / name, f"a file that {PATTERNS} does not list")
    for part in record.patterns.values():
        if (folder / part.folder).is_symlink():
            raise damaged(folder / part.folder, "a link")
