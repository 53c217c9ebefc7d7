"""The PLC's program against the handshake: any delay, order, silence and restart. No result meets another part."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cmdiad_line.plc.handshake import Handshake, HandshakeSettings
from cmdiad_line.plc.program import PlcProgram
from cmdiad_line.plc.registers import output_words, outputs_of
from cmdiad_line.transport.messages import Acknowledge, Alive, Trigger, Triggered
from station_messages import part_result, station_state

TIMEOUT_S = 60
STEPS = ["scan", "scan", "scan", "identify", "publish", "publish last", "silence", "restart", "wait"]


class Line:
    """A program and a handshake, with a supervisor in between that answers when the test says so."""

    def __init__(self, *, buffer, storm, parts):
        self.taken = []
        self.settings = HandshakeSettings(buffer=buffer, silent_ns=1000)
        self.program = PlcProgram(
            taken=self.taken.append, parts=parts, takt_s=0, timeout_s=TIMEOUT_S, storm=storm, acknowledge=True
        )
        self.now = 0
        self.next_id = 1
        self.verdicts = {}  # By part id.
        self.triggers = []
        self.open = []
        self.unacknowledged = []
        self.restart()

    def restart(self):
        """Start the PLC process of the station again."""
        self.triggers = [(None, part_id) for _, part_id in self.triggers]  # Their answers find nobody.
        self.handshake = Handshake(self.settings)
        self.program.reconnected()
        self.send(station_state())
        self.write()
        for result in list(self.unacknowledged):
            self.send(replace(result, replayed=True))

    def send(self, message):
        self.handle(self.handshake.receive(message, self.now))

    def handle(self, messages):
        for message in messages:
            if isinstance(message, Trigger):
                self.triggers.append((message.token, message.part_id))
            elif isinstance(message, Acknowledge):
                self.unacknowledged = [r for r in self.unacknowledged if r.acquisition_id != message.acquisition_id]

    def write(self):
        self.handshake.write_text("part_id", self.program.part_id)
        self.handle(self.handshake.write(dict(self.program.levels), self.now))

    def step(self, name, *, ok=True):
        if name == "scan":
            outputs = outputs_of(output_words(self.handshake.outputs(self.now)))
            self.program.scan(outputs, self.now / 1e9)
            self.write()
        elif name == "identify" and self.triggers:
            token, part_id = self.triggers.pop(0)
            self.open.append((self.next_id, part_id))
            if token is not None:
                self.send(Triggered(token=token, acquisition_id=self.next_id, accepted=True))
            self.next_id += 1
        elif name.startswith("publish") and self.open:
            self.publish(*self.open.pop(-1 if "last" in name else 0), ok=ok)
        elif name == "silence":
            self.now += self.settings.silent_ns + 1
        elif name == "restart":
            self.restart()
        elif name == "wait":
            self.send(Alive())
        self.now += 1

    def publish(self, acquisition_id, part_id, *, ok):
        self.verdicts[part_id] = ok
        deadline_ns = time.monotonic_ns() + 10**12
        result = part_result(acquisition_id, "OK" if ok else "NG", part_id=part_id, deadline_ns=deadline_ns)
        self.unacknowledged.append(result)
        self.send(result)

    def drain(self):
        """Let everything come to an end without faults, then let all timers run out."""
        for _ in range(40 * self.program.parts + 100):
            if self.program.done:
                break
            for name in ("wait", "identify", "publish", "scan", "scan"):
                self.step(name)
        self.now += (TIMEOUT_S + 1) * 1_000_000_000
        self.send(Alive())
        for _ in range(20):
            self.step("scan")


@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.booleans()), max_size=80),
    buffer=st.sampled_from([1, 2, 8]),
    storm=st.booleans(),
    parts=st.integers(1, 12),
)
def test_every_part_ends_once_and_with_its_own_verdict(steps, buffer, storm, parts):
    line = Line(buffer=buffer, storm=storm, parts=parts)
    for name, ok in steps:
        line.step(name, ok=ok)
    line.drain()
    counts = line.program.counts
    assert line.program.done
    assert counts["swapped"] == counts["foreign"] == 0
    assert counts["triggers"] == parts
    own = [result for result in line.taken if result.part_id]
    assert len(own) + counts["missed"] + counts["timed_out"] == parts
    assert len({result.part_id for result in own}) == len(own)
    for result in line.taken:
        assert result.shown.part_id == result.part_id or not result.part_id
        assert not result.passed or line.verdicts[result.shown.part_id]
    if buffer > 1:
        assert counts["timed_out"] <= counts["unanswered"], "a part with an id always gets its result"


def test_line_without_faults():
    line = Line(buffer=8, storm=False, parts=20)
    line.drain()
    assert line.program.counts["results"] == line.program.counts["passed"] == 20
    assert line.program.counts["missed"] == line.program.counts["unanswered"] == 0
