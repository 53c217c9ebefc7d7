"""Layout of the signals and fields in coils, discrete inputs and registers of Modbus (docs/plc.md shows the tables).

Addresses count from 0, as in the requests. Numbers of two registers have the high word first; in each register the
high byte comes first (order ABCD). A float is an IEEE 754 single. A text is UTF-8, two bytes per register, the first
character in the high byte, filled with zeros.

The layout has a version (`LAYOUT_VERSION`, in a register). New fields are appended. Numbers of reasons never change.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cmdiad_line.plc.signals import INPUTS, OUTPUTS, Offline, Outputs, ShownResult

LAYOUT_VERSION = 1
"""Version of the layout. It changes only if an existing address or number changes its meaning."""

COILS: dict[str, int] = {name: address for address, name in enumerate(INPUTS)}
"""Address of each input among the coils, and its bit in the register `control`."""
DISCRETE_INPUTS: dict[str, int] = {name: address for address, name in enumerate(OUTPUTS)}
"""Address of each output among the discrete inputs, and its bit in the register `status`."""

Kind = Literal["bits", "uint16", "uint32", "float32", "text"]
"""Type of a field."""
_TEXT_WORDS = 32
_WORDS: dict[Kind, int] = {"bits": 1, "uint16": 1, "uint32": 2, "float32": 2, "text": _TEXT_WORDS}
_LARGEST_FLOAT = struct.unpack(">f", b"\x7f\x7f\xff\xff")[0]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field in holding or input registers.

    Attributes:
        name: Name.
        address: Address of the first register.
        kind: Type.
        meaning: One sentence.
    """

    name: str
    address: int
    kind: Kind
    meaning: str

    @property
    def words(self) -> int:
        """Return the number of registers."""
        return _WORDS[self.kind]

    @property
    def end(self) -> int:
        """Return the address after the last register."""
        return self.address + self.words


def _fields(*rows: tuple[str, Kind, str]) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    address = 0
    for name, kind, meaning in rows:
        fields[name] = Field(name=name, address=address, kind=kind, meaning=meaning)
        address = fields[name].end
    return fields


HOLDING_REGISTERS = _fields(
    ("control", "bits", "The coils as one register: bit n is coil n."),
    ("requested_recipe", "text", "Id of the recipe for prepare_recipe and activate_recipe."),
    ("part_id", "text", "Id of the part, stored with the next trigger; may stay empty."),
)
"""Fields that the PLC writes, in the order of their addresses."""

INPUT_REGISTERS = _fields(
    ("status", "bits", "The discrete inputs as one register: bit n is discrete input n."),
    ("layout", "uint16", f"Version of this layout: {LAYOUT_VERSION}."),
    ("offline_reason", "uint16", "Why online is false: see the table of offline reasons."),
    ("error_code", "uint16", "Number of the reason of error, or 0."),
    ("trigger_id", "uint32", "Id that the last trigger has got, or 0."),
    ("missed_count", "uint16", "Triggers since the start that took no image, modulo 65536."),
    ("waiting", "uint16", "Results that wait for an acknowledgement, with the shown one."),
    ("beat", "uint16", "Number of heartbeats, modulo 65536."),
    ("reason_code", "uint16", "Number of the reason of NG; 0 for OK or without a result."),
    ("result_id", "uint32", "Acquisition id of the shown result, or 0."),
    ("score", "float32", "Score of the part; 0 unless scored."),
    ("threshold", "float32", "Score above which a part is NG; 0 unless scored."),
    ("result_recipe", "text", "Recipe that inspected the part."),
    ("result_part_id", "text", "Id of the part as the PLC gave it with the trigger."),
    ("active_recipe", "text", "Active recipe."),
)
"""Fields that the PLC reads, in the order of their addresses. All of them fit into one request."""

INPUT_REGISTER_COUNT = sum(field.words for field in INPUT_REGISTERS.values())
HOLDING_REGISTER_COUNT = sum(field.words for field in HOLDING_REGISTERS.values())

REASON_NUMBERS: dict[str, int] = {
    "score": 1,
    "outside": 2,
    "missing-file": 3,
    "missing-modality": 4,
    "not-a-file": 5,
    "unreadable": 6,
    "unsupported": 7,
    "too-large": 8,
    "timeout": 9,
    "out-of-memory": 10,
    "wrong-array": 11,
    "size-mismatch": 12,
    "no-contrast": 13,
    "no-points": 14,
    "no-part": 15,
    "part-count": 16,
    "part-area": 17,
    "part-position": 18,
    "image-size": 19,
    "colour": 20,
    "exposure": 21,
    "sharpness": 22,
    "noise": 23,
    "valid-points": 24,
    "point-pitch": 25,
    "plane-distance": 26,
    "holes": 27,
    "axes": 28,
    "frozen": 29,
    "bad-output": 30,
    "internal": 31,
    "no-answer": 32,
    "part-height": 33,
    "not-ready": 101,
    "stopped": 102,
    "deadline": 103,
    "overrun": 104,
    "camera-gone": 105,
    "stale-frame": 106,
    "partner-missing": 107,
    "acquisition-failed": 108,
    "acquisition-died": 109,
    "inspection-died": 110,
    "inspection-hung": 111,
    "inspection-failed": 112,
    "self-test": 113,
    "wrong-frame": 114,
    "recipe-changed": 115,
    "frames-full": 116,
    "not-recorded": 117,
    "disk-full": 118,
    "aborted": 119,
    "station-error": 120,
    "silent": 65534,
}
"""Number of each reason: 1 to 100 of the runtime, 101 to 1000 of the station, "silent" without a live supervisor."""
UNKNOWN_REASON = 65535
"""Number of a reason that has no number. NG never has the number 0."""

