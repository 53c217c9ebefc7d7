"""The inspection process runs the self-test before the first verdict, and answers NG whenever something is wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from cmdiad_line.inspection import loader, process
from cmdiad_line.inspection.detector import Detector
from cmdiad_line.transport.frames import FramePool, frames_path
from cmdiad_line.transport.link import Link, LinkClosedError, link_pair
from cmdiad_line.transport.messages import (
    Alive,
    ArrayPlace,
    End,
    Inspect,
    Inspected,
    Load,
    Loaded,
    Message,
    NotLoaded,
    Probe,
    Proved,
    Ready,
    Unload,
)
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.readers import read_rgb
from patience import LIMIT_S

Kind = TypeVar("Kind")


class Bench:
    """The inspection process in a thread, and the test in the place of the supervisor."""

    def __init__(self, pool: FramePool, state: Path) -> None:
        self.pool = pool
        self.link, there = link_pair()
        self.error: BaseException | None = None
        self._station = cast(Any, SimpleNamespace(state=state))
        self._arrived: list[Message] = []
        self.thread = threading.Thread(target=self._serve, args=(Link(there),))
        self.thread.start()

    def _serve(self, link: Link) -> None:
        try:
            process.serve(link, self._station)
        except Exception as error:
            self.error = error
        finally:
            link.close()

    def receive(self, kind: type[Kind]) -> Kind:
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            for message in self._arrived:
                if isinstance(message, kind):
                    self._arrived.remove(message)
                    return message
            self._arrived += [message for message in self.link.receive() if not isinstance(message, Alive)]
            time.sleep(0.002)
        raise AssertionError(f"no {kind.__name__} came")

    def inspect(self, part: int, places: tuple[ArrayPlace, ...], recipe_id: str = "gear") -> Inspected:
        self.link.send(Inspect(acquisition_id=part, slot=0, arrays=places, recipe_id=recipe_id))
        return self.receive(Inspected)

    def end(self) -> None:
        with contextlib.suppress(LinkClosedError):
            self.link.send(End())
        self.thread.join(LIMIT_S)
        self.link.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with FramePool.create(frames_path(tmp_path), 2, 1 << 20) as pool:
        bench = Bench(pool, tmp_path)
        try:
            bench.receive(Ready)
            yield bench
        finally:
            bench.end()


@pytest.fixture
def load(exported) -> Load:
    bundle = exported("rgb")
    digest = manifest_hash(Bundle.open(bundle).manifest)
    return Load(recipe_id="gear", path=str(bundle), bundle_digest=digest, engine="cpu", threshold=None, public_key="")


@pytest.fixture
def image(data: Path) -> np.ndarray:
    return read_rgb(sorted((data / "gear" / "train" / "good" / "rgb").glob("*.png"))[0], colour="rgb")


def test_good_part_is_ok_with_a_map_in_its_slot(bench, load, image):
    bench.link.send(load)
    loaded = bench.receive(Loaded)
    places = bench.pool.write(0, 7, {"rgb": image})
    inspected = bench.inspect(7, places)
    assert (inspected.acquisition_id, inspected.verdict, inspected.reason) == (7, "OK", "")
    assert inspected.score is not None
    assert inspected.score <= inspected.threshold == loaded.threshold
    assert inspected.map is not None
    anomaly_map = bench.pool.read(0, 7, (*places, inspected.map))["map"]
    assert anomaly_map.max() == pytest.approx(inspected.score)
    assert inspected.square is not None
    assert inspected.peak is not None
    assert 0 <= inspected.peak[0] < image.shape[0]


def test_frame_of_another_part_is_ng(bench, load, image):
    bench.link.send(load)
    bench.receive(Loaded)
    places = bench.pool.write(0, 8, {"rgb": image})
    inspected = bench.inspect(7, places)
    assert (inspected.verdict, inspected.reason, inspected.score) == ("NG", "wrong-frame", None)


def test_recipe_that_is_not_loaded_is_ng(bench, load, image):
    places = bench.pool.write(0, 7, {"rgb": image})
    assert bench.inspect(7, places).reason == "recipe-changed"
    bench.link.send(load)
    bench.receive(Loaded)
    bench.link.send(Unload(recipe_id="gear"))
    assert bench.inspect(7, places).reason == "recipe-changed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle_digest": "0" * 64}, "import the bundle again"),
        ({"path": "/nowhere"}, "nowhere"),
        ({"public_key": "/nowhere.pub"}, "nowhere.pub"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_recipe_that_cannot_be_trusted_is_not_loaded(bench, load, change, words):
    bench.link.send(replace(load, **change))
    message = bench.receive(NotLoaded).message
    assert words in message.lower()


def test_failed_self_test_is_not_loaded(bench, load, monkeypatch):
    import cmdiad_line.inspection.detector as detector_module

    def fail(*arguments: Any) -> Any:
        test = run_self_test(*arguments)
        return replace(test, comparison=replace(test.comparison, passed=False))

    run_self_test = detector_module.run_self_test
    monkeypatch.setattr(detector_module, "run_self_test", fail)
    bench.link.send(load)
    assert "self-test" in bench.receive(NotLoaded).message


def test_probe_proves_the_engine(bench, load):
    bench.link.send(load)
    bench.receive(Loaded)
    for token in range(3):
        bench.link.send(Probe(token=token, recipe_id="gear"))
        proved = bench.receive(Proved)
        assert (proved.token, proved.passed) == (token, True)
    bench.link.send(Probe(token=9, recipe_id="nut"))
    assert not bench.receive(Proved).passed


def test_changed_threshold_keeps_the_engine(bench, load, image, monkeypatch):
    bench.link.send(load)
    bench.receive(Loaded)
    monkeypatch.delattr(loader, "open_detector")
    bench.link.send(replace(load, threshold=1e-6))
    second = bench.receive(Loaded)
    assert second.threshold == pytest.approx(1e-6)
    inspected = bench.inspect(7, bench.pool.write(0, 7, {"rgb": image}))
    assert (inspected.verdict, inspected.reason) == ("NG", "score")


@pytest.mark.parametrize("error", [EngineError("", found="broken", action="repair"), MemoryError()])
def test_engine_that_fails_gives_ng_and_ends_the_process(bench, load, image, monkeypatch, error):
    bench.link.send(load)
    bench.receive(Loaded)

    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(Detector, "inspect", fail)
    inspected = bench.inspect(7, bench.pool.write(0, 7, {"rgb": image}))
    assert (inspected.verdict, inspected.reason) == ("NG", "inspection-failed")
    bench.thread.join(LIMIT_S)
    assert isinstance(bench.error, process.EngineBrokenError)


def test_end_of_the_supervisor_ends_the_process(bench):
    bench.link.close()
    bench.thread.join(LIMIT_S)
    assert isinstance(bench.error, LinkClosedError)
