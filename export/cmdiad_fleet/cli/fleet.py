"""`cmdiad-fleet`: bundles on many machines. A subcommand is imported when it is used."""

from __future__ import annotations

import click

from cmdiad_runtime.support.command_line import LazyGroup, run_command

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "score": ("cmdiad_fleet.cli.score:score", "Score the samples of a manifest, on this machine or on a Ray cluster."),
    "train": ("cmdiad_fleet.cli.train:train", "Train a detector for each category and recipe of a fleet file."),
    "triton": ("cmdiad_fleet.cli.triton:triton", "Write bundles as models for a Triton server."),
    "serve": ("cmdiad_fleet.cli.serve:serve", "Inspect files over HTTP with Ray Serve."),
    "publish": ("cmdiad_fleet.cli.publish:publish", "Publish a bundle in an OCI registry or layout."),
    "pull": ("cmdiad_fleet.cli.pull:pull", "Receive, verify and test a bundle, for a folder or a station."),
    "verify": ("cmdiad_fleet.cli.verify:verify", "Verify a bundle or an artefact."),
}
"""Place and purpose of each subcommand."""

HELP = """Score archives, train many detectors, and bring bundles to many machines."""
EXAMPLES: tuple[str, ...] = (
    "# score an archive with all cores of this machine; the same command continues an interrupted run",
    "cmdiad-fleet score cable.cmdiad archive.parquet --out scored/",
    "# a detector for each category and recipe of a file",
    "cmdiad-fleet train fleet.toml",
    "# models for a Triton server",
    "cmdiad-fleet triton cable.cmdiad gear.cmdiad --repository /srv/models",
    "# HTTP without containers",
    "cmdiad-fleet serve cable.cmdiad gear.cmdiad --replicas 2",
    "# bundles in a registry, and from there to a line",
    "cmdiad-fleet publish gear.cmdiad registry.plant.example/parts/gear:7 --public-key line7.key.pub",
    "cmdiad-fleet pull registry.plant.example/parts/gear:7 --out gear.cmdiad --public-key line7.key.pub",
)


@click.group("cmdiad-fleet", cls=LazyGroup, places=SUBCOMMANDS, help=HELP, examples=EXAMPLES)
def cli() -> None:
    """See HELP."""


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-fleet")
