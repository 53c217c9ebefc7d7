"""Intel RealSense depth camera, through pyrealsense2: colour image, and the cloud aligned to it pixel by pixel.

Tested with a double of the library only; not run on a camera.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_line.acquisition.source import Frame, FrameTimeoutError, Order, SourceError, SourceGoneError
from cmdiad_line.acquisition.sources.drivers import gone, load_driver
from cmdiad_line.acquisition.sources.free_running import first_after
from cmdiad_line.station_file.source import RealsenseSource, modalities_of


def make(settings: RealsenseSource, state: Path) -> Realsense:
    """Return a depth camera.

    Args:
        settings: Section of the station file.
        state: State folder of the station, not used.
    """
    return Realsense(settings)


class Realsense:
    """A depth camera that runs freely; the first frame that was exposed after the trigger counts. See `Source`.

    Args:
        settings: Section of the station file.
    """

    def __init__(self, settings: RealsenseSource) -> None:
        self._settings = settings
        self._library: Any = None
        self._pipeline: Any = None
        self._device: Any = None
        self._align: Any = None
        self._points: Any = None
        self._order: Order | None = None

    def open(self) -> dict[str, str]:
        """Start both streams; see `Source.open`."""
        self._library = library = load_driver("pyrealsense2", "pyrealsense2")
        settings = self._settings
        try:
            config = library.config()
            if settings.serial:
                config.enable_device(settings.serial)
            size = settings.width, settings.height
            config.enable_stream(library.stream.depth, *size, library.format.z16, settings.frames_per_second)
            config.enable_stream(library.stream.color, *size, library.format.rgb8, settings.frames_per_second)
            self._pipeline = library.pipeline()
            self._device = self._pipeline.start(config).get_device()
            for sensor in self._device.query_sensors():
                sensor.set_option(library.option.global_time_enabled, 1.0)
            self._align = library.align(library.stream.color)
            self._points = library.pointcloud()
            return {
                "serial": self._device.get_info(library.camera_info.serial_number),
                "firmware": self._device.get_info(library.camera_info.firmware_version),
            }
        except Exception as error:
            raise gone(error) from error

    def check(self) -> None:
        """Raise SourceGoneError if the camera was unplugged; see `Source.check`."""
        try:
            connected = self._device.is_connected()
        except Exception as error:
            raise gone(error) from error
        if not connected:
            raise SourceGoneError("unplugged")

    def trigger(self, order: Order) -> None:
        """Remember the time from which on a frame counts; see `Source.trigger`."""
        self.check()
        self._order = order

    def frame(self, timeout_s: float) -> Frame:
        """Return the first frame after the trigger; see `Source.frame`."""
        if self._order is None:
            raise SourceError("no trigger")
        order, self._order = self._order, None
        captured_ns, frames = first_after(order, timeout_s, self._next)
        return Frame(
            arrays=self._arrays(frames),
            captured_ns=captured_ns,
            acquisition_id=order.acquisition_id,
            number=int(frames.get_color_frame().get_frame_number()),
        )

    def close(self) -> None:
        """Stop both streams; see `Source.close`."""
        with suppress(Exception):
            if self._pipeline is not None:
                self._pipeline.stop()
        self._pipeline = self._device = None

    def _next(self, timeout_s: float) -> tuple[int, Any]:
        """Wait for the next set of frames, and return the time of the earlier exposure with the set."""
        try:
            arrived, frames = self._pipeline.try_wait_for_frames(max(1, int(timeout_s * 1000)))
        except Exception as error:
            raise gone(error) from error
        if not arrived:
            raise FrameTimeoutError
        return min(self._time_of(frames.get_color_frame()), self._time_of(frames.get_depth_frame())), frames

    def _time_of(self, frame: Any) -> int:
        """Return the time of an exposure by the monotonic clock.

        The library reports the time of the wall clock. If that clock is stepped, the frame seems to be too old or of
        the future, and the part is NG.
        """
        if frame.get_frame_timestamp_domain() != self._library.timestamp_domain.global_time:
            raise SourceError("the frames carry no time of this machine; update the firmware of the camera")
        age_ms = time.time() * 1000 - frame.get_timestamp()
        return time.monotonic_ns() - int(age_ms * 1e6)

    def _arrays(self, frames: Any) -> dict[str, npt.NDArray[Any]]:
        """Return copies of image and cloud of a set of frames."""
        aligned = self._align.process(frames)
        color, depth = aligned.get_color_frame(), aligned.get_depth_frame()
        arrays: dict[str, npt.NDArray[Any]] = {}
        delivered = modalities_of(self._settings.delivers)
        image = np.asanyarray(color.get_data())
        if "rgb" in delivered:
            arrays["rgb"] = image.copy()
        if "xyz" in delivered:
            vertices = np.asanyarray(self._points.calculate(depth).get_vertices())
            arrays["xyz"] = vertices.view(np.float32).reshape(*image.shape[:2], 3).copy()
        return arrays