_REASONS = {number: code for code, number in REASON_NUMBERS.items()}


def reason_number(code: str) -> int:
    """Return the number of a reason; 0 only for ""."""
    return REASON_NUMBERS.get(code, UNKNOWN_REASON) if code else 0


def reason_of(number: int) -> str:
    """Return the reason of a number; "" for 0, "unknown" for a number without a reason."""
    return _REASONS.get(number, "unknown") if number else ""


def text_words(text: str) -> list[int]:
    """Return a text as registers. A text that is too long is cut after a whole character."""
    data = text.encode()[: 2 * _TEXT_WORDS].decode(errors="ignore").encode().ljust(2 * _TEXT_WORDS, b"\0")
    return list(struct.unpack(f">{_TEXT_WORDS}H", data))


def words_text(words: Sequence[int]) -> str:
    """Return the text in registers up to the first zero byte. Characters that cannot be printed become "?"."""
    data = struct.pack(f">{len(words)}H", *words).split(b"\0")[0]
    return "".join(letter if letter.isprintable() else "?" for letter in data.decode(errors="replace")).strip()


def output_words(outputs: Outputs) -> list[int]:
    """Return all input registers for the outputs at one moment."""
    result = outputs.result
    scored = result is not None and "scored" in outputs.bits
    values: dict[str, int | float | str] = {
        "status": sum(1 << address for name, address in DISCRETE_INPUTS.items() if name in outputs.bits),
        "layout": LAYOUT_VERSION,
        "offline_reason": int(outputs.offline),
        "error_code": reason_number(outputs.error),
        "trigger_id": outputs.trigger_id,
        "missed_count": outputs.missed_count,
        "waiting": outputs.waiting,
        "beat": outputs.beat,
        "reason_code": reason_number(result.reason) if result else 0,
        "result_id": result.acquisition_id if result else 0,
        "score": (result.score or 0.0) if result and scored else 0.0,
        "threshold": (result.threshold or 0.0) if result and scored else 0.0,
        "result_recipe": result.recipe_id if result else "",
        "result_part_id": result.part_id if result else "",
        "active_recipe": outputs.active_recipe,
    }
    return [word for name, field in INPUT_REGISTERS.items() for word in _words(field, values[name])]


def outputs_of(words: Sequence[int]) -> Outputs:
    """Return the outputs that a PLC has read from all input registers; the inverse of `output_words`.

    Raises:
        ValueError: The number of registers or the version of the layout is another one.
    """
    if len(words) != INPUT_REGISTER_COUNT:
        raise ValueError(f"{len(words)} input registers, expected {INPUT_REGISTER_COUNT}")
    values = {name: _value(field, words[field.address : field.end]) for name, field in INPUT_REGISTERS.items()}
    if values["layout"] != LAYOUT_VERSION:
        raise ValueError(f"layout version {values['layout']}, expected {LAYOUT_VERSION}")
    bits = frozenset(name for name, address in DISCRETE_INPUTS.items() if values["status"] >> address & 1)
    return Outputs(
        bits=bits,
        offline=Offline(values["offline_reason"]),
        error=reason_of(values["error_code"]),
        trigger_id=values["trigger_id"],
        missed_count=values["missed_count"],
        waiting=values["waiting"],
        beat=values["beat"],
        active_recipe=values["active_recipe"],
        result=_result(values, scored="scored" in bits) if "results_valid" in bits else None,
    )


def _result(values: dict[str, Any], *, scored: bool) -> ShownResult:
    return ShownResult(
        acquisition_id=values["result_id"],
        reason=reason_of(values["reason_code"]),
        score=values["score"] if scored else None,
        threshold=values["threshold"] if scored else None,
        recipe_id=values["result_recipe"],
        part_id=values["result_part_id"],
    )


def input_levels(control: int) -> dict[str, bool]:
    """Return the levels of all inputs from the register `control`."""
    return {name: bool(control >> address & 1) for name, address in COILS.items()}


def control_word(levels: dict[str, bool]) -> int:
    """Return the register `control` for the levels of inputs."""
    return sum(1 << address for name, address in COILS.items() if levels.get(name))


def _words(field: Field, value: int | float | str) -> list[int]:
    if isinstance(value, str):
        return text_words(value)
    if field.kind == "float32":
        return list(struct.unpack(">HH", struct.pack(">f", max(-_LARGEST_FLOAT, min(value, _LARGEST_FLOAT)))))
    number = int(value)
    return [number >> 16 & 0xFFFF, number & 0xFFFF] if field.kind == "uint32" else [number & 0xFFFF]


def _value(field: Field, words: Sequence[int]) -> Any:
    if field.kind == "text":
        return words_text(words)
    if field.kind == "float32":
        return struct.unpack(">f", struct.pack(">HH", *words))[0]
    return words[0] << 16 | words[1] if field.kind == "uint32" else words[0]
