"""Write the timing diagrams of docs/plc.md with `python docs/images/make_timing.py`.

The levels are not drawn by hand: a scripted PLC and supervisor drive the real handshake, and its outputs are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import groupby
from pathlib import Path

from cmdiad_line.plc.handshake import Handshake, HandshakeSettings
from cmdiad_line.plc.signals import INPUTS, Outputs
from cmdiad_line.transport.messages import (
    AcquisitionDone,
    Alive,
    Message,
    Result,
    StationState,
    Trigger,
    Triggered,
    Verdict,
)

FOLDER = Path(__file__).parent
FONT = 'font-family="Helvetica, Arial, sans-serif"'
LEFT, STEP, ROW, TOP = 170, 58, 34, 34
PLC_COLOUR, STATION_COLOUR, OK_COLOUR, NG_COLOUR, LINE = "#1d4ed8", "#374151", "#15803d", "#b91c1c", "#d1d5db"
SILENT_NS = 10
_STATE = StationState(
    phase="ready",
    reason="",
    message="",
    in_work=0,
    accepts=True,
    recipe_id="gear",
    bundle_digest="",
    prepared=(),
    modality="rgb",
    processes={},
    counters={},
)


class Recording:
    """A handshake, driven event by event; each event is one column of the diagram."""

    def __init__(self, buffer: int = 8) -> None:
        self.handshake = Handshake(HandshakeSettings(buffer=buffer, silent_ns=SILENT_NS, heartbeat_ns=1_000_000))
        self.now = 0
        self.levels = dict.fromkeys(INPUTS, False)
        self.columns: list[tuple[str, dict[str, bool], Outputs]] = []
        self.tokens: list[int] = []
        self._send(_STATE)
        self.handshake.write({**self.levels, "trigger_enable": True}, self.now)

    def _send(self, message: Message) -> None:
        self.handshake.receive(message, self.now)

    def note(self, label: str) -> None:
        """Record the levels after an event."""
        self.columns.append((label, dict(self.levels), self.handshake.outputs(self.now)))

    def write(self, label: str, **levels: bool) -> None:
        """Let the PLC write."""
        self.levels.update(levels)
        messages = self.handshake.write(levels, self.now)
        self.tokens += [message.token for message in messages if isinstance(message, Trigger)]
        self.note(label)

    def identify(self, label: str, acquisition_id: int) -> None:
        """Let the station answer the oldest trigger."""
        self._send(Triggered(token=self.tokens.pop(0), acquisition_id=acquisition_id, accepted=True))
        self.note(label)

    def expose(self, label: str, acquisition_id: int) -> None:
        """Let the sensors finish."""
        self._send(AcquisitionDone(acquisition_id=acquisition_id))
        self.note(label)

    def publish(self, label: str, acquisition_id: int, verdict: Verdict) -> None:
        """Let the station publish a result."""
        self._send(_result(acquisition_id, verdict))
        self.note(label)

    def silence(self, label: str) -> None:
        """Let time pass without a message of the supervisor."""
        self.now += SILENT_NS + 1
        self.note(label)

    def resume(self, label: str) -> None:
        """Let the supervisor speak again."""
        self._send(Alive())
        self.note(label)


def one_part() -> Recording:
    """Record one part, from the trigger to the acknowledged result."""
    recording = Recording()
    recording.note("ready")
    recording.write("part arrives", trigger=True)
    recording.identify("id given", 41)
    recording.write("PLC lowers", trigger=False)
    recording.expose("image taken", 41)
    recording.publish("OK", 41, "OK")
    recording.write("PLC has read", results_ack=True)
    recording.write("PLC lowers", results_ack=False)
    return recording


def two_parts() -> Recording:
    """Record two parts in work, whose results wait for the PLC."""
    recording = Recording()
    recording.write("part 1", trigger=True)
    recording.identify("id given", 41)
    recording.expose("image taken", 41)
    recording.write("PLC lowers", trigger=False)
    recording.write("part 2", trigger=True)
    recording.identify("id given", 42)
    recording.publish("1 is OK", 41, "OK")
    recording.write("PLC lowers", trigger=False)
    recording.publish("2 is NG", 42, "NG")
    recording.write("PLC has read", results_ack=True)
    recording.write("PLC lowers", results_ack=False)
    recording.write("PLC has read", results_ack=True)
    recording.write("PLC lowers", results_ack=False)
    return recording


def silence() -> Recording:
    """Record a supervisor that is silent while an OK is shown."""
    recording = _first_part_is_ok(buffer=8)
    recording.silence("supervisor silent")
    recording.resume("heard again")
    recording.write("PLC has read", results_ack=True)
    recording.write("PLC lowers", results_ack=False)
    return recording


def no_room() -> Recording:
    """Record a trigger that cannot be taken, because two results wait already."""
    recording = _first_part_is_ok(buffer=2)
    recording.write("part 2", trigger=True)
    recording.identify("id given", 42)
    recording.write("PLC lowers", trigger=False)
    recording.write("part 3: no room", trigger=True)
    recording.write("PLC lowers", trigger=False)
    recording.write("PLC has read", results_ack=True)
    recording.write("PLC lowers", results_ack=False)
    return recording


def _first_part_is_ok(buffer: int) -> Recording:
    recording = Recording(buffer)
    recording.write("part 1", trigger=True)
    recording.identify("id given", 41)
    recording.write("PLC lowers", trigger=False)
    recording.publish("1 is OK", 41, "OK")
    return recording


def draw(recording: Recording, signals: list[str], title: str) -> str:
    """Return a timing diagram of some signals as SVG, the PLC's in blue."""
    width = LEFT + STEP * len(recording.columns) + 20
    height = TOP + ROW * (len(signals) + 1) + 92
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {FONT} font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" fill="{PLC_COLOUR}">blue: written by the PLC</text>',
        f'<text x="{LEFT}" y="20" fill="{STATION_COLOUR}">dark: written by the station</text>',
    ]
    bottom = TOP + ROW * (len(signals) + 1)
    for number, (label, _, _) in enumerate(recording.columns):
        x = LEFT + STEP * number
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}" stroke="{LINE}" stroke-dasharray="2 3"/>')
        parts.append(_text(x, bottom + 12, label, f' transform="rotate(40 {x} {bottom + 12})"'))
    for row, name in enumerate(signals):
        parts += _wave(recording, name, TOP + ROW * row)
    parts += _fields(recording, TOP + ROW * len(signals))
    return "\n".join([*parts, "</svg>", ""])


