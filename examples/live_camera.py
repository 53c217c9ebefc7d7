"""Inspect a camera's frames as they come, within a takt time.

The camera is simulated by the images of a folder. Replace `frames` and `grab` by your camera's own calls: `grab` must
return a uint8 array `[h, w, 3]` in RGB order (OpenCV delivers BGR: use `frame[..., ::-1].copy()`).

Run: python examples/live_camera.py BUNDLE FOLDER [FRAMES [TAKT_MS]]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmdiad import CmdiadError, Inspector, Sample, read_rgb

Frame = npt.NDArray[np.uint8]


def frames(folder: Path, count: int) -> Iterator[Path]:
    """Simulate a camera: yield the folder's images again and again."""
    yield from islice(cycle(sorted(folder.glob("*.png"))), count)


def grab(source: Path) -> Frame:
    """Simulate the transfer of one frame, which may fail."""
    return read_rgb(source)


def decide(inspector: Inspector, name: str, grab_frame: Callable[[], Frame]) -> tuple[str, str]:
    """Return a verdict and its reason. Only a finished inspection can be OK: fail safe."""
    try:
        inspection = inspector.inspect(Sample(name, rgb=grab_frame()))
    except CmdiadError as error:
        return "NG", str(error)
    if not inspection.inspected:
        return inspection.verdict, inspection.message
    return inspection.verdict, f"score {inspection.score:.3f}, threshold {inspection.threshold:.3f}"


def main(bundle: Path, folder: Path, count: int = 20, takt_ms: float = 500.0) -> None:
    """Print one line per frame, with a warning where the takt time was missed."""
    with Inspector.open(bundle) as inspector:
        # The first inspection of an engine is slower than all others; it belongs before the first part.
        decide(inspector, "warm-up", partial(grab, next(frames(folder, 1))))
        for number, source in enumerate(frames(folder, count)):
            start = time.perf_counter()
            verdict, reason = decide(inspector, f"frame {number}", partial(grab, source))
            elapsed_ms = (time.perf_counter() - start) * 1e3
            late = "  LATE" if elapsed_ms > takt_ms else ""
            print(f"frame {number}: {verdict}  {reason}  {elapsed_ms:.0f} ms{late}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(argument) for argument in sys.argv[3:5]))
