"""`cmdiad-fleet verify`: verify a bundle, or an artefact of a registry or layout, and keep nothing."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_fleet.cli.artefact_options import (
    ALLOW_UNSIGNED,
    DIGEST,
    ENGINE,
    EXIT_CODES,
    PUBLIC_KEY,
    REGISTRY_OPTIONS,
    access_of,
    reference_of,
    require_key_or_consent,
)
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.support.command_line import GroupedCommand, option_group

HELP = """Verify NAME: the folder of a bundle, an artefact REGISTRY/REPO[:TAG][@sha256:HEX], or a layout oci:PATH[:TAG],
also without `oci:` if that is a path.

An artefact is received into a temporary folder. Every hash, the signature and the self-test on this machine must
pass. The command prints the digest and the annotations.
"""
EXAMPLES = (
    "cmdiad-fleet verify registry.plant.example/parts/gear:7 --public-key line7.key.pub",
    "cmdiad-fleet verify gear.cmdiad --allow-unsigned",
)


@click.command("verify", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("name")
@option_group("Trust", PUBLIC_KEY, ALLOW_UNSIGNED, DIGEST, ENGINE)
@REGISTRY_OPTIONS
def verify(  # noqa: PLR0913 - one parameter for each option
    name: str,
    public_key: Path | None,
    allow_unsigned: bool,
    digest: str,
    engine: EngineName,
    ca_file: Path | None,
    plain_http: bool,
    auth_host: str,
) -> None:
    """See HELP."""
    require_key_or_consent(public_key, allow_unsigned=allow_unsigned)
    from cmdiad_fleet.artefact.proof import Proof
    from cmdiad_fleet.artefact.pull import Source
    from cmdiad_fleet.artefact.verify import verify_artefact, verify_bundle
    from cmdiad_runtime.printable import printable
    from cmdiad_runtime.support.progress import TerminalReporter

    proof = Proof(public_key=public_key, engine=engine)
    if _is_layout(Path(name)):
        name = f"oci:{name}"
    if Path(name).is_dir():
        verified = verify_bundle(Path(name), digest, proof, TerminalReporter())
    else:
        access = access_of(ca_file, auth_host, plain_http=plain_http)
        source = Source(reference=reference_of(name, digest), access=access)
        verified = verify_artefact(source, proof, TerminalReporter())
    click.echo(verified.artefact.digest)
    for key, text in sorted(verified.artefact.annotations.items()):
        click.echo(f"{printable(key)}: {printable(text)}")
    click.echo(f"verified: {len(verified.artefact.layers)} files, self-test passed on {verified.test.identity}")


def _is_layout(path: Path) -> bool:
    """Return True for the folder or archive of an OCI layout that is named without `oci:`."""
    return (path / "oci-layout").is_file() or (path.suffix == ".tar" and path.is_file())
