"""Sources for real sensors, tested with doubles of the vendors' libraries. They never deliver an old frame."""

from __future__ import annotations

import sys
import time
import types
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_line.acquisition import source
from cmdiad_line.acquisition.sources import make_source
from cmdiad_line.acquisition.sources import usb as usb_module
from cmdiad_line.station_file.source import SOURCE_KINDS, GenicamSource, RealsenseSource, UsbSource
from helpers import python
from patience import LIMIT_S

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def order(part: int = 7) -> source.Order:
    return source.Order(acquisition_id=part, triggered_ns=time.monotonic_ns())


# --- GenICam ---------------------------------------------------------------------------------------------------------


class Node:
    def __init__(self, value: Any = None) -> None:
        self.value = value


class Component:
    def __init__(self, data: np.ndarray, data_format: str) -> None:
        self.data, self.data_format = data.ravel(), data_format
        self.height, self.width = data.shape[:2]


class Buffer:
    def __init__(self, camera: FakeCamera, image: np.ndarray, number: int) -> None:
        self.camera = camera
        self.payload = types.SimpleNamespace(components=[Component(image, camera.pixel_format)])
        self.module = types.SimpleNamespace(frame_id=number)

    def queue(self) -> None:
        self.camera.queued += 1

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.queue()


class FakeCamera:
    """`harvesters.core.ImageAcquirer`, as far as it is used."""

    def __init__(self) -> None:
        names = ("TriggerSelector", "TriggerMode", "TriggerSource", "ExposureTime", "Gain", "TriggerSoftware")
        nodes = {name: Node() for name in names}
        self.nodes = types.SimpleNamespace(**nodes, DeviceSerialNumber=Node("SN1"))
        self.nodes.TriggerSoftware.execute = self.expose
        self.remote_device = types.SimpleNamespace(node_map=self.nodes)
        self.pixel_format, self.image = "RGB8", IMAGE
        self.waiting: deque[Buffer] = deque()
        self.late: deque[Buffer] = deque()
        self.number = self.queued = 0
        self.slow = False
        self.calls: list[str] = []

    def expose(self) -> None:
        self.waiting.extend(self.late)
        self.late.clear()
        self.number += 1
        (self.late if self.slow else self.waiting).append(Buffer(self, self.image, self.number))

    def try_fetch(self, *, timeout: float) -> Buffer | None:
        assert timeout > 0
        return self.waiting.popleft() if self.waiting else None

    def start(self) -> None:
        self.calls.append("start")
        self.late.clear()

    def stop(self) -> None:
        self.calls.append("stop")

    def destroy(self) -> None:
        self.calls.append("destroy")


@pytest.fixture
def genicam(monkeypatch, tmp_path):
    camera = FakeCamera()
    keys: list[object] = []

    class Harvester:
        def add_file(self, path: str) -> None:
            assert path.endswith(".cti")

        def update(self) -> None:
            """List the cameras."""

        def create(self, key: object) -> FakeCamera:
            keys.append(key)
            return camera

        def reset(self) -> None:
            camera.calls.append("reset")

    core = types.ModuleType("harvesters.core")
    core.Harvester = Harvester  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "harvesters", types.ModuleType("harvesters"))
    monkeypatch.setitem(sys.modules, "harvesters.core", core)
    producer = tmp_path / "vendor.cti"
    producer.touch()

    def make(**changes: Any) -> source.Source:
        made = make_source(GenicamSource(kind="genicam", producer=producer, **changes), tmp_path)
        assert made.open() == {"serial": "SN1"}
        return made

    return types.SimpleNamespace(make=make, camera=camera, keys=keys)


def test_genicam_frame(genicam):
    made = genicam.make(serial="SN1", exposure_us=500.0, gain=2.0)
    nodes = genicam.camera.nodes
    assert genicam.keys == [{"serial_number": "SN1"}]
    assert (nodes.TriggerMode.value, nodes.TriggerSource.value) == ("On", "Software")
    assert (nodes.ExposureTime.value, nodes.Gain.value) == (500.0, 2.0)
    request = order()
    made.trigger(request)
    frame = made.frame(LIMIT_S)
    assert np.array_equal(frame.arrays["rgb"], IMAGE)
    assert (frame.acquisition_id, frame.number) == (7, 1)
    assert frame.captured_ns >= request.triggered_ns
    assert genicam.camera.queued == 1
    made.close()
    made.close()
    assert genicam.camera.calls == ["start", "destroy", "reset"]


