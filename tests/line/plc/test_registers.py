"""The layout of registers: round trips, fixed addresses and numbers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_line.plc.registers import (
    COILS,
    DISCRETE_INPUTS,
    HOLDING_REGISTER_COUNT,
    HOLDING_REGISTERS,
    INPUT_REGISTER_COUNT,
    INPUT_REGISTERS,
    REASON_NUMBERS,
    UNKNOWN_REASON,
    control_word,
    input_levels,
    output_words,
    outputs_of,
    reason_number,
    text_words,
    words_text,
)
from cmdiad_line.plc.signals import INPUTS, OUTPUTS, SILENT_OUTPUTS, Offline, Outputs, ShownResult
from cmdiad_line.reasons import STATION_REASONS
from cmdiad_runtime.reasons import REASONS

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(categories=["L", "N", "P"]), max_size=16)
RESULTS = st.builds(
    ShownResult,
    acquisition_id=st.integers(1, 2**31 - 1),
    reason=st.sampled_from(["", *REASON_NUMBERS]),
    score=FLOATS,
    threshold=FLOATS,
    recipe_id=TEXTS,
    part_id=TEXTS,
)
STATUS = st.sets(st.sampled_from(sorted(OUTPUTS.keys() - {"results_valid", "scored"})))


@given(
    bits=STATUS,
    shown=st.none() | RESULTS,
    offline=st.sampled_from(list(Offline)),
    error=st.sampled_from(["", *REASON_NUMBERS]),
    numbers=st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 65535), st.integers(0, 8), st.integers(0, 65535)),
    recipe=TEXTS,
)
def test_plc_reads_what_the_station_wrote(bits, shown, offline, error, numbers, recipe):
    trigger_id, missed, waiting, beat = numbers
    outputs = Outputs(
        bits=frozenset(bits | ({"results_valid", "scored"} if shown else set())),
        offline=offline,
        error=error,
        trigger_id=trigger_id,
        missed_count=missed,
        waiting=waiting,
        beat=beat,
        active_recipe=recipe,
        result=shown,
    )
    words = output_words(outputs)
    assert all(0 <= word <= 65535 for word in words)
    assert outputs_of(words) == outputs


def test_silent_outputs_have_no_bit():
    assert output_words(SILENT_OUTPUTS)[0] == 0


def test_all_fields_fit_into_one_request():
    assert len(output_words(SILENT_OUTPUTS)) == INPUT_REGISTER_COUNT <= 125
    assert HOLDING_REGISTER_COUNT <= 123


def test_addresses_never_change():
    assert list(COILS)[:8] == [
        "trigger_enable",
        "trigger",
        "results_ack",
        "reset",
        "go_online",
        "stop",
        "prepare_recipe",
        "activate_recipe",
    ]
    assert list(DISCRETE_INPUTS)[:16] == [
        "online",
        "trigger_ready",
        "trigger_ack",
        "busy",
        "exposure_complete",
        "results_valid",
        "job_pass",
        "job_fail",
        "scored",
        "repeated",
        "results_overrun",
        "missed_acquisition",
        "error",
        "command_done",
        "command_failed",
        "heartbeat",
    ]
    assert [(field.name, field.address) for field in HOLDING_REGISTERS.values()] == [
        ("control", 0),
        ("requested_recipe", 1),
        ("part_id", 33),
    ]
    assert [(field.name, field.address) for field in INPUT_REGISTERS.values()][:15] == [
        ("status", 0),
        ("layout", 1),
        ("offline_reason", 2),
        ("error_code", 3),
        ("trigger_id", 4),
        ("missed_count", 6),
        ("waiting", 7),
        ("beat", 8),
        ("reason_code", 9),
        ("result_id", 10),
        ("score", 12),
        ("threshold", 14),
        ("result_recipe", 16),
        ("result_part_id", 48),
        ("active_recipe", 80),
    ]


def test_bytes_of_a_result():
    shown = ShownResult(
        acquisition_id=0x01020304, reason="score", score=1.5, threshold=1.0, recipe_id="gear", part_id="A7"
    )
    words = output_words(
        Outputs(bits=frozenset(["results_valid", "scored", "job_fail"]), result=shown, error="", offline=Offline.ONLINE)
    )
    assert words[0] == 1 << 5 | 1 << 7 | 1 << 8
    assert words[9:12] == [1, 0x0102, 0x0304]
    assert struct.pack(">4H", *words[12:16]) == struct.pack(">ff", 1.5, 1.0)
    assert words[16:19] == [0x6765, 0x6172, 0] and words[48:50] == [0x4137, 0]


def test_every_reason_has_a_number():
    """A new reason gets a new number at the end of its range; an old number never changes."""
    assert set(REASON_NUMBERS) == set(REASONS) | set(STATION_REASONS) | {"silent"}
    assert len(set(REASON_NUMBERS.values())) == len(REASON_NUMBERS)
    assert all(1 <= REASON_NUMBERS[code] <= 100 for code in REASONS)
    assert all(101 <= REASON_NUMBERS[code] <= 1000 for code in STATION_REASONS)
    fixed = {"score": 1, "missing-file": 3, "timeout": 9, "part-count": 16, "frozen": 29, "internal": 31}
    fixed |= {"not-ready": 101, "deadline": 103, "stale-frame": 106, "disk-full": 118, "station-error": 120}
    assert fixed.items() <= REASON_NUMBERS.items()


def test_reason_without_a_number_is_not_zero():
    assert reason_number("of a later version") == UNKNOWN_REASON
    assert reason_number("") == 0


@given(st.text(max_size=100))
def test_text_is_cut_at_a_whole_character(text):
    words = text_words(text)
    assert len(words) == 32
    data = struct.pack(">32H", *words).rstrip(b"\0")
    assert text.encode().startswith(data.decode().encode())


@given(st.lists(st.integers(0, 65535), min_size=32, max_size=32))
def test_any_words_make_a_printable_text(words):
    assert words_text(words).isprintable()


@given(st.integers(0, 255))
def test_control_word(control):
    assert control_word(input_levels(control)) == control
    assert input_levels(control).keys() == INPUTS.keys()


@pytest.mark.parametrize("score", [1e300, -1e300, 3.5e38])
def test_number_beyond_a_single_is_the_largest_one(score):
    shown = ShownResult(acquisition_id=1, reason="score", score=score, threshold=1.0, recipe_id="", part_id="")
    words = output_words(Outputs(bits=frozenset(["results_valid", "scored"]), result=shown))
    assert abs(outputs_of(words).result.score) == pytest.approx(3.4e38, rel=0.01)


@pytest.mark.parametrize("words", [[0] * 10, [0, 2, *[0] * (INPUT_REGISTER_COUNT - 2)]])
def test_another_layout_is_refused(words):
    with pytest.raises(ValueError, match="expected"):
        outputs_of(words)
