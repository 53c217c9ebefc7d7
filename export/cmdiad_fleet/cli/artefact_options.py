"""Options that `publish`, `pull` and `verify` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.support.command_line import option_group

if TYPE_CHECKING:
    from cmdiad_fleet.artefact.place import Access
    from cmdiad_fleet.artefact.reference import Reference

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PUBLIC_KEY = click.option("--public-key", type=_FILE, help="Public key that must verify the signature of the bundle.")
ALLOW_UNSIGNED = click.option("--allow-unsigned", is_flag=True, help="Accept any bundle, without a signature.")

REGISTRY_OPTIONS: Callable[[Any], Any] = option_group(
    "Registry",
    click.option("--ca-file", type=_FILE, help="PEM file of authorities to verify registries with."),
    click.option("--plain-http", is_flag=True, help="Use HTTP without TLS for all registries."),
    click.option(
        "--auth-host",
        default="",
        metavar="HOST",
        show_default=False,
        help="Host of the token service that may receive the credentials, if that is not the registry.",
    ),
)
MIRROR = click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="PLACE",
    help="Further REGISTRY/REPO or oci:PATH with the same artefact; tried in this order. Repeatable.",
)
DIGEST = click.option(
    "--digest", default="", metavar="sha256:HEX", show_default=False, help="Digest that the artefact must have."
)
ENGINE = click.option(
    "--engine", type=click.Choice(ENGINE_NAMES), default="cpu", help="Engine of the self-test, as in cmdiad-run."
)
EXIT_CODES = {
    1: "registry or layout not reachable, without the artefact, or with other bytes",
    4: "bundle damaged, not signed as required, or no bundle",
    5: "package or engine missing",
    6: "output not writable",
    8: "self-test failed on this machine",
}


def access_of(ca_file: Path | None, auth_host: str, *, plain_http: bool) -> Access:
    """Return the choices for connections. Credentials come from the environment or docker's configuration only.

    Raises:
        click.UsageError: The options contradict each other.
    """
    if plain_http and ca_file is not None:
        raise click.UsageError("pass --ca-file or --plain-http, not both")
    from cmdiad_fleet.artefact.place import Access

    return Access(plain_http=plain_http, ca_file=ca_file, auth_host=auth_host)


def reference_of(text: str, digest: str) -> Reference:
    """Return the name of an artefact, pinned to a digest unless that is "".

    Raises:
        ArtefactNameError: The name or the digest has another form.
        click.UsageError: The name has another digest.
    """
    from cmdiad_fleet.artefact.reference import Reference

    reference = Reference.parse(text)
    if digest and reference.digest not in ("", digest):
        raise click.UsageError("the name has another digest than --digest")
    return Reference.parse(f"{text}@{digest}") if digest and not reference.digest else reference


def require_key_or_consent(public_key: Path | None, *, allow_unsigned: bool) -> None:
    """Raise click.UsageError unless exactly one of key and consent is present."""
    if (public_key is None) != allow_unsigned:
        raise click.UsageError("pass --public-key KEY.pub, or --allow-unsigned to accept any bundle")
