"""The stream of samples: the same results as one by one, in order, bounded, and nothing left running."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime import EngineError, Inspector, Sample
from cmdiad_runtime.envelope.names import LEARNT_CHECKS
from cmdiad_runtime.inspection import pipeline as module
from cmdiad_runtime.inspection.arrived import Arrived, FileState
from cmdiad_runtime.inspection.inputs import list_inputs, read_sample
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pipeline import InspectedSource, inspect_stream
from helpers import sample_files, truncate
from patience import LIMIT_S

Cached = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("cmdiad-prepare")] == []


class RecordingEngine:
    """An engine that tells what it was run on, and gives each input's own number."""

    description = identity = "recorder"

    def __init__(self, run: Callable[[float], None] = lambda number: None) -> None:
        self.seen: list[float] = []
        self.run_ = run

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        number = float(inputs["rgb"][0, 0, 0, 0])
        self.seen.append(number)
        self.run_(number)
        return {"map": np.full((112, 112), number, np.float32)}

    def close(self) -> None:
        """Nothing to give back."""


def numbered(count: int) -> list[Sample]:
    """Samples whose first pixel is their own number."""
    samples = []
    for number in range(count):
        image = np.full((112, 112, 3), number, np.uint8)
        image[60:] = 250
        samples.append(Sample(f"part {number}", rgb=image))
    return samples


def recording(
    exported: Cached, run: Callable[[float], None] = lambda number: None
) -> tuple[Inspector, RecordingEngine]:
    with Inspector.open(exported("rgb"), OpenOptions(ignore_checks=LEARNT_CHECKS)) as inspector:
        engine = RecordingEngine(run)
        return Inspector(inspector.bundle, engine), engine


def inspections(outcomes: list[InspectedSource]) -> list[Inspection]:
    assert all(outcome.inspection.inspected for outcome in outcomes)
    return [outcome.inspection for outcome in outcomes]


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_results_are_those_of_inspecting_one_by_one(data: Path, exported: Cached, modality: str, ahead: int) -> None:
    files = 2 * list_inputs([data / "gear" / "test"], modality)  # type: ignore[arg-type]
    with Inspector.open(exported(modality, "f2f")) as inspector:
        expected = [inspector.inspect(read_sample(file, inspector.bundle.preprocessing)) for file in files]
        outcomes = list(inspect_stream(inspector, files, ahead=ahead))
    assert [outcome.source for outcome in outcomes] == files
    for found, alone in zip(inspections(outcomes), expected, strict=True):
        assert (found.name, found.score, found.verdict, found.view) == (
            alone.name,
            alone.score,
            alone.verdict,
            alone.view,
        )
        assert found.map is not None
        assert alone.map is not None
        assert found.map.tobytes() == alone.map.tobytes()
        assert set(found.timings_ms) == {"preprocess", "engine", "map"}
    for outcome, found in zip(outcomes, inspections(outcomes), strict=True):
        assert outcome.read_ms > 0
        assert outcome.latency_ms >= outcome.read_ms + sum(found.timings_ms.values())


def test_samples_in_memory_need_no_reading(exported: Cached) -> None:
    inspector, engine = recording(exported)
    samples = numbered(7)
    outcomes = list(inspect_stream(inspector, samples))
    assert engine.seen == list(range(7))
    assert [found.score for found in inspections(outcomes)] == list(range(7))
    assert [outcome.source for outcome in outcomes] == samples
    assert {outcome.read_ms for outcome in outcomes} == {0}


