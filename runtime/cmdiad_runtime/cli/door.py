"""`cmdiad WORD ...`: the same as `cmdiad-WORD ...`, so that one name leads to all commands."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from cmdiad_runtime.support.command_line import GroupedCommand, run_command

COMMANDS = {
    "data": ("cmdiad_train.cli.data", "check, prepare or synthesize data sets"),
    "train": ("cmdiad_train.cli.train", "train one detector and write a run directory"),
    "extractor": ("cmdiad_train.cli.extractor", "import, pretrain or distill extractor weights"),
    "export": ("cmdiad_export.cli", "write a certified bundle from a run directory"),
    "build": ("cmdiad_runtime.cli.build", "build the engine of a bundle on the device where it will run"),
    "run": ("cmdiad_runtime.cli.run", "inspect files with a bundle"),
    "line": ("cmdiad_line.cli.line", "run a supervised station next to a line"),
    "fleet": ("cmdiad_fleet.cli.fleet", "score archives, train many detectors, distribute bundles"),
    "info": ("cmdiad_runtime.cli.info", "show what a bundle or a run directory is"),
    "threshold": ("cmdiad_runtime.cli.threshold", "show or move the threshold of a bundle"),
    "sign": ("cmdiad_runtime.cli.sign", "make keys, sign bundles"),
    "bench": ("cmdiad_bench.cli", "measure accuracy, latency and memory of bundles; write a report"),
}
"""Module and purpose of each command, by the word after `cmdiad`."""

_LIST = "\n".join(f"  cmdiad {word:<10} {purpose}" for word, (_, purpose) in COMMANDS.items())
HELP = f"""Train on two modalities, ship one graph, inspect with one sensor.

\b
{_LIST}

`cmdiad COMMAND --help` shows more."""


@click.command("cmdiad", cls=GroupedCommand, help=HELP)
@click.argument("command", metavar="COMMAND", type=click.Choice(list(COMMANDS)))
def cli(command: str) -> None:
    """See HELP. Runs only for `--help`, `--version` and what is no command."""


def main() -> None:
    """Run the command that the first argument names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in COMMANDS:
        sys.argv[:2] = [f"cmdiad-{word}"]
        import_module(COMMANDS[word][0]).main()
    run_command(cli, "cmdiad", [word])