def test_genicam_discards_what_waits_in_the_camera(genicam):
    made = genicam.make()
    genicam.camera.expose()
    genicam.camera.expose()
    made.trigger(order())
    assert made.frame(LIMIT_S).number == 3
    assert genicam.camera.queued == 3


def test_genicam_frame_that_is_late_is_not_taken_for_the_next_part(genicam):
    made = genicam.make()
    genicam.camera.slow = True
    made.trigger(order(1))
    with pytest.raises(source.FrameTimeoutError):
        made.frame(0.01)
    genicam.camera.slow = False
    made.trigger(order(2))
    frame = made.frame(LIMIT_S)
    assert (frame.acquisition_id, frame.number) == (2, 2)
    assert genicam.camera.calls == ["start", "stop", "start"]


def test_genicam_one_trigger_gives_one_frame(genicam):
    made = genicam.make()
    made.trigger(order())
    made.frame(LIMIT_S)
    with pytest.raises(source.SourceError, match="no trigger"):
        made.frame(LIMIT_S)


@pytest.mark.parametrize(
    ("pixel_format", "image", "expected"),
    [
        ("RGB8", IMAGE, IMAGE),
        ("BGR8", IMAGE, IMAGE[..., ::-1]),
        ("Mono8", IMAGE[..., 0], np.repeat(IMAGE[..., :1], 3, axis=2)),
    ],
)
def test_genicam_pixel_formats(genicam, pixel_format, image, expected):
    made = genicam.make()
    genicam.camera.pixel_format, genicam.camera.image = pixel_format, image
    made.trigger(order())
    frame = made.frame(LIMIT_S)
    assert np.array_equal(frame.arrays["rgb"], expected)
    assert not np.shares_memory(frame.arrays["rgb"], image)


def test_genicam_unknown_pixel_format(genicam):
    made = genicam.make()
    genicam.camera.pixel_format = "BayerRG12"
    made.trigger(order())
    with pytest.raises(source.SourceError, match="RGB8, BGR8 or Mono8"):
        made.frame(LIMIT_S)
    assert genicam.camera.queued == 1


def test_genicam_failure_of_the_library_means_gone(genicam, monkeypatch):
    made = genicam.make()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(genicam.camera, "try_fetch", fail)
    with pytest.raises(source.SourceGoneError, match="device lost"):
        made.trigger(order())
    del genicam.camera.nodes.DeviceSerialNumber
    with pytest.raises(source.SourceGoneError):
        made.check()


# --- RealSense -------------------------------------------------------------------------------------------------------

CLOUD = np.linspace(0.1, 0.5, IMAGE.size, dtype=np.float32).reshape(IMAGE.shape)


class StreamFrame:
    def __init__(self, age_s: float, domain: str, data: Any) -> None:
        self.stamp, self.domain, self.data = time.time() * 1000 - age_s * 1000, domain, data

    def get_timestamp(self) -> float:
        return self.stamp

    def get_frame_timestamp_domain(self) -> str:
        return self.domain

    def get_frame_number(self) -> int:
        return 3

    def get_data(self) -> Any:
        return self.data


class FrameSet:
    def __init__(self, age_s: float, domain: str = "global_time", depth_age_s: float | None = None) -> None:
        self.color = StreamFrame(age_s, domain, IMAGE)
        self.depth = StreamFrame(age_s if depth_age_s is None else depth_age_s, domain, None)

    def get_color_frame(self) -> StreamFrame:
        return self.color

    def get_depth_frame(self) -> StreamFrame:
        return self.depth


