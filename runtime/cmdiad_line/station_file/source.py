"""Sections `[[source]]`: the sensors of a station. The key `kind` selects the class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cmdiad_runtime.names import MODALITIES, SENSORS, Modality, Sensors
from cmdiad_runtime.readers import PlainColour
from cmdiad_runtime.support.records import require, require_integer, require_line, require_name, require_number
from cmdiad_runtime.support.toml_file.values import ExistingFile, ExistingFolder

FAULTS = {
    "unplug": "The sensor is gone for `unplug_ms`.",
    "delay": "The frame comes `delay_ms` late.",
    "stale": "The frame is an earlier one, with its old time.",
    "repeat": "The frame has the number and the content of the frame before, with a new time.",
    "freeze": "The frame has the content of the frame before, with a new number and time; needs `noisy = true`.",
    "swap": "The frame carries the id of another part.",
    "lose": "No frame is delivered.",
    "noise": "The image is covered with noise.",
    "size": "The frame has another size.",
    "error": "The sensor reports an error.",
    "hang": "The call into the driver never returns.",
    "crash": "The driver ends the process.",
}
"""Faults that a simulated sensor can have, with the effect of each."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The keys of every `[[source]]`.

    Attributes:
        kind: Kind of source.
        name: Name of the sensor in messages and records; "" for its kind.
        delivers: Arrays that the sensor delivers: "rgb", "xyz" or "both".
        timeout_ms: Milliseconds from the trigger in which a frame must be captured, and longest wait for it.
        skew_ms: Largest difference in milliseconds between the exposures of two sensors for the same part.
        noisy: True if two exposures never have the same bytes, as those of a real sensor. Then a frame with the bytes
            of a recent one is NG `stale-frame`. False is for generated pictures: it accepts a picture for two parts.
    """

    pushes: ClassVar[bool] = False
    """True if frames come by themselves, each of them a trigger."""

    kind: str
    name: str = ""
    delivers: Sensors = "rgb"
    timeout_ms: int = 500
    skew_ms: int = 200
    noisy: bool = True

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        require_name(self, "name")
        require(self.delivers in SENSORS, self, "delivers", f"one of {', '.join(SENSORS)}")
        require_integer(self, "timeout_ms", 10, 60_000)
        require_integer(self, "skew_ms", 1, 60_000)


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """The keys of every source whose frames arrive as files. The files of a part are a trigger and a frame in one.

    Attributes:
        timeout_ms: Milliseconds to read the files of a part.
        colour: Kind of image: "rgb" or "grey".
    """

    pushes: ClassVar[bool] = True

    timeout_ms: int = 5000
    colour: PlainColour = "rgb"


@dataclass(frozen=True, kw_only=True)
class FolderSource(FileSource):
    """A watched folder: each sample that is complete is a trigger and a frame in one.

    Attributes:
        path: Folder that a camera or another program writes to. Files that were read move to its folder `taken`.
        settle_ms: Milliseconds without a change after which a file is complete; 0 if files appear whole.
        limit_ms: Milliseconds within which a sample must be complete.
    """

    path: ExistingFolder
    settle_ms: int = 200
    limit_ms: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self, "settle_ms", 0, 60_000)
        require_integer(self, "limit_ms", 10, 600_000)


@dataclass(frozen=True, kw_only=True)
class PushSource(FileSource):
    """Frames that arrive by HTTP (`POST /inspect` of the section `[web]`), each a trigger and a frame in one.

    Attributes:
        max_megabytes: Largest upload in megabytes.
    """

    max_megabytes: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self, "max_megabytes", 1, 1024)


@dataclass(frozen=True, kw_only=True)
class SimulatedSource(Source):
    """A simulated camera or 3D sensor.

    Attributes:
        data: Folder of samples (`rgb` and `xyz`, or files), used one after another; without it a pattern is
            generated.
        width: Width of the generated pattern in pixels.
        height: Height of the generated pattern in pixels.
        seed: Seed of the pattern and of the faults.
        exposure_ms: Duration of an exposure in milliseconds.
        delay_ms: Extra milliseconds of the fault "delay".
        unplug_ms: Milliseconds of the fault "unplug".
        faults: Share of triggers with each fault, by name, for example `{unplug = 0.01}`.
        fault_file: File with the names of the faults of the next triggers, one per line, for tests. Each trigger takes
            the first line away.
    """

    noisy: bool = False
    data: ExistingFolder | None = None
    width: int = 320
    height: int = 240
    seed: int = 0
    exposure_ms: int = 0
    delay_ms: int = 200
    unplug_ms: int = 1000
    faults: dict[str, float] = field(default_factory=dict)
    fault_file: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self, "width", 8, 8192)
        require_integer(self, "height", 8, 8192)
        require_integer(self, "seed", 0, 1 << 31)
        require_integer(self, "exposure_ms", 0, 10_000)
        require_integer(self, "delay_ms", 0, 600_000)
        require_integer(self, "unplug_ms", 0, 600_000)
        known = all(name in FAULTS and 0 <= share <= 1 for name, share in self.faults.items())
        require(known and sum(self.faults.values()) <= 1, self, "faults", f"shares of {', '.join(FAULTS)}, 1 in total")


@dataclass(frozen=True, kw_only=True)
class GenicamSource(Source):
    """A camera with GenICam, by a GenTL producer of its vendor. The station triggers it by software.

    Attributes:
        producer: GenTL producer, a file ending in `.cti`.
        serial: Serial number of the camera; "" for the only one.
        exposure_us: Exposure in microseconds; without it the camera's setting stays.
        gain: Gain in the unit of the camera; without it the camera's setting stays.
    """

    producer: ExistingFile
    serial: str = ""
    exposure_us: float | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.delivers == "rgb", self, "delivers", "rgb")
        require_line(self, "serial", longest=64)
        require(self.producer.suffix == ".cti", self, "producer", "a file ending in .cti")
        if self.exposure_us is not None:
            require_number(self, "exposure_us", 1, 1e8)
        if self.gain is not None:
            require_number(self, "gain", 0, 1e4)


@dataclass(frozen=True, kw_only=True)
class RealsenseSource(Source):
    """An Intel RealSense depth camera; cloud and image are aligned to the colour sensor.

    Attributes:
        serial: Serial number; "" for the only one.
        width: Width of both streams in pixels.
        height: Height of both streams in pixels.
        frames_per_second: Frame rate of both streams.
    """

    delivers: Sensors = "both"
    serial: str = ""
    width: int = 1280
    height: int = 720
    frames_per_second: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        require_line(self, "serial", longest=64)
        require_integer(self, "width", 64, 4096)
        require_integer(self, "height", 64, 4096)
        require_integer(self, "frames_per_second", 1, 120)


@dataclass(frozen=True, kw_only=True)
class UsbSource(Source):
    """A USB camera of the system (V4L2).

    Attributes:
        device: Device, for example `/dev/video0`; a link in `/dev/v4l/by-id` names the same camera after a restart.
        width: Width in pixels.
        height: Height in pixels.
    """

    device: Path
    width: int = 1280
    height: int = 720

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.delivers == "rgb", self, "delivers", "rgb")
        require_integer(self, "width", 64, 8192)
        require_integer(self, "height", 64, 8192)


def modalities_of(sensors: str) -> tuple[Modality, ...]:
    """Return the modalities of "rgb", "xyz" or "both"; none for another text."""
    return tuple(modality for modality in MODALITIES if sensors in (modality, "both"))


SOURCE_KINDS: dict[str, type[Source]] = {
    "folder": FolderSource,
    "push": PushSource,
    "simulated": SimulatedSource,
    "genicam": GenicamSource,
    "realsense": RealsenseSource,
    "usb": UsbSource,
}
"""Class of a `[[source]]` by its key `kind`."""
