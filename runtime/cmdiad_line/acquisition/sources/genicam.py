"""Camera with GenICam, through harvesters and the GenTL producer of the camera's vendor. Triggered by software.

Tested with a double of the library only; not run on a camera.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_line.acquisition.source import Frame, FrameTimeoutError, Order, SourceError
from cmdiad_line.acquisition.sources.drivers import gone, load_driver
from cmdiad_line.station_file.source import GenicamSource
from cmdiad_runtime.sample import RgbImage

_FLUSH_S = 0.001
_MOST_FLUSHED = 100


def make(settings: GenicamSource, state: Path) -> Genicam:
    """Return a camera.

    Args:
        settings: Section of the station file.
        state: State folder of the station, not used.
    """
    return Genicam(settings)


class Genicam:
    """A camera with GenICam; see `Source`.

    Args:
        settings: Section of the station file.
    """

    def __init__(self, settings: GenicamSource) -> None:
        self._settings = settings
        self._harvester: Any = None
        self._camera: Any = None
        self._order: Order | None = None
        self._late = False

    def open(self) -> dict[str, str]:
        """Connect, set the trigger, and begin to wait for it; see `Source.open`."""
        core = load_driver("harvesters.core", "harvesters")
        try:
            self._harvester = core.Harvester()
            self._harvester.add_file(str(self._settings.producer))
            self._harvester.update()
            serial = self._settings.serial
            self._camera = self._harvester.create({"serial_number": serial} if serial else 0)
            nodes = self._camera.remote_device.node_map
            nodes.TriggerSelector.value = "FrameStart"
            nodes.TriggerMode.value = "On"
            nodes.TriggerSource.value = "Software"
            if self._settings.exposure_us is not None:
                nodes.ExposureTime.value = self._settings.exposure_us
            if self._settings.gain is not None:
                nodes.Gain.value = self._settings.gain
            self._camera.start()
            self._late = False
            return {"serial": str(nodes.DeviceSerialNumber.value)}
        except Exception as error:
            raise gone(error) from error

    def check(self) -> None:
        """Read a register of the camera; see `Source.check`."""
        try:
            _ = self._camera.remote_device.node_map.DeviceSerialNumber.value
        except Exception as error:
            raise gone(error) from error

    def trigger(self, order: Order) -> None:
        """Discard the frames that wait, and trigger; see `Source.trigger`."""
        self._order = order
        try:
            if self._late:  # The frame of an earlier trigger may still come, and would be taken for this part.
                self._camera.stop()
                self._camera.start()
                self._late = False
            for _ in range(_MOST_FLUSHED):
                buffer = self._camera.try_fetch(timeout=_FLUSH_S)
                if buffer is None:
                    break
                buffer.queue()
            else:
                raise SourceError("the camera delivers frames without a trigger")
            self._camera.remote_device.node_map.TriggerSoftware.execute()
        except SourceError:
            raise
        except Exception as error:
            raise gone(error) from error

    def frame(self, timeout_s: float) -> Frame:
        """Return the frame of the last trigger; see `Source.frame`.

        Cameras have clocks without a relation to that of the machine. All frames before the trigger were discarded, so
        the time of the arrival is later than the trigger, as it must be.
        """
        if self._order is None:
            raise SourceError("no trigger")
        order, self._order = self._order, None
        try:
            buffer = self._camera.try_fetch(timeout=timeout_s)
        except Exception as error:
            raise gone(error) from error
        if buffer is None:
            self._late = True
            raise FrameTimeoutError
        with buffer:
            component = buffer.payload.components[0]
            return Frame(
                arrays={"rgb": _image(component)},
                captured_ns=time.monotonic_ns(),
                acquisition_id=order.acquisition_id,
                number=int(buffer.module.frame_id),
            )

    def close(self) -> None:
        """Disconnect; see `Source.close`."""
        with suppress(Exception):
            if self._camera is not None:
                self._camera.destroy()
        with suppress(Exception):
            if self._harvester is not None:
                self._harvester.reset()
        self._camera = self._harvester = None


def _image(component: Any) -> RgbImage:
    """Return a copy of the image in a buffer, uint8 `[h, w, 3]` in RGB order."""
    data = np.asarray(component.data)
    if component.data_format == "Mono8":
        grey = data.reshape(component.height, component.width)
        return np.repeat(grey[..., None], 3, axis=2)
    if component.data_format not in ("RGB8", "BGR8"):
        raise SourceError(f"the camera delivers {component.data_format}; set its PixelFormat to RGB8, BGR8 or Mono8")
    image = data.reshape(component.height, component.width, 3)
    return np.ascontiguousarray(image[..., ::-1]) if component.data_format == "BGR8" else image.copy()
