"""USB camera of the system (V4L2), through OpenCV.

Tested with a double of the library only; not run on a camera.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_line.acquisition.source import Frame, Order, SourceError, SourceGoneError
from cmdiad_line.acquisition.sources.drivers import gone, load_driver
from cmdiad_line.acquisition.sources.free_running import first_after
from cmdiad_line.station_file.source import UsbSource

_OLDEST_NS = 10 * 10**9
"""Largest age of a frame. An older time is that of another clock."""


def make(settings: UsbSource, state: Path) -> Usb:
    """Return a USB camera.

    Args:
        settings: Section of the station file.
        state: State folder of the station, not used.
    """
    return Usb(settings)


class Usb:
    """A camera that runs freely; the first frame that was captured after the trigger counts. See `Source`.

    Args:
        settings: Section of the station file.
    """

    def __init__(self, settings: UsbSource) -> None:
        self._settings = settings
        self._library: Any = None
        self._camera: Any = None
        self._order: Order | None = None

    def open(self) -> dict[str, str]:
        """Open the device; see `Source.open`."""
        self._library = library = load_driver("cv2", "opencv-python-headless")
        device, size = self._settings.device, (self._settings.width, self._settings.height)
        if not device.exists():
            raise SourceGoneError(f"no device {device}")
        self._camera = library.VideoCapture(str(device), library.CAP_V4L2)
        if not self._camera.isOpened():
            raise SourceGoneError(f"{device} cannot be opened; another program may use it")
        self._camera.set(library.CAP_PROP_BUFFERSIZE, 1)
        self._camera.set(library.CAP_PROP_FRAME_WIDTH, size[0])
        self._camera.set(library.CAP_PROP_FRAME_HEIGHT, size[1])
        real = tuple(int(self._camera.get(getattr(library, f"CAP_PROP_FRAME_{side}"))) for side in ("WIDTH", "HEIGHT"))
        if real != size:
            raise SourceGoneError(f"{device} delivers {real[0]} x {real[1]} pixels, not {size[0]} x {size[1]}")
        return {"device": str(device)}

    def check(self) -> None:
        """Raise SourceGoneError if the device has disappeared; see `Source.check`."""
        if not self._settings.device.exists():
            raise SourceGoneError(f"no device {self._settings.device}")

    def trigger(self, order: Order) -> None:
        """Remember the time from which on a frame counts; see `Source.trigger`."""
        self.check()
        self._order = order

    def frame(self, timeout_s: float) -> Frame:
        """Return the first frame after the trigger; see `Source.frame`."""
        if self._order is None:
            raise SourceError("no trigger")
        order, self._order = self._order, None
        captured_ns, image = first_after(order, timeout_s, self._next)
        rgb = np.ascontiguousarray(image[..., ::-1])  # OpenCV has the order blue, green, red.
        return Frame(arrays={"rgb": rgb}, captured_ns=captured_ns, acquisition_id=order.acquisition_id)

    def close(self) -> None:
        """Close the device; see `Source.close`."""
        if self._camera is not None:
            self._camera.release()
            self._camera = None

    def _next(self, _timeout_s: float) -> tuple[int, Any]:
        """Wait for the next frame, with the time limit of the driver, and return its time and the image."""
        try:
            arrived, image = self._camera.read()
        except Exception as error:
            raise gone(error) from error
        if not arrived:
            raise SourceGoneError("the camera delivers no frames")
        return self._time_of_frame(), image

    def _time_of_frame(self) -> int:
        """Return the time that the driver stored with the last frame, by the monotonic clock.

        Raises:
            SourceError: The driver uses another clock, so the age of the frame is not known.
        """
        captured_ns = int(self._camera.get(self._library.CAP_PROP_POS_MSEC) * 1e6)
        age_ns = time.monotonic_ns() - captured_ns
        if not 0 <= age_ns <= _OLDEST_NS:
            raise SourceError("the driver reports the frame times of another clock, so their age is unknown")
        return captured_ns
