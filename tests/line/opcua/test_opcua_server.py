"""The OPC UA process, with a real client in another process: states, jobs, results, recipes, end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from asyncua import ua

from cmdiad_line.opcua.result_data import types
from cmdiad_line.transport.messages import (
    AcquisitionDone,
    Alive,
    Answer,
    Command,
    Trigger,
    Triggered,
)
from opcua_station import Plant, Supervisor, plant, running_server, station_result
from patience import LIMIT_S
from station_messages import DIGEST, station_state

MODE = "VisionStateMachine/AutomaticModeStateMachine"


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    with running_server(tmp_path_factory.mktemp("station")) as supervisor:
        yield supervisor


def job_arguments(part: str = "", meas: str = "", recipe: str = ""):
    extension = ua.VariantType.ExtensionObject
    return [
        ua.Variant(types.MeasIdDataType(Id=meas), extension),
        ua.Variant(types.PartIdDataType(Id=part), extension),
        ua.Variant(types.RecipeIdExternalDataType(Id=recipe), extension),
        ua.Variant(types.ProductIdDataType(Id=""), extension),
        ua.Variant([], ua.VariantType.Variant, is_array=True),
    ]


def cause():
    return [ua.Variant(0, ua.VariantType.Int32), ua.Variant("test", ua.VariantType.String)]


async def ready(supervisor: Supervisor, plant: Plant) -> None:
    supervisor.send(station_state())
    await plant.wait_for_state("Operational/Ready")


async def run_job(supervisor: Supervisor, plant: Plant, acquisition_id: int, **changes) -> None:
    """Run one job to its end."""
    job = asyncio.ensure_future(plant.call(f"{MODE}/StartSingleJob", *job_arguments(part=changes.get("part_id", ""))))
    trigger = await supervisor.expect(Trigger)
    supervisor.send(Triggered(token=trigger.token, acquisition_id=acquisition_id, accepted=True))
    supervisor.send(station_result(acquisition_id, **changes))
    await job
    await plant.event("ResultReady")
    await plant.wait_for_state("Operational/Ready")


def test_state_follows_the_station(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            for phase, state in [
                ("starting", "Preoperational"),
                ("ready", "Operational/Ready"),
                ("not-ready", "Error"),
                ("ready", "Operational/Ready"),
                ("failed", "Error"),
                ("stopped", "Halted"),
                ("ready", "Operational/Ready"),
            ]:
                supervisor.send(station_state(phase))
                await client.wait_for_state(state)
            supervisor.send(station_state("not-ready", reason="not-ready", message="The recipe is being tested."))
            await client.wait_for_state("Preoperational")
            supervisor.send(station_state(recipe_id="", prepared=()))
            await client.wait_for_state("Operational/Initialized")

    asyncio.run(scenario())


def test_error_and_its_end_are_events(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            supervisor.send(station_state("not-ready"))
            event = await client.event("Error")
            assert event.Message.Text == "The camera is gone."
            supervisor.send(station_state())
            event = await client.event("ErrorResolved")
            assert (event.FromState.Text, event.ToState.Text) == ("Error", "Operational")

    asyncio.run(scenario())


def test_single_job_from_trigger_to_result(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            job = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments("part 7", "meas 3")))
            trigger = await supervisor.expect(Trigger)
            assert (trigger.part_id, trigger.meas_id) == ("part 7", "meas 3")
            supervisor.send(Triggered(token=trigger.token, acquisition_id=1007, accepted=True))
            job_id, error = await job
            assert (job_id.Id, error) == ("1007", 0)
            assert (await client.event("JobStarted")).JobId.Id == "1007"
            assert await client.state() == "Operational/SingleExecution"
            supervisor.send(AcquisitionDone(acquisition_id=1007))
            assert (await client.event("AcquisitionDone")).JobId.Id == "1007"
            supervisor.send(
                station_result(1007, verdict="NG", reason="score", score=2.5, part_id="part 7", meas_id="meas 3")
            )
            event = await client.event("ResultReady")
            assert (event.ResultId.Id, event.JobId.Id) == ("1007", "1007")
            assert (event.PartId.Id, event.MeasId.Id) == ("part 7", "meas 3")
            assert (event.InternalRecipeId.Id, event.InternalConfigurationId.Id) == ("gear", DIGEST)
            assert event.IsSimulated and not event.IsPartial and event.ResultState == 1
            content = {pair.Value.Key.Name: pair.Value.Value.Value for pair in event.ResultContent}
            assert content == {"Verdict": "NG", "Reason": "score", "Message": "", "Score": 2.5, "Threshold": 1.0}
            assert (await client.event("Ready")).JobId.Id == "1007"
            await client.wait_for_state("Operational/Ready")

    asyncio.run(scenario())


def test_job_in_the_wrong_state_is_refused_and_triggers_nothing(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            for phase, state in [("stopped", "Halted"), ("not-ready", "Error"), ("starting", "Preoperational")]:
                supervisor.send(station_state(phase))
                await client.wait_for_state(state)
                with pytest.raises(ua.uaerrors.BadInvalidState):
                    await client.call(f"{MODE}/StartSingleJob", *job_arguments())
            await ready(supervisor, client)
            with pytest.raises(ua.uaerrors.BadInvalidState):
                await client.call(f"{MODE}/Stop", *cause())
        supervisor.arrived += supervisor.link.receive()
        assert not [message for message in supervisor.arrived if isinstance(message, Trigger | Command)]

    asyncio.run(scenario())


def test_second_job_waits_for_the_first(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            first = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments()))
            trigger = await supervisor.expect(Trigger)
            async with plant(supervisor, "ope-1") as other:
                with pytest.raises(ua.uaerrors.BadInvalidState):
                    await other.call(f"{MODE}/StartSingleJob", *job_arguments())
            supervisor.send(Triggered(token=trigger.token, acquisition_id=1100, accepted=True))
            await first
            supervisor.send(station_result(1100))
            await client.wait_for_state("Operational/Ready")

    asyncio.run(scenario())


def test_trigger_that_the_station_does_not_accept(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            job = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments()))
            trigger = await supervisor.expect(Trigger)
            supervisor.send(Triggered(token=trigger.token, acquisition_id=1200, accepted=False))
            supervisor.send(station_result(1200, verdict="NG", reason="overrun", score=None, threshold=None))
            job_id, error = await job
            assert (job_id.Id, error) == ("1200", -1)
            event = await client.event("ResultReady")
            assert (event.ResultId.Id, event.ResultState) == ("1200", 4)
            await client.wait_for_state("Operational/Ready")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: job_arguments(part="x" * 201),
        lambda: job_arguments(meas="a\nb"),
        lambda: [*job_arguments()[:4], ua.Variant([ua.Variant(1)], ua.VariantType.Variant)],
        lambda: job_arguments()[:2],
    ],
)
def test_wrong_arguments_are_refused(supervisor, arguments):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            with pytest.raises((ua.uaerrors.BadInvalidArgument, ua.uaerrors.BadArgumentsMissing)):
                await client.call(f"{MODE}/StartSingleJob", *arguments())
            assert await client.state() == "Operational/Ready"

    asyncio.run(scenario())


def test_results_by_id_by_filter_and_by_handle(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            await run_job(supervisor, client, 1301, part_id="bolt 1")
            await run_job(supervisor, client, 1302, part_id="bolt 2", verdict="NG", reason="score", score=9.0)
            await run_job(supervisor, client, 1303, part_id="bolt 2", verdict="NG", reason="aborted", score=None)
            result_id = ua.Variant(types.ResultIdDataType(Id="1302"), ua.VariantType.ExtensionObject)
            timeout = ua.Variant(0, ua.VariantType.Int32)
            handle, result, error = await client.call("ResultManagement/GetResultById", result_id, timeout)
            assert (result.ResultId.Id, result.PartId.Id, result.ResultState, error) == ("1302", "bolt 2", 1, 0)
            assert result.InternalConfigurationId.Hash == bytes.fromhex(DIGEST)
            assert result.ProcessingTimes.AcquisitionDuration == 5.0
            assert result.ProcessingTimes.ProcessingDuration == 13.0
            components = await client.call("ResultManagement/GetResultComponentsById", result_id, timeout)
            assert components[4] == result.ResultState and components[6] == result.PartId
            unknown = ua.Variant(types.ResultIdDataType(Id="77"), ua.VariantType.ExtensionObject)
            with pytest.raises(ua.uaerrors.BadNotFound):
                await client.call("ResultManagement/GetResultById", unknown, timeout)
            release = "ResultManagement/ReleaseResultHandle"
            assert await client.call(release, ua.Variant(handle, ua.VariantType.UInt32)) == 0
            assert await client.call(release, ua.Variant(handle, ua.VariantType.UInt32)) == -1
            assert await filtered(client, part="bolt 2") == (True, ["1302", "1303"])
            assert await filtered(client, part="bolt 2", state=3) == (True, ["1303"])
            assert await filtered(client, part="bolt 2", limit=1) == (False, ["1302"])
            assert await filtered(client, part="bolt 2", limit=1, start=1) == (True, ["1303"])
            assert await filtered(client, part="bolt 3") == (True, [])

    asyncio.run(scenario())


async def filtered(client: Plant, *, part: str = "", state: int = 0, limit: int = 0, start: int = 0):
    """Call GetResultListFiltered."""
    nothing = ua.Variant(None, ua.VariantType.ExtensionObject)
    part_id = ua.Variant(types.PartIdDataType(Id=part), ua.VariantType.ExtensionObject)
    numbers = [ua.Variant(limit, ua.VariantType.UInt32), ua.Variant(start, ua.VariantType.UInt32)]
    complete, number, _handle, results, error = await client.call(
        "ResultManagement/GetResultListFiltered",
        *[ua.Variant(state, ua.VariantType.Int32), nothing, part_id, *[nothing] * 6],
        *[*numbers, ua.Variant(0, ua.VariantType.Int32)],
    )
    assert (number, error) == (len(results or []), 0)
    return complete, [result.ResultId.Id for result in results or []]


def test_recipes_are_listed(supervisor):
    async def recipes(client: Plant, product: str, prepared: int) -> list[str]:
        extension = ua.VariantType.ExtensionObject
        _complete, _number, _handle, names, error = await client.call(
            "RecipeManagement/GetRecipeListFiltered",
            ua.Variant(None, extension),
            ua.Variant(types.ProductIdDataType(Id=product), extension),
            ua.Variant(prepared, ua.VariantType.Int32),
            *[ua.Variant(0, ua.VariantType.UInt32)] * 2,
            ua.Variant(0, ua.VariantType.Int32),
        )
        assert error == 0
        return [name.Id for name in names or []]

    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            assert await recipes(client, "", 2) == ["gear"]
            assert await recipes(client, "P-1", 1) == ["gear"]
            assert await recipes(client, "P-1", 0) == []
            assert await recipes(client, "P-2", 2) == []
            with pytest.raises(ua.uaerrors.BadInvalidArgument):
                await recipes(client, "", 3)
            arguments = job_arguments()
            arguments[3] = ua.Variant(types.ProductIdDataType(Id="P-2"), ua.VariantType.ExtensionObject)
            with pytest.raises(ua.uaerrors.BadInvalidArgument):
                await client.call(f"{MODE}/StartSingleJob", *arguments)

    asyncio.run(scenario())


def test_recipe_is_prepared(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            extension = ua.VariantType.ExtensionObject
            recipe = [ua.Variant(types.RecipeIdExternalDataType(Id="nut"), extension), ua.Variant(None, extension)]
            call = asyncio.ensure_future(client.call("RecipeManagement/PrepareRecipe", *recipe))
            command = await supervisor.expect(Command)
            assert (command.name, command.arguments, command.user) == ("prepare", {"recipe_id": "nut"}, "eng-1")
            supervisor.send(station_state(prepared=("gear", "nut")))
            supervisor.send(Answer(token=command.token, done=True, message="prepared"))
            internal, completed, error = await call
            assert (internal.Id, completed, error) == ("nut", True, 0)
            while (await client.event("RecipePrepared")).InternalId.Id != "nut":
                pass  # In the first test of a server, the recipe `gear` is prepared, too.
            for done in (True, False):
                call = asyncio.ensure_future(client.call("RecipeManagement/UnprepareRecipe", *recipe))
                command = await supervisor.expect(Command)
                assert (command.name, command.arguments) == ("unprepare", {"recipe_id": "nut"})
                supervisor.send(Answer(token=command.token, done=done, message=""))
                internal, error = await call
                assert (internal.Id, error) == ("nut", 0 if done else -1)
            call = asyncio.ensure_future(client.call("RecipeManagement/PrepareRecipe", *recipe))
            command = await supervisor.expect(Command)
            supervisor.send(Answer(token=command.token, done=False, message="no such recipe"))
            assert (await call)[1:] == [False, -1]

    asyncio.run(scenario())


def test_stored_recipe_is_accepted_by_add_recipe_and_another_is_not(supervisor):
    async def add(client: Plant, recipe: str, product: str = ""):
        extension = ua.VariantType.ExtensionObject
        external = ua.Variant(types.RecipeIdExternalDataType(Id=recipe), extension)
        return await client.call(
            "RecipeManagement/AddRecipe", external, ua.Variant(types.ProductIdDataType(Id=product), extension)
        )

    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            internal, node, product, transfer, error = await add(client, "gear", "P-1")
            assert (internal.Id, node.is_null(), product.is_null(), transfer, error) == ("gear", True, True, False, 0)
            with pytest.raises(ua.uaerrors.BadNotSupported):
                await add(client, "nut")
            for wrong in (("gear", "P-2"), ("",)):
                with pytest.raises(ua.uaerrors.BadInvalidArgument):
                    await add(client, *wrong)
        async with plant(supervisor, "ope-1") as client:
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await add(client, "gear")

    asyncio.run(scenario())


def test_ok_of_another_recipe_is_not_shown_as_ok(supervisor):
    """The client asks for `nut`; before its trigger, another channel activates `gear` again."""

    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            job = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments(recipe="nut")))
            command = await supervisor.expect(Command)
            assert (command.name, command.arguments) == ("activate", {"recipe_id": "nut"})
            supervisor.send(Answer(token=command.token, done=True, message="active"))
            trigger = await supervisor.expect(Trigger)
            supervisor.send(Triggered(token=trigger.token, acquisition_id=1400, accepted=True))
            supervisor.send(station_result(1400, verdict="OK", recipe_id="gear"))
            await job
            event = await client.event("ResultReady")
            content = {pair.Value.Key.Name: pair.Value.Value.Value for pair in event.ResultContent}
            assert (content["Verdict"], content["Reason"]) == ("NG", "recipe-changed")

    asyncio.run(scenario())


@pytest.mark.failure_mode("An OK that reaches OPC UA after the deadline of its part")
def test_ok_after_its_deadline_is_not_shown_as_ok(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            await run_late_job(supervisor, client)

    async def run_late_job(supervisor: Supervisor, client: Plant) -> None:
        job = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments()))
        trigger = await supervisor.expect(Trigger)
        supervisor.send(Triggered(token=trigger.token, acquisition_id=1450, accepted=True))
        supervisor.send(station_result(1450, verdict="OK", deadline_ns=1))
        await job
        event = await client.event("ResultReady")
        content = {pair.Value.Key.Name: pair.Value.Value.Value for pair in event.ResultContent}
        assert (content["Verdict"], content["Reason"]) == ("NG", "deadline")
        assert (await supervisor.expect(Command)).arguments["action"] == "late OK"

    asyncio.run(scenario())


def test_recipe_that_cannot_be_activated_starts_no_job(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            job = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments(recipe="nut")))
            command = await supervisor.expect(Command)
            supervisor.send(Answer(token=command.token, done=False, message="no such recipe"))
            with pytest.raises(ua.uaerrors.BadInvalidState):
                await job
            await run_job(supervisor, client, 1500)

    asyncio.run(scenario())


def test_continuous_job_contains_the_parts_of_other_channels(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            job_id, error = await client.call(f"{MODE}/StartContinuous", *job_arguments())
            assert error == 0 and await client.state() == "Operational/ContinuousExecution"
            for number in (1601, 1602):
                supervisor.send(station_result(number, channel="plc"))
                event = await client.event("ResultReady")
                assert (event.ResultId.Id, event.JobId.Id) == (str(number), job_id.Id)
            assert await client.call(f"{MODE}/Stop", *cause()) == 0
            assert (await client.event("Ready")).JobId.Id == job_id.Id
            assert await client.state() == "Operational/Ready"
            supervisor.send(station_result(1603, channel="plc"))
            assert (await client.event("ResultReady")).JobId.Id == "1603"

    asyncio.run(scenario())


def test_abort_halt_reset_and_confirm(supervisor):
    async def answer(name: str, phase: str | None = None) -> None:
        command = await supervisor.expect(Command)
        assert (command.name, command.user) == (name, "eng-1")
        if phase is not None:
            supervisor.send(station_state(phase))
        supervisor.send(Answer(token=command.token, done=True, message=""))

    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            await client.call(f"{MODE}/StartContinuous", *job_arguments())
            call = asyncio.ensure_future(client.call(f"{MODE}/Abort", *cause()))
            await answer("abort", "stopped")
            await answer("start", "ready")
            assert await call == 0
            await client.wait_for_state("Operational/Ready")
            machine = "VisionStateMachine"
            assert await client.call(f"{machine}/SelectModeAutomatic") == 0
            call = asyncio.ensure_future(client.call(f"{machine}/Halt", *cause()))
            await answer("stop", "stopped")
            assert await call == 0
            await client.wait_for_state("Halted")
            with pytest.raises(ua.uaerrors.BadInvalidState):
                await client.call(f"{machine}/SelectModeAutomatic")
            call = asyncio.ensure_future(client.call(f"{machine}/Reset", *cause()))
            await answer("start", "failed")
            assert await call == 0
            await client.wait_for_state("Error")
            call = asyncio.ensure_future(client.call(f"{machine}/Reset", *cause()))
            await answer("reset", "ready")
            assert await call == 0
            await client.wait_for_state("Operational/Ready")
            comment = ua.Variant(ua.LocalizedText("lens cleaned"), ua.VariantType.LocalizedText)
            call = asyncio.ensure_future(client.call(f"{machine}/ConfirmAll", comment))
            command = await supervisor.expect(Command)
            assert (command.name, command.arguments["details"]) == ("note", {"comment": "lens cleaned"})
            supervisor.send(Answer(token=command.token, done=True, message=""))
            await call

    asyncio.run(scenario())


def test_client_that_leaves_during_its_call_leaves_no_job_behind(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            await ready(supervisor, client)
            call = asyncio.ensure_future(client.call(f"{MODE}/StartSingleJob", *job_arguments()))
            trigger = await supervisor.expect(Trigger)
            client.client.disconnect_socket()
            with suppress(ConnectionError, asyncio.CancelledError):
                await call
        async with plant(supervisor) as client:
            supervisor.send(Triggered(token=trigger.token, acquisition_id=1700, accepted=True))
            supervisor.send(station_result(1700))
            assert (await client.event("ResultReady")).ResultId.Id == "1700"
            await client.wait_for_state("Operational/Ready")
            await run_job(supervisor, client, 1701)

    asyncio.run(scenario())


def test_process_reports_life(supervisor):
    async def scenario():
        for _ in range(3):
            await supervisor.expect(Alive)

    asyncio.run(scenario())


def test_process_ends_with_the_supervisor(supervisor):
    """The last test of this server."""
    supervisor.link.close()
    assert supervisor.process.wait(LIMIT_S) == 0
