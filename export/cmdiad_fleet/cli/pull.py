"""`cmdiad-fleet pull`: receive a bundle, verify and test it on this machine, and add it to a station if requested."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_fleet.cli.artefact_options import (
    ALLOW_UNSIGNED,
    DIGEST,
    ENGINE,
    EXIT_CODES,
    MIRROR,
    PUBLIC_KEY,
    REGISTRY_OPTIONS,
    access_of,
    reference_of,
    require_key_or_consent,
)
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.support.command_line import GroupedCommand, option_group

if TYPE_CHECKING:
    from cmdiad_fleet.artefact.pull import Pulled

HELP = """Receive the bundle NAME: REGISTRY/REPO[:TAG][@sha256:HEX], or oci:PATH[:TAG] for a layout on the disk.

Every hash, the signature and the self-test on this machine must pass before the bundle gets the final name. An
interrupted pull leaves no incomplete bundle, and the next pull continues where the first ended.
"""
EXAMPLES = (
    "cmdiad-fleet pull registry.plant.example/parts/gear:7 --out gear.cmdiad --public-key line7.key.pub",
    "cmdiad-fleet pull oci:gear.tar --station station.toml --recipe gear-7 --activate --public-key line7.key.pub",
)
_EXIT_CODES = {**EXIT_CODES, 11: "running station not reachable, not ready, or refuses token or recipe"}
RECORD = ".pulled.json"
"""Ending of the file next to a bundle that records where the bundle came from."""


@click.command("pull", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=_EXIT_CODES)
@click.argument("name")
@option_group(
    "Target",
    click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="New folder for the bundle."),
    click.option(
        "--station",
        "place",
        type=click.Path(path_type=Path),
        metavar="STATE",
        help="Station file, or state folder of a station that was started before; receives the bundle as a recipe.",
    ),
    click.option(
        "--recipe",
        "recipe_id",
        default="",
        metavar="ID",
        show_default=False,
        help="Id of the new recipe, with --station.",
    ),
    click.option(
        "--product",
        "product_id",
        default="",
        metavar="ID",
        show_default=False,
        help="Id of the product, with --station.",
    ),
    click.option(
        "--activate",
        is_flag=True,
        help="Make the recipe the active one, also of a running station, which changes between two parts.",
    ),
    click.option(
        "--station-token",
        "token_file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File with a token of the role engineer, to activate a recipe of a running station. "
        "Default: the environment variable CMDIAD_STATION_TOKEN.",
    ),
)
@option_group("Trust", PUBLIC_KEY, ALLOW_UNSIGNED, DIGEST, ENGINE)
@option_group("Mirrors", MIRROR)
@REGISTRY_OPTIONS
def pull(  # noqa: PLR0913 - one parameter for each option
    name: str,
    out: Path | None,
    place: Path | None,
    recipe_id: str,
    product_id: str,
    activate: bool,
    token_file: Path | None,
    public_key: Path | None,
    allow_unsigned: bool,
    digest: str,
    engine: EngineName,
    mirrors: tuple[str, ...],
    ca_file: Path | None,
    plain_http: bool,
    auth_host: str,
) -> None:
    """See HELP."""
    require_key_or_consent(public_key, allow_unsigned=allow_unsigned)
    _check_target(out, place, recipe_id, with_station=bool(product_id or activate))
    if token_file is not None and not activate:
        raise click.UsageError("--station-token needs --activate")
    from cmdiad_fleet.artefact.proof import Proof
    from cmdiad_fleet.artefact.pull import Source
    from cmdiad_fleet.artefact.pull import pull as pull_bundle
    from cmdiad_runtime.support.progress import TerminalReporter

    source = Source(
        reference=reference_of(name, digest),
        mirrors=tuple(reference_of(mirror, "") for mirror in mirrors),
        access=access_of(ca_file, auth_host, plain_http=plain_http),
    )
    proof = Proof(public_key=public_key, engine=engine)
    if place is not None:
        from cmdiad_fleet.artefact.handover import HandOver, pull_to_station, station_state

        station = HandOver(
            state=station_state(place),
            recipe_id=recipe_id,
            product_id=product_id,
            activate=activate,
            token_file=token_file,
        )
        pulled = pull_to_station(source, station, proof, TerminalReporter())
    else:
        assert out is not None
        pulled = pull_bundle(source, out, proof, TerminalReporter())
        _record(out, str(source.reference), pulled)
    _report(pulled)


def _check_target(out: Path | None, place: Path | None, recipe_id: str, *, with_station: bool) -> None:
    """Raise click.UsageError unless the options name one target, with a usable id for a recipe."""
    if (out is None) == (place is None):
        raise click.UsageError("pass --out DIR, or --station STATE with --recipe ID")
    if place is None:
        if recipe_id or with_station:
            raise click.UsageError("--recipe, --product and --activate need --station STATE")
        return
    from cmdiad_line.station_file.recipe import RECIPE_ID

    if RECIPE_ID.fullmatch(recipe_id) is None:
        raise click.UsageError("pass --recipe ID: 1 to 64 letters, digits, hyphens, dots and underscores")


def _record(out: Path, name: str, pulled: Pulled) -> None:
    """Record next to the bundle which digest a name meant. A bundle takes no further files."""
    from cmdiad_runtime.support.files import remove_leftovers, write_json

    resolved = out.resolve()
    content = {
        "address": str(pulled.address),
        "name": name,
        "place": pulled.place,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    record = resolved.with_name(f"{resolved.name}{RECORD}")
    remove_leftovers(record)
    write_json(record, content)


def _report(pulled: Pulled) -> None:
    comparison = pulled.test.comparison
    if not pulled.received:
        click.echo("the bundle was there already", err=True)
    click.echo(
        f"self-test passed: {pulled.test.samples} golden samples on {comparison.engine}; score within "
        f"{comparison.score_max_share:.2%} of the threshold",
        err=True,
    )
    click.echo(pulled.address)