@pytest.fixture
def realsense(monkeypatch, tmp_path):
    state = types.SimpleNamespace(sets=deque(), connected=True, stopped=0, streams=[], options=[], device_serial="")

    class Config:
        def enable_device(self, serial: str) -> None:
            state.device_serial = serial

        def enable_stream(self, *arguments: object) -> None:
            state.streams.append(arguments)

    sensor = types.SimpleNamespace(set_option=lambda *arguments: state.options.append(arguments))
    device = types.SimpleNamespace(
        is_connected=lambda: state.connected, get_info=lambda info: info, query_sensors=lambda: [sensor]
    )

    class Pipeline:
        def start(self, config: Config) -> Any:
            assert isinstance(config, Config)
            return types.SimpleNamespace(get_device=lambda: device)

        def try_wait_for_frames(self, timeout_ms: int) -> tuple[bool, Any]:
            assert timeout_ms > 0
            if not state.sets:
                return False, None
            made = state.sets.popleft()
            return True, made() if callable(made) else made

        def stop(self) -> None:
            state.stopped += 1

    def calculate(_depth: object) -> Any:
        vertices = CLOUD.reshape(-1, 3).view([("x", "f4"), ("y", "f4"), ("z", "f4")])
        return types.SimpleNamespace(get_vertices=lambda: vertices)

    library = types.ModuleType("pyrealsense2")
    names = {
        "config": Config,
        "pipeline": Pipeline,
        "align": lambda stream: types.SimpleNamespace(process=lambda frames: frames),
        "pointcloud": lambda: types.SimpleNamespace(calculate=calculate),
        "stream": types.SimpleNamespace(depth="depth", color="color"),
        "format": types.SimpleNamespace(z16="z16", rgb8="rgb8"),
        "option": types.SimpleNamespace(global_time_enabled="global"),
        "camera_info": types.SimpleNamespace(serial_number="SN2", firmware_version="5.16"),
        "timestamp_domain": types.SimpleNamespace(global_time="global_time"),
    }
    for name, value in names.items():
        setattr(library, name, value)
    monkeypatch.setitem(sys.modules, "pyrealsense2", library)

    def make(**changes: Any) -> source.Source:
        made = make_source(RealsenseSource(kind="realsense", **changes), tmp_path)
        assert made.open() == {"serial": "SN2", "firmware": "5.16"}
        return made

    state.make = make
    return state


def test_realsense_takes_the_first_frame_after_the_trigger(realsense):
    made = realsense.make(serial="SN2", width=640, height=480)
    assert realsense.device_serial == "SN2"
    assert realsense.streams == [("depth", 640, 480, "z16", 30), ("color", 640, 480, "rgb8", 30)]
    assert realsense.options == [("global", 1.0)]
    request = order()
    made.trigger(request)
    realsense.sets.extend([FrameSet(3600.0), lambda: FrameSet(0.0, depth_age_s=3600.0), lambda: FrameSet(0.0)])
    frame = made.frame(LIMIT_S)
    assert not realsense.sets
    assert frame.captured_ns >= request.triggered_ns
    assert np.array_equal(frame.arrays["rgb"], IMAGE)
    assert np.array_equal(frame.arrays["xyz"], CLOUD)
    assert (frame.acquisition_id, frame.number) == (7, 3)
    made.close()
    assert realsense.stopped == 1


@pytest.mark.parametrize("delivers", ["rgb", "xyz"])
def test_realsense_delivers_one_of_both(realsense, delivers):
    made = realsense.make(delivers=delivers)
    made.trigger(order())
    realsense.sets.append(lambda: FrameSet(0.0))
    assert list(made.frame(LIMIT_S).arrays) == [delivers]


def test_realsense_without_frames(realsense):
    made = realsense.make()
    made.trigger(order())
    with pytest.raises(source.FrameTimeoutError):
        made.frame(LIMIT_S)


def test_realsense_clock_of_the_device_is_refused(realsense):
    made = realsense.make()
    made.trigger(order())
    realsense.sets.append(FrameSet(0.0, "hardware_clock"))
    with pytest.raises(source.SourceError, match="no time of this machine"):
        made.frame(LIMIT_S)


def test_realsense_unplugged(realsense):
    made = realsense.make()
    realsense.connected = False
    for call in (made.check, lambda: made.trigger(order())):
        with pytest.raises(source.SourceGoneError, match="unplugged"):
            call()


