"""The first path of `cmdiad-run`: always the bundle."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

_ARCHIVES = (".zip", ".gz", ".tar", ".tgz", ".7z", ".xz")
"""Suffixes of packed folders."""


def bundle_and_inputs(paths: tuple[Path, ...], modality: str | None, *, named: bool) -> tuple[Path, tuple[Path, ...]]:
    """Return the bundle and the inputs that the paths of a command line name; without any path, the newest bundle.

    Args:
        paths: Paths of the command line; the first is the bundle.
        modality: Modality of the newest bundle, or None for any.
        named: True if the bundle must be named.

    Raises:
        BundleError: The first path is clearly no bundle, or there is none.
        click.UsageError: The bundle must be named, and is not.
    """
    from cmdiad_runtime.support.newest import BUNDLES, newest_bundle

    if paths:
        _require_bundle(paths[0], modality)
        return paths[0], paths[1:]
    if named:  # the search for the newest bundle reads manifests whose signatures have not been verified
        raise click.UsageError("name the BUNDLE: --require-signature and --watch do not choose one")
    bundle = newest_bundle(BUNDLES, modality)
    say(f"bundle: {printable(bundle)} (the newest)")
    return bundle, paths


def _require_bundle(path: Path, modality: str | None) -> None:
    """Raise BundleError if a path is clearly no bundle: a mistyped name must not end in verdicts of another bundle."""
    from cmdiad_runtime.support.newest import BUNDLES, newest_bundle

    if path.suffix == ".cmdiad" or (path / "manifest.json").exists() or is_pattern_bundle(path):
        return
    if path.is_dir():
        problem = "a folder without manifest.json"
    else:
        problem = "a file" if path.exists() else "no such file or folder"
    action = "check the path"
    if path.is_file():
        action = "unpack the bundle and pass its folder" if path.suffix in _ARCHIVES else "pass a bundle, then INPUT"
    try:
        action += f"; the newest bundle here is {newest_bundle(BUNDLES, modality)}"
    except BundleError:
        action += ", or create a bundle with cmdiad-export"
    raise BundleError(path, found=problem, expected="the folder of a bundle as the first argument", action=action)
