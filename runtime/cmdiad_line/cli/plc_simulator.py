"""`cmdiad-line plc-simulator`: play the PLC against a station, for its start-up and for tests."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.support.command_line import GroupedCommand, option_group

if TYPE_CHECKING:
    from cmdiad_line.plc.program import PlcProgram, TakenResult

HELP = """Play the PLC against the Modbus TCP server at HOST:PORT and check every answer.

The simulated PLC sends triggers, takes and acknowledges every result, and checks that each result belongs to the part
with that id. The result is a table of counts. A line in use must be stopped before: the simulator sends real triggers.
"""
EXAMPLES = (
    "cmdiad-line plc-simulator 127.0.0.1:5020 --parts 100 --takt 0.5",
    "cmdiad-line plc-simulator 127.0.0.1:5020 --recipe gear --parts 10",
)
PROBLEMS = ("unanswered", "foreign", "swapped", "timed_out", "late")
"""Counts that must be 0."""
FAULTS = ("storm", "no-acknowledge")
"""Values of the option --fault."""


def _host_and_port(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT."""
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise click.BadParameter(f"{value!r} is no HOST:PORT, for example 127.0.0.1:5020")
    return host.strip("[]"), int(port)


@click.command(
    "plc-simulator",
    cls=GroupedCommand,
    help=HELP,
    examples=EXAMPLES,
    exit_codes={1: "a check failed, or the station does not answer"},
)
@click.argument("server", metavar="HOST:PORT", callback=_host_and_port)
@option_group(
    "Run",
    click.option("--parts", type=click.IntRange(1), default=10, help="Number of triggers."),
    click.option("--takt", type=click.FloatRange(0), default=1.0, help="Seconds between two triggers."),
    click.option("--timeout", type=click.FloatRange(0.01), default=5.0, help="Seconds to wait for a result."),
    click.option("--recipe", default="", help="Id of the recipe to activate first."),
)
@option_group(
    "Faults",
    click.option(
        "--fault",
        "faults",
        multiple=True,
        type=click.Choice(FAULTS),
        help="Fault of the PLC: storm sends triggers also if the station is not ready; no-acknowledge never "
        "acknowledges a result.",
    ),
)
def plc_simulator(
    server: tuple[str, int], *, parts: int, takt: float, timeout: float, recipe: str, faults: tuple[str, ...]
) -> int:
    """See HELP."""
    from cmdiad_line.plc.program import PlcProgram
    from cmdiad_line.plc.simulator import PlcClient, PlcConnectionError, run_program
    from cmdiad_runtime.errors import CmdiadError

    taken: list[TakenResult] = []
    program = PlcProgram(
        taken=taken.append,
        parts=parts,
        takt_s=takt,
        timeout_s=timeout,
        storm="storm" in faults,
        acknowledge="no-acknowledge" not in faults,
    )
    try:
        with PlcClient(*server) as client:
            if recipe and not client.command("activate_recipe", requested_recipe=recipe):
                raise CmdiadError(
                    "--recipe",
                    found=f"{recipe}, which the station refused",
                    action="check its id and the station's log",
                )
            lost = run_program(client, program, limit_s=parts * (takt + timeout) + 60)
    except (PlcConnectionError, TimeoutError) as error:
        raise CmdiadError(
            "", found=str(error), action="check that the station runs, and address and port in its section [modbus]"
        ) from error
    click.echo("\n".join(_lines(program, taken, lost)))
    return 1 if any(program.counts[name] for name in PROBLEMS) or lost else 0


def _lines(program: PlcProgram, taken: list[TakenResult], lost: int) -> list[str]:
    """Return the table of counts, the reasons of NG, and the time from the trigger to the result."""
    from cmdiad_line.plc.program import COUNTS

    counts = [f"{name:<12} {program.counts[name]:>7}  {meaning}" for name, meaning in COUNTS.items()]
    counts.append(f"{'lost':<12} {lost:>7}  Connections that were lost.")
    reasons = Counter(result.shown.reason or "not read in time" for result in taken if not result.passed)
    if reasons:
        counts.append(f"NG: {', '.join(f'{reason} {count}' for reason, count in reasons.most_common())}.")
    seconds = [result.seconds for result in taken if result.seconds is not None]
    if seconds:
        times = f"median {1000 * median(seconds):.1f} ms, longest {1000 * max(seconds):.1f} ms"
        counts.append(f"Trigger to result, as the PLC sees it: {times}.")
    return counts