# --- USB -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def usb(monkeypatch, tmp_path):
    state = types.SimpleNamespace(ages_s=deque(), size=(6, 4), opened=True, released=0, stamp_ms=0.0)

    class VideoCapture:
        def __init__(self, device: str, backend: str) -> None:
            assert (device, backend) == (str(tmp_path / "video0"), "v4l2")

        def isOpened(self) -> bool:  # noqa: N802 - the name in OpenCV
            return bool(state.opened)

        def set(self, _name: str, _value: float) -> bool:
            return True

        def get(self, name: str) -> float:
            return {"width": state.size[0], "height": state.size[1], "msec": state.stamp_ms}[name]

        def read(self) -> tuple[bool, Any]:
            if not state.ages_s:
                return False, None
            state.stamp_ms = (time.monotonic() - state.ages_s.popleft()) * 1000
            return True, IMAGE[..., ::-1]

        def release(self) -> None:
            state.released += 1

    library = types.ModuleType("cv2")
    names = {
        "VideoCapture": VideoCapture,
        "CAP_V4L2": "v4l2",
        "CAP_PROP_BUFFERSIZE": "buffers",
        "CAP_PROP_FRAME_WIDTH": "width",
        "CAP_PROP_FRAME_HEIGHT": "height",
        "CAP_PROP_POS_MSEC": "msec",
    }
    for name, value in names.items():
        setattr(library, name, value)
    monkeypatch.setitem(sys.modules, "cv2", library)
    state.device = tmp_path / "video0"
    state.device.touch()
    state.made = make_source(UsbSource(kind="usb", device=state.device, width=64, height=64), tmp_path)
    return state


def test_usb_takes_the_first_frame_after_the_trigger(usb, monkeypatch):
    monkeypatch.setattr(usb_module, "_OLDEST_NS", 10**15)
    usb.size = (64, 64)
    assert usb.made.open() == {"device": str(usb.device)}
    usb.made.trigger(source.Order(acquisition_id=7, triggered_ns=time.monotonic_ns() - 10**12))
    usb.ages_s.extend([9000.0, 8000.0, 0.0])
    frame = usb.made.frame(LIMIT_S)
    assert not usb.ages_s
    assert np.array_equal(frame.arrays["rgb"], IMAGE)
    assert frame.acquisition_id == 7
    usb.made.close()
    usb.made.close()
    assert usb.released == 1


@pytest.mark.parametrize("age_s", [-3600.0, 3600.0])
def test_usb_frame_of_another_clock_is_refused(usb, age_s):
    usb.size = (64, 64)
    usb.made.open()
    usb.made.trigger(order())
    usb.ages_s.append(age_s)
    with pytest.raises(source.SourceError, match="age is unknown"):
        usb.made.frame(LIMIT_S)


def test_usb_camera_that_is_gone(usb):
    with pytest.raises(source.SourceGoneError, match="delivers 6 x 4 pixels"):
        usb.made.open()
    usb.size = (64, 64)
    usb.made.open()
    usb.made.trigger(order())
    with pytest.raises(source.SourceGoneError, match="no frames"):
        usb.made.frame(LIMIT_S)
    usb.opened = False
    with pytest.raises(source.SourceGoneError, match="cannot be opened"):
        usb.made.open()
    usb.device.unlink()
    for call in (usb.made.check, usb.made.open):
        with pytest.raises(source.SourceGoneError, match="no device"):
            call()


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["harvesters", "pyrealsense2", "opencv-python-headless"])
def test_missing_package_is_explained(monkeypatch, tmp_path, package):
    producer = tmp_path / "vendor.cti"
    settings = {
        "harvesters": GenicamSource(kind="genicam", producer=producer),
        "pyrealsense2": RealsenseSource(kind="realsense"),
        "opencv-python-headless": UsbSource(kind="usb", device=Path("/dev/null")),
    }[package]
    for module in ("harvesters", "harvesters.core", "pyrealsense2", "cv2"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(source.SourceGoneError, match=f"Run: pip install {package}"):
        make_source(settings, tmp_path).open()


def test_every_kind_of_source_follows_the_protocol(tmp_path):
    needed = {
        "genicam": {"producer": tmp_path / "vendor.cti"},
        "folder": {"path": tmp_path},
        "usb": {"device": tmp_path},
    }
    methods = {name for name in vars(source.Source) if not name.startswith("_")}
    assert methods == {"open", "check", "trigger", "frame", "close"}
    for kind, section in SOURCE_KINDS.items():
        made = make_source(section(kind=kind, **needed.get(kind, {})), tmp_path)
        assert methods <= set(dir(made))
        made.close()


def test_drivers_are_imported_only_for_their_sensor():
    code = "import sys, cmdiad_line.acquisition.process; print(*sys.modules)"
    loaded = set(python(code).split())
    assert not loaded & {"harvesters", "genicam", "pyrealsense2", "cv2", "fastapi", "asyncua", "onnxruntime"}
