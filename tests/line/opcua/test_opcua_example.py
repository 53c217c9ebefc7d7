"""examples/opcua_client.py as a program, against a server in another process."""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cmdiad_line.transport.messages import Trigger, Triggered
from opcua_station import PASSWORD, Supervisor, plant, running_server, station_result
from patience import LIMIT_S
from station_messages import station_state

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "opcua_client.py"


async def run_example(supervisor: Supervisor, folder: Path, acquisition_id: int, **changes) -> tuple[int, str]:
    """Run the example with the test as the station; return exit code and output."""
    url = f"opc.tcp://127.0.0.1:{supervisor.port}/cmdiad"
    certificate = supervisor.folder / "opcua" / "server.pem"
    arguments = [str(EXAMPLE), url, str(certificate), "ope-1", "bolt 7", str(folder)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, "CMDIAD_PASSWORD": PASSWORD}, stdout=asyncio.subprocess.PIPE
    )
    trigger = await supervisor.expect(Trigger)
    assert trigger.part_id == "bolt 7"
    supervisor.send(station_result(acquisition_id - 1, channel="plc"))
    supervisor.send(Triggered(token=trigger.token, acquisition_id=acquisition_id, accepted=True))
    supervisor.send(station_result(acquisition_id, part_id="bolt 7", **changes))
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    with running_server(tmp_path_factory.mktemp("station")) as supervisor:
        supervisor.send(station_state())
        yield supervisor


@pytest.mark.long
def test_example_prints_the_verdict_of_its_part(supervisor, tmp_path):
    bad = asyncio.run(run_example(supervisor, tmp_path / "own", 22, verdict="NG", reason="score", score=3.0))
    good = asyncio.run(run_example(supervisor, tmp_path / "own", 32))
    assert bad == (1, "part bolt 7, job 22: NG score\n")
    assert good == (0, "part bolt 7, job 32: OK\n")


def test_part_without_a_result_in_time_is_ng_while_other_parts_get_theirs(supervisor):
    inspect = runpy.run_path(str(EXAMPLE))["inspect"]

    async def other_parts() -> None:
        for acquisition_id in count(100):
            supervisor.send(station_result(acquisition_id, channel="plc"))
            await asyncio.sleep(0.1)

    async def scenario():
        async with plant(supervisor, "ope-1") as connected:
            verdict = asyncio.ensure_future(inspect(connected.client, "bolt 7", limit_s=1.0))
            trigger = await supervisor.expect(Trigger)
            supervisor.send(Triggered(token=trigger.token, acquisition_id=42, accepted=True))
            others = asyncio.ensure_future(other_parts())
            assert await asyncio.wait_for(verdict, LIMIT_S) == "NG"
            others.cancel()

    asyncio.run(scenario())
