"""`cmdiad-fleet publish`: write a bundle as an OCI artefact to a registry, or to a layout on the disk."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_fleet.cli.artefact_options import EXIT_CODES, PUBLIC_KEY, REGISTRY_OPTIONS, access_of, reference_of
from cmdiad_runtime.support.command_line import GroupedCommand, option_group

HELP = """Publish BUNDLE as an OCI artefact. NAME is REGISTRY/REPO[:TAG], or oci:PATH[:TAG] for a layout on the disk:
a folder, or an archive if PATH ends in .tar.

The command prints the address, REGISTRY/REPO@sha256:HEX. The same bundle always has the same digest; a tag is only a
pointer. Blobs that the registry has already are not sent again. Credentials come from the environment
(CMDIAD_REGISTRY_USER and CMDIAD_REGISTRY_PASSWORD, or CMDIAD_REGISTRY_TOKEN) or from docker's configuration.
"""
EXAMPLES = (
    "cmdiad-fleet publish gear.cmdiad registry.plant.example/parts/gear:7 --public-key line7.key.pub",
    "cmdiad-fleet publish gear.cmdiad oci:gear.tar:7",
)


@click.command(
    "publish",
    cls=GroupedCommand,
    help=HELP,
    examples=EXAMPLES,
    exit_codes={code: EXIT_CODES[code] for code in (1, 4, 5, 6)},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name")
@option_group("Trust", PUBLIC_KEY)
@REGISTRY_OPTIONS
def publish(
    bundle: Path, name: str, public_key: Path | None, ca_file: Path | None, plain_http: bool, auth_host: str
) -> None:
    """See HELP."""
    from contextlib import closing

    from cmdiad_fleet.artefact.place import open_place
    from cmdiad_fleet.artefact.publish import open_bundle_to_publish
    from cmdiad_fleet.artefact.publish import publish as publish_bundle
    from cmdiad_runtime.support.progress import TerminalReporter

    reference = reference_of(name, "")
    if reference.digest:
        raise click.UsageError("pass a tag or nothing after the name: the digest follows from the bundle")
    opened = open_bundle_to_publish(bundle, public_key)
    access = access_of(ca_file, auth_host, plain_http=plain_http)
    with closing(open_place(reference, access)) as place:
        published = publish_bundle(opened, public_key, place, reference.tag, TerminalReporter())
    click.echo(reference.pinned(published.digest))
    click.echo(f"{published.sent} bytes sent, {published.present} bytes were there already", err=True)
    if public_key is None:
        click.echo("warning: the bundle has no signature; only pull --allow-unsigned accepts that", err=True)