def _wave(recording: Recording, name: str, top: int) -> list[str]:
    """Return the name and the levels of one signal."""
    own = name in INPUTS
    colour = PLC_COLOUR if own else {"job_pass": OK_COLOUR, "job_fail": NG_COLOUR}.get(name, STATION_COLOUR)
    levels = [inputs[name] if own else name in outputs.bits for _, inputs, outputs in recording.columns]
    low, high = top + ROW - 7, top + 7
    points = []
    for number, level in enumerate(levels):
        y = high if level else low
        points += [f"{LEFT + STEP * number},{y}", f"{LEFT + STEP * (number + 1)},{y}"]
    areas = [
        f'<rect x="{LEFT + STEP * number}" y="{high}" width="{STEP}" height="{low - high}" fill="{colour}" '
        'fill-opacity="0.12"/>'
        for number, level in enumerate(levels)
        if level
    ]
    line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [_text(10, top + ROW - 11, name, "", colour), *areas, line]


def _fields(recording: Recording, top: int) -> list[str]:
    """Return the row of the result id: a box while the fields hold a result."""
    parts = [_text(10, top + ROW - 11, "result_id", "", STATION_COLOUR)]
    ids = [outputs.result and outputs.result.acquisition_id for _, _, outputs in recording.columns]
    x = LEFT
    for acquisition_id, columns in groupby(ids):
        width = STEP * len(list(columns))
        if acquisition_id is None:
            y = top + ROW // 2
            parts.append(f'<line x1="{x}" y1="{y}" x2="{x + width}" y2="{y}" stroke="{STATION_COLOUR}"/>')
        else:
            shape = f'x="{x}" y="{top + 6}" width="{width}" height="{ROW - 12}"'
            parts.append(f'<rect {shape} fill="#fef9c3" stroke="{STATION_COLOUR}"/>')
            parts.append(_text(x + width // 2 - 7, top + ROW - 12, str(acquisition_id), ""))
        x += width
    return parts


def _text(x: int, y: int, text: str, attributes: str, colour: str = STATION_COLOUR) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}"{attributes}>{escape(text)}</text>'


def _result(acquisition_id: int, verdict: Verdict) -> Result:
    return Result(
        acquisition_id=acquisition_id,
        verdict=verdict,
        reason="" if verdict == "OK" else "score",
        message="",
        score=0.5 if verdict == "OK" else 2.0,
        threshold=1.0,
        part_id="",
        meas_id="",
        channel="plc",
        recipe_id="gear",
        bundle_digest="",
        time="",
        timings_ms={},
    )


_TRIGGER = ["trigger_ready", "trigger", "trigger_ack", "busy"]
_RESULT = ["results_valid", "job_pass", "job_fail", "results_ack"]
DIAGRAMS: dict[str, tuple[Callable[[], Recording], list[str], str]] = {
    "plc-one-part.svg": (
        one_part,
        [*_TRIGGER, "exposure_complete", *_RESULT],
        "Handshake of one part: trigger, acknowledgement, image, result, acknowledgement",
    ),
    "plc-two-parts.svg": (two_parts, [*_TRIGGER, *_RESULT], "Two parts in work: the second result waits for the PLC"),
    "plc-silence.svg": (
        silence,
        ["trigger_ready", "trigger", "busy", "results_valid", "job_pass", "results_ack", "error"],
        "A supervisor that is silent takes OK back until it is heard again",
    ),
    "plc-no-room.svg": (
        no_room,
        ["trigger_ready", "trigger", "trigger_ack", *_RESULT, "missed_acquisition", "results_overrun"],
        "A trigger without room for its result is missed",
    ),
}
"""Recording, signals and title of each picture."""

if __name__ == "__main__":
    for name, (record, signals, title) in DIAGRAMS.items():
        (FOLDER / name).write_text(draw(record(), signals, title), encoding="utf-8")
