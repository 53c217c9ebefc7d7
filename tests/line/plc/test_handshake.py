"""The handshake: rules that hold for every order of events, and the rows of docs/plc.md one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cmdiad_line.plc.handshake import Handshake, HandshakeSettings
from cmdiad_line.plc.signals import COMMANDS_OF_INPUTS, INPUTS, Offline
from cmdiad_line.transport.messages import (
    Acknowledge,
    AcquisitionDone,
    Alive,
    Answer,
    Command,
    Trigger,
    Triggered,
)
from station_messages import part_result, station_state

PHASES = ("starting", "ready", "stopped", "not-ready", "failed")
SILENT_NS = 2_000
GAP_NS = 5
LATER_NS = 10**18
HOLD_NS = 500


def state(phase="ready", *, accepts=True, reason="", in_work=0):
    return station_state(phase, reason=reason, message="", in_work=in_work, accepts=accepts)


def result(acquisition_id, verdict="OK", **changes):
    return part_result(acquisition_id, verdict, **{"deadline_ns": LATER_NS, **changes})


class Plant:
    """A handshake, with the time, what was sent to the supervisor, and short names for events."""

    def __init__(self, buffer=8):
        self.now = 0
        self.handshake = Handshake(
            HandshakeSettings(buffer=buffer, silent_ns=SILENT_NS, heartbeat_ns=100, gap_ns=GAP_NS)
        )
        self.sent = []

    def write(self, **levels):
        messages = self.handshake.write(levels, self.now)
        self.sent += messages
        return messages

    def receive(self, message):
        messages = self.handshake.receive(message, self.now)
        self.sent += messages
        return messages

    def outputs(self, **options):
        return self.handshake.outputs(self.now, **options)

    @property
    def bits(self):
        return self.outputs().bits

    def start(self):
        self.receive(state())
        self.write(**{**dict.fromkeys(INPUTS, False), "trigger_enable": True})
        return self

    def trigger(self, acquisition_id, *, accepted=True):
        """Send a trigger, answer it and lower it."""
        (message,) = [m for m in self.write(trigger=True) if isinstance(m, Trigger)]
        self.receive(Triggered(token=message.token, acquisition_id=acquisition_id, accepted=accepted))
        self.write(trigger=False)

    def acknowledge(self):
        self.write(results_ack=True)
        self.write(results_ack=False)


@pytest.fixture
def plant():
    return Plant().start()


@pytest.fixture
def single():
    return Plant(buffer=1).start()


# --- every order of events -------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """A PLC that writes anything, a supervisor that keeps its promises, and a link that may fall silent."""

    @initialize(buffer=st.sampled_from([1, 2, 8]))
    def begin(self, buffer):
        self.plant = Plant(buffer)
        self.buffer = buffer
        self.next_id = 1
        self.tokens = []  # Triggers that the supervisor has not answered.
        self.open = []  # Ids without a result.
        self.token_of_edge = 0  # Token of the last rising edge, 0 if it was refused.
        self.id_of_edge = 0
        self.levels = {}
        self.published = {}
        self.acknowledged = []
        self.before = None  # Result fields at the last look.

    def handle(self, messages):
        self.tokens += [message.token for message in messages if isinstance(message, Trigger)]
        for message in messages:
            if isinstance(message, Acknowledge):
                assert message.acquisition_id in self.published
                assert message.acquisition_id not in self.acknowledged
                self.acknowledged.append(message.acquisition_id)

    @rule(levels=st.dictionaries(st.sampled_from(sorted(INPUTS)), st.booleans(), min_size=1))
    def write(self, levels):
        rising = levels.get("trigger", False) and not self.levels.get("trigger", False)
        missed = self.plant.outputs().missed_count
        messages = self.plant.write(**levels)
        self.levels.update(levels)
        if rising:
            tokens = [message.token for message in messages if isinstance(message, Trigger)]
            assert len(tokens) + self.plant.outputs().missed_count - missed == 1, "neither or both"
            self.token_of_edge, self.id_of_edge = (tokens[0] if tokens else 0), 0
        self.handle(messages)

    @rule(pulse=st.sampled_from(["results_ack", "trigger"]))
    def pulse(self, pulse):
        self.write({pulse: True})
        self.look()
        self.write({pulse: False})

    @rule(accepted=st.booleans())
    def identify(self, accepted):
        if self.tokens:
            token = self.tokens.pop(0)
            if token == self.token_of_edge:
                self.id_of_edge = self.next_id
            self.plant.receive(Triggered(token=token, acquisition_id=self.next_id, accepted=accepted))
            self.open.append(self.next_id)
            self.next_id += 1

    @rule(verdict=st.sampled_from(["OK", "NG"]), last=st.booleans())
    def publish(self, verdict, last):
        if self.open:
            acquisition_id = self.open.pop(-1 if last else 0)
            self.publish_as(acquisition_id, verdict, "plc")

    @rule(verdict=st.sampled_from(["OK", "NG"]), channel=st.sampled_from(["acquisition", "web", "opcua"]))
    def publish_other(self, verdict, channel):
        self.next_id += 1
        self.publish_as(self.next_id - 1, verdict, channel)

    @rule()
    def publish_late(self):
        if self.open:
            acquisition_id = self.open.pop(0)
            late = result(acquisition_id, "OK", deadline_ns=self.plant.now - 1)
            self.published[acquisition_id] = replace(late, verdict="NG", reason="deadline")
            self.handle(self.plant.receive(late))

    def publish_as(self, acquisition_id, verdict, channel):
        self.published[acquisition_id] = result(acquisition_id, verdict, channel=channel)
        self.handle(self.plant.receive(self.published[acquisition_id]))

    @rule(message=st.sampled_from([Alive(), *(state(phase, accepts=phase == "ready") for phase in PHASES)]))
    def hear(self, message):
        self.handle(self.plant.receive(message))

    @rule(step=st.sampled_from([1, HOLD_NS, SILENT_NS + 1]))
    def wait(self, step):
        self.plant.now += step

    @invariant()
    def look(self):
        if not hasattr(self, "plant"):
            return
        outputs = self.plant.outputs(ok_hold_ns=HOLD_NS)
        bits, shown = outputs.bits, outputs.result
        assert not {"job_pass", "job_fail"} <= bits
        assert outputs.waiting <= self.buffer
        if "job_pass" in bits and self.buffer == 1:
            assert (
                shown.acquisition_id
                == max(n for n, kept in self.published.items() if kept.channel == "acquisition" or n == self.id_of_edge)
                or self.published[shown.acquisition_id].channel == "plc"
            )
        if self.before is not None and shown is not None:
            assert shown == self.before, "the fields changed while results_valid was true"
        self.before = shown
        if shown is None:
            assert not {"job_pass", "job_fail", "scored"} & bits
        else:
            published = self.published[shown.acquisition_id]
            assert (shown.part_id, shown.reason) == (published.part_id, published.reason)
            assert published.channel in ("plc", "acquisition")
            assert not self.levels.get("results_ack")
            assert "job_pass" not in bits or published.verdict == "OK"
            assert ("job_fail" in bits) == (published.verdict == "NG")
            assert shown.acquisition_id not in self.acknowledged
            if self.buffer == 1 and published.channel == "plc":
                assert shown.acquisition_id == self.id_of_edge, "a result of an earlier part"
        if "trigger_ack" in bits:
            assert self.levels["trigger"] and outputs.trigger_id == self.id_of_edge != 0

    def teardown(self):
        """Show every result of the PLC that was neither acknowledged nor refused, once and in order."""
        if not hasattr(self, "plant") or self.buffer == 1:
            return
        self.hear(state())
        self.write(dict.fromkeys(INPUTS, False))
        own = [number for number, kept in self.published.items() if kept.channel == "plc"]
        expected = sorted(set(own) - set(self.acknowledged))
        seen = []
        while (shown := self.plant.outputs().result) is not None:
            seen.append(shown.acquisition_id)
            self.write({"results_ack": True})
            self.write({"results_ack": False})
        assert sorted(number for number in seen if number in own) == expected


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


# --- one by one ------------------------------------------------------------------------------------------------------


def test_nothing_is_true_before_the_supervisor_was_heard():
    plant = Plant()
    assert plant.outputs().bits == {"error"}
    assert plant.outputs().offline is Offline.SILENT


def test_part_is_inspected(plant):
    assert {"online", "trigger_ready"} <= plant.bits
    (trigger,) = plant.write(trigger=True)
    assert "trigger_ready" not in plant.bits and "trigger_ack" not in plant.bits and "busy" in plant.bits
    plant.receive(Triggered(token=trigger.token, acquisition_id=7, accepted=True))
    assert "trigger_ack" in plant.bits and plant.outputs().trigger_id == 7
    assert "exposure_complete" not in plant.bits
    plant.receive(AcquisitionDone(acquisition_id=7))
    assert "exposure_complete" in plant.bits
    plant.write(trigger=False)
    assert "trigger_ack" not in plant.bits and "trigger_ready" in plant.bits
    plant.receive(result(7))
    assert {"results_valid", "job_pass", "scored"} <= plant.bits
    assert "busy" not in plant.bits
    assert plant.write(results_ack=True) == [Acknowledge(acquisition_id=7)]
    assert not {"results_valid", "job_pass"} & plant.bits and plant.outputs().result is None


def test_part_id_is_the_one_at_the_edge(plant):
    plant.handshake.write_text("part_id", "serial 1")
    (trigger,) = plant.write(trigger=True)
    assert trigger.part_id == "serial 1"


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "score"},
        {"score": None},
        {"threshold": None},
        {"score": 1.5},
        {"score": float("nan")},
        {"verdict": "NG"},
        {"verdict": "NG", "reason": "", "score": 0.5},
    ],
)
def test_ok_needs_every_field(plant, changes):
    plant.trigger(1)
    plant.receive(result(1, **changes))
    assert "job_pass" not in plant.bits and "job_fail" in plant.bits
    assert plant.outputs().result.reason


@pytest.mark.parametrize("phase", PHASES)
def test_ok_in_each_phase(plant, phase):
    plant.trigger(1)
    plant.receive(result(1))
    plant.receive(state(phase, accepts=False))
    assert ("job_pass" in plant.bits) == (phase in ("ready", "stopped", "not-ready"))


def test_ok_that_comes_after_the_deadline_is_shown_as_ng(plant):
    plant.trigger(1)
    plant.trigger(2)
    plant.now = 100
    assert plant.receive(result(1, deadline_ns=100)) == []
    assert "job_pass" in plant.bits
    plant.acknowledge()
    (note,) = plant.receive(result(2, deadline_ns=99))
    assert (note.name, note.arguments["details"]["acquisition_id"]) == ("note", 2)
    assert "job_fail" in plant.bits and "job_pass" not in plant.bits
    assert plant.outputs().result.reason == "deadline"


def test_trigger_carries_the_time_of_its_edge(plant):
    plant.now = 123
    (trigger,) = plant.write(trigger=True)
    assert trigger.sent_ns == 123


def test_trigger_by_wire_carries_the_time_of_the_wire(plant):
    """The deadline begins at the edge, also if the PLC process reads the edge late."""
    (trigger,) = plant.handshake.write({"trigger": True}, 500, 123)
    assert trigger.sent_ns == 123


def test_pushed_part_replaces_the_result_of_the_one_before(single):
    single.receive(result(1, "OK", channel="acquisition"))
    assert "job_pass" in single.bits
    single.now += 1
    assert single.receive(result(2, "NG", channel="acquisition")) == [Acknowledge(acquisition_id=1)]
    assert not {"results_valid", "job_pass", "job_fail"} & single.bits, "a PLC must see that the result is another one"
    single.now += GAP_NS
    assert "job_fail" in single.bits and single.outputs().result.acquisition_id == 2


def test_ok_ends_with_a_silent_supervisor(plant):
    plant.trigger(1)
    plant.receive(result(1))
    plant.now += SILENT_NS
    assert "job_pass" in plant.bits
    plant.now += 1
    assert plant.bits == {"error"}
    assert plant.write(results_ack=True) == [], "not acknowledged: the PLC did not see it as valid"
    plant.receive(Alive())
    plant.write(results_ack=False)
    assert {"job_pass", "repeated"} <= plant.bits


def test_ok_ends_after_the_hold_time_but_the_result_stays(plant):
    plant.trigger(1)
    plant.receive(result(1))
    plant.now += HOLD_NS - 1
    assert "job_pass" in plant.outputs(ok_hold_ns=HOLD_NS).bits
    plant.now += 1
    bits = plant.outputs(ok_hold_ns=HOLD_NS).bits
    assert "results_valid" in bits and not {"job_pass", "job_fail"} & bits


def test_plc_that_never_acknowledges(plant):
    for number in range(1, 9):
        assert "trigger_ready" in plant.bits
        plant.trigger(number)
        plant.receive(result(number))
    assert "trigger_ready" not in plant.bits and "results_overrun" not in plant.bits
    assert plant.write(trigger=True) == [], "no part is inspected whose result cannot be delivered"
    assert {"results_overrun", "missed_acquisition"} <= plant.bits
    assert "trigger_ack" not in plant.bits
    assert plant.outputs().missed_count == 1
    assert plant.outputs().result.acquisition_id == 1
    shown = []
    while plant.outputs().result is not None:
        shown.append(plant.outputs().result.acquisition_id)
        plant.acknowledge()
    assert shown == [1, 2, 3, 4, 5, 6, 7, 8]


def test_refused_trigger_gets_an_id_and_its_result(plant):
    plant.receive(state("stopped", accepts=False))
    assert "trigger_ready" not in plant.bits
    plant.trigger(1, accepted=False)
    assert "missed_acquisition" in plant.bits
    plant.receive(result(1, "NG", reason="stopped"))
    assert "job_fail" in plant.bits
    plant.acknowledge()
    plant.receive(state())
    plant.trigger(2)
    assert "missed_acquisition" not in plant.bits and plant.outputs().missed_count == 1


def test_trigger_without_enable_is_counted(plant):
    plant.write(trigger_enable=False)
    assert plant.write(trigger=True) == []
    assert plant.outputs().missed_count == 1


def test_trigger_is_not_acknowledged_with_the_id_of_an_earlier_one():
    plant = Plant(buffer=2).start()
    (first,) = plant.write(trigger=True)
    plant.write(trigger=False)
    plant.write(trigger_enable=False)
    plant.write(trigger=True)  # Refused, while the first has no id yet.
    plant.receive(Triggered(token=first.token, acquisition_id=1, accepted=True))
    assert "trigger_ack" not in plant.bits and plant.outputs().trigger_id == 0


def test_levels_from_before_the_start_are_no_edges():
    plant = Plant()
    plant.receive(state())
    plant.receive(result(1, replayed=True))
    assert {"results_valid", "repeated"} <= plant.bits
    sent = plant.write(trigger_enable=True, trigger=True, results_ack=True, stop=True)
    assert sent == []
    assert "results_valid" not in plant.bits and plant.outputs().missed_count == 1
    assert "command_failed" in plant.bits
    plant.write(results_ack=False)
    assert plant.outputs().result.acquisition_id == 1
    assert plant.write(results_ack=True) == [Acknowledge(acquisition_id=1)]


def test_result_of_the_web_page_is_not_shown(plant):
    plant.receive(result(1, channel="web"))
    assert "results_valid" not in plant.bits


def test_pushed_frames_can_overrun(plant):
    for number in range(1, 10):
        plant.receive(result(number, channel="acquisition"))
    assert "results_overrun" in plant.bits and plant.outputs().waiting == 8
    plant.write(reset=True)
    assert not {"results_overrun", "results_valid"} & plant.bits
    assert {message.acquisition_id for message in plant.sent} == set(range(1, 9))


def test_single_result_is_taken_back_by_the_next_trigger(single):
    single.trigger(1)
    single.receive(result(1))
    assert {"job_pass", "trigger_ready"} <= single.bits
    acknowledge, trigger = single.write(trigger=True)
    assert acknowledge == Acknowledge(acquisition_id=1) and isinstance(trigger, Trigger)
    assert not {"job_pass", "results_valid"} & single.bits


def test_single_result_that_waits_is_taken_back_too(single):
    single.write(results_ack=True)
    single.trigger(1)
    single.receive(result(1))
    (acknowledge, _) = single.write(trigger=True)
    assert acknowledge == Acknowledge(acquisition_id=1)
    single.write(results_ack=False)
    assert "results_valid" not in single.bits


def test_single_result_from_before_a_restart_is_not_shown(single):
    assert single.receive(result(1, replayed=True)) == [Acknowledge(acquisition_id=1)]
    assert "results_valid" not in single.bits


def test_late_single_result_is_not_shown_after_a_missed_trigger(single):
    single.trigger(1)
    single.write(trigger=True)  # The first part is still in work.
    assert "missed_acquisition" in single.bits
    assert single.receive(result(1)) == [Acknowledge(acquisition_id=1)]
    assert "results_valid" not in single.bits


@pytest.mark.parametrize(("name", "command"), sorted(COMMANDS_OF_INPUTS.items()))
@pytest.mark.parametrize("done", [True, False])
def test_commands(plant, name, command, done):
    plant.receive(state("failed", reason="self-test"))
    plant.handshake.write_text("requested_recipe", "nut")
    (sent,) = plant.write(**{name: True})
    assert isinstance(sent, Command) and (sent.name, sent.user) == (command, "plc")
    assert sent.arguments == ({"recipe_id": "nut"} if "recipe" in name else {})
    assert not {"command_done", "command_failed"} & plant.bits
    plant.receive(Answer(token=sent.token, done=done, message=""))
    assert ("command_done" if done else "command_failed") in plant.bits
    plant.write(**{name: False})
    assert not {"command_done", "command_failed"} & plant.bits


def test_recipe_without_an_id_is_refused(plant):
    assert plant.write(prepare_recipe=True) == []
    assert "command_failed" in plant.bits


def test_reset_of_a_station_that_has_not_failed_needs_no_supervisor(plant):
    assert plant.write(reset=True) == []
    assert "command_done" in plant.bits


@pytest.mark.parametrize(
    ("phase", "offline", "error"),
    [("starting", 1, ""), ("stopped", 2, ""), ("not-ready", 3, "camera-gone"), ("failed", 4, "camera-gone")],
)
def test_offline_and_error(plant, phase, offline, error):
    plant.receive(state(phase, reason="camera-gone"))
    outputs = plant.outputs()
    assert "online" not in outputs.bits and outputs.offline == offline
    assert outputs.error == error and ("error" in outputs.bits) == bool(error)


def test_heartbeat_stands_still_without_the_supervisor(plant):
    beats = []
    for _ in range(40):
        plant.now += 100
        beats.append(plant.outputs().beat)
    assert beats[:20] == list(range(1, 21)) and set(beats[20:]) == {20}


def test_acknowledgement_in_the_gap_takes_no_result_that_nobody_saw(single):
    single.receive(result(1, channel="acquisition"))
    single.receive(result(2, channel="acquisition"))
    assert single.write(results_ack=True) == [], "meant for result 1, which is gone"
    single.write(results_ack=False)
    single.now += GAP_NS
    assert single.outputs().result.acquisition_id == 2
    assert single.write(results_ack=True) == [Acknowledge(acquisition_id=2)]