def test_order_is_kept_when_later_samples_are_ready_first(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    inspector, engine = recording(exported)
    second_done, original = threading.Event(), module.make_ready

    def prepare(sample: Sample, bundle: Any) -> Any:
        if sample.name == "part 0":
            assert second_done.wait(LIMIT_S)
        prepared = original(sample, bundle)
        if sample.name == "part 1":
            second_done.set()
        return prepared

    monkeypatch.setattr(module, "make_ready", prepare)
    list(inspect_stream(inspector, numbered(4), ahead=2))
    assert engine.seen == [0, 1, 2, 3]


@pytest.mark.parametrize("ahead", [1, 3])
def test_next_samples_are_prepared_beside_the_engine_and_no_more_than_asked(
    exported: Cached, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    prepared: set[str] = set()
    changed, original = threading.Condition(), module.make_ready

    def prepare(sample: Sample, bundle: Any) -> Any:
        made = original(sample, bundle)
        with changed:
            prepared.add(sample.name)
            changed.notify_all()
        return made

    def run(number: float) -> None:
        following = {f"part {k}" for k in range(min(10, int(number) + ahead + 1))}
        with changed:
            assert changed.wait_for(lambda: prepared >= following, 10)  # while the engine is still at work
            assert prepared == following

    inspector, engine = recording(exported, run)
    monkeypatch.setattr(module, "make_ready", prepare)
    list(inspect_stream(inspector, numbered(10), ahead=ahead))
    assert len(engine.seen) == 10


def test_engine_is_used_from_the_callers_thread(exported: Cached) -> None:
    threads = []
    inspector, _ = recording(exported, lambda number: threads.append(threading.current_thread()))
    list(inspect_stream(inspector, numbered(3)))
    assert set(threads) == {threading.current_thread()}


def test_bad_samples_are_reported_and_the_others_inspected(data: Path, exported: Cached, tmp_path: Path) -> None:
    good = sample_files(data, "test", "good", "rgb")
    bad = truncate(Path(shutil.copy(good[0], tmp_path / "bad.png")))
    dark = Sample("dark", rgb=np.zeros((112, 112, 3), np.uint8))
    with Inspector.open(exported("rgb")) as inspector:
        outcomes = list(inspect_stream(inspector, [bad, good[0], dark, tmp_path / "absent.png", good[1]]))
    results = [outcome.inspection for outcome in outcomes]
    assert [result.inspected for result in results] == [False, True, False, False, True]
    assert [result.reason for result in results if not result.inspected] == [
        "unreadable",
        "no-contrast",
        "missing-file",
    ]
    assert all(result.verdict == "NG" for result in results if not result.inspected)
    assert str(bad) in results[0].message
    assert results[2].message.startswith("dark: ")
    assert outcomes[1].source == good[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError("part", found="a", expected="b", action="c")])
def test_failure_in_the_engine_ends_the_stream(exported: Cached, error: Any) -> None:
    def run(number: float) -> None:
        if number == 2:
            raise error

    inspector, engine = recording(exported, run)
    outcomes = []
    with pytest.raises((KeyboardInterrupt, EngineError)):
        outcomes.extend(inspect_stream(inspector, numbered(9)))
    assert len(outcomes) == 2
    assert engine.seen == [0, 1, 2]
    if error is KeyboardInterrupt:  # which does not wait for the samples that are being prepared
        for thread in threading.enumerate():
            if thread.name.startswith("cmdiad-prepare"):
                thread.join(LIMIT_S)


def test_defect_in_the_preparation_is_not_swallowed(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    inspector, _ = recording(exported)
    monkeypatch.setattr(module, "make_ready", lambda sample, bundle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(inspect_stream(inspector, numbered(2)))


def test_stream_that_is_given_up_leaves_the_inspector_usable(exported: Cached) -> None:
    inspector, engine = recording(exported)
    with closing(inspect_stream(inspector, numbered(50))) as outcomes:
        next(outcomes)
    assert engine.seen == [0]
    assert inspector.inspect(numbered(1)[0]).score == 0


def test_nothing_to_inspect(exported: Cached) -> None:
    inspector, _ = recording(exported)
    assert list(inspect_stream(inspector, [])) == []


def test_nothing_ahead_is_refused(exported: Cached) -> None:
    inspector, _ = recording(exported)
    with pytest.raises(ValueError, match="at least one sample must be prepared ahead, got 0"):
        inspect_stream(inspector, numbered(1), ahead=0)


def test_sample_of_a_watched_folder_is_read_from_the_files_that_arrived(
    data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    """A cloud of an earlier part has the same name. If the image alone is passed, the sample is refused for it."""
    image, cloud = tmp_path / "1.png", tmp_path / "1.tif"
    for path, modality in ((image, "rgb"), (cloud, "xyz")):
        path.write_bytes(sample_files(data, "test", "good", modality)[0].read_bytes())
    (tmp_path / "1.tiff").write_bytes(b"of the part before")
    arrived = Arrived(image, (FileState.of(image), FileState.of(cloud)))
    with (
        Inspector.open(exported("both")) as inspector,
        closing(inspect_stream(inspector, [arrived, image])) as stream,
    ):
        of_arrival, of_name = (inspected.inspection for inspected in stream)
    assert of_arrival.inspected, of_arrival.message
    assert (of_name.verdict, of_name.reason) == ("NG", "unsupported")
