"""The kinds of bad input in docs/failure-modes.md, each as a function that makes one.

A kind of file or array is inspected in front of a good sample. The registered name is the first column of the table.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from cmdiad_runtime import Sample
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from helpers import truncate, write_cloud, write_image


@dataclass(frozen=True)
class Good:
    """A good sample that a bad one is made of.

    Attributes:
        folder: Empty folder for files.
        rgb: Image uint8 `[h, w, 3]`.
        xyz: Cloud float32 `[h, w, 3]`, metres.
    """

    folder: Path
    rgb: np.ndarray
    xyz: np.ndarray


@dataclass(frozen=True)
class Kind:
    """One kind of bad input.

    Attributes:
        make: Makes the bad input: a file, or a sample in memory.
        modality: Modality of the detector that inspects it.
    """

    make: Callable[[Good], Path | Sample]
    modality: Modality


KINDS: dict[str, Kind] = {}


def kind(name: str, modality: Modality = "rgb") -> Callable[[Callable[[Good], Path | Sample]], None]:
    """Register a function that makes a bad input."""

    def register(make: Callable[[Good], Path | Sample]) -> None:
        assert name not in KINDS
        KINDS[name] = Kind(make, modality)

    return register


def _png(folder: Path, pixels: np.ndarray, name: str = "bad.png") -> Path:
    return write_image(folder / name, pixels)


# --- Files ----------------------------------------------------------------------------------------------------------


@kind("A file that does not exist")
def _(good: Good) -> Path:
    return good.folder / "absent.png"


@kind("A folder with the name of an image")
def _(good: Good) -> Path:
    path = good.folder / "folder.png"
    path.mkdir()
    return path


@kind("A named pipe")
def _(good: Good) -> Path:
    path = good.folder / "pipe.png"
    os.mkfifo(path)
    return path


@kind("A socket")
def _(good: Good) -> Path:
    path = good.folder / "s.png"
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(good.folder)  # the path of a socket may have 107 bytes only
    try:
        server.bind("s.png")
    finally:
        os.chdir(here)
        server.close()
    return path


@kind("A device, such as /dev/zero")
def _(good: Good) -> Path:
    path = good.folder / "zero.png"
    path.symlink_to("/dev/zero")
    return path


@kind("An empty file")
def _(good: Good) -> Path:
    path = good.folder / "empty.png"
    path.touch()
    return path


@kind("A cut PNG file")
def _(good: Good) -> Path:
    return truncate(_png(good.folder, good.rgb))


@kind("A cut PNG file with a palette")
def _(good: Good) -> Path:
    path = good.folder / "palette.png"
    Image.fromarray(good.rgb).quantize(64).save(path)
    return truncate(path)


@kind("A cut JPEG file")
def _(good: Good) -> Path:
    path = good.folder / "bad.jpg"
    Image.fromarray(good.rgb).save(path)
    return truncate(path)


@kind("A progressive JPEG file that was cut and closed again")
def _(good: Good) -> Path:
    path = good.folder / "closed.jpg"
    Image.fromarray(good.rgb).save(path, progressive=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + b"\xff\xd9")
    return path


@kind("A JPEG file in which some hundred bytes are missing")
def _(good: Good) -> Path:
    path = good.folder / "gap.jpg"
    Image.fromarray(good.rgb).save(path, quality=95)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 300 :])
    return path


@kind("A PNG header that announces 60 000 × 60 000 pixels")
def _(good: Good) -> Path:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 64) + b"IDAT"
    path = good.folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 64)
    return path


@kind("An image with 16 bits per channel")
def _(good: Good) -> Path:
    path = good.folder / "deep.png"
    Image.fromarray(good.rgb[..., 0].astype(np.uint16) * 257).save(path)
    return path


@kind("An image with transparent pixels")
def _(good: Good) -> Path:
    path = good.folder / "alpha.png"
    alpha = np.full((*good.rgb.shape[:2], 1), 100, np.uint8)
    Image.fromarray(np.concatenate([good.rgb, alpha], axis=2)).save(path)
    return path


@kind("A CMYK image")
def _(good: Good) -> Path:
    path = good.folder / "print.jpg"
    Image.fromarray(good.rgb).convert("CMYK").save(path)
    return path


@kind("An image with damaged EXIF data")
def _(good: Good) -> Path:
    path = good.folder / "odd.png"
    Image.fromarray(good.rgb).save(path, exif=b"Exif\0\0XX*\0\x08\0\0\0\0\0")
    return path


@kind("A grey image where colour images were trained on")
def _(good: Good) -> Path:
    path = good.folder / "grey.png"
    Image.fromarray(good.rgb).convert("L").save(path)
    return path


@kind("A text file with the name of an image")
def _(good: Good) -> Path:
    path = good.folder / "notes.png"
    path.write_text("part 7 is on the table\n")
    return path


@kind("An NPZ file of some kilobytes that unpacks to gigabytes", "xyz")
def _(good: Good) -> Path:
    path = good.folder / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (20_000, 20_000, 3)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("xyz.npy", "w") as member:
        member.write(header.getvalue() + bytes(10_000_000))
    return path


@kind("A TIFF file with a directory that leads to itself", "xyz")
def _(good: Good) -> Path:
    path = good.folder / "endless.tiff"
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 32), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 4)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8))
    return path


@kind("A TIFF file with 3,000 directories", "xyz")
def _(good: Good) -> Path:
    path = good.folder / "many.tiff"
    path.write_bytes(b"II*\0" + b"".join(struct.pack("<IH", 8 + 6 * number, 0) for number in range(3000)) + bytes(4))
    return path


@kind("A PLY file with a header of a megabyte", "xyz")
def _(good: Good) -> Path:
    path = good.folder / "header.ply"
    path.write_bytes(b"ply\nformat ascii 1.0\n" + b"comment part\n" * 80_000 + b"element vertex 1\nend_header\n")
    return path


# --- Arrays of the Python API ---------------------------------------------------------------------------------------


@kind("A sample without the image that the detector needs")
def _(good: Good) -> Sample:
    return Sample("cloud only", xyz=good.xyz)


@kind("An image array of float32")
def _(good: Good) -> Sample:
    return Sample("float", rgb=good.rgb.astype(np.float32) / 255)  # type: ignore[arg-type]


@kind("An image array without channels")
def _(good: Good) -> Sample:
    return Sample("flat", rgb=good.rgb[..., 0])


@kind("An image array without pixels")
def _(good: Good) -> Sample:
    return Sample("no pixels", rgb=good.rgb[:0])


@kind("A list instead of an array")
def _(good: Good) -> Sample:
    return Sample("list", rgb=good.rgb.tolist())


@kind("A cloud array of float64", "xyz")
def _(good: Good) -> Sample:
    return Sample("double", xyz=good.xyz.astype(np.float64))  # type: ignore[arg-type]


@kind("An image array of 20 000 × 20 000 pixels")
def _(good: Good) -> Sample:
    return Sample("huge", rgb=np.broadcast_to(good.rgb[:1, :1], (20_000, 20_000, 3)))


@kind("A cloud array of 20 000 × 20 000 points", "xyz")
def _(good: Good) -> Sample:
    return Sample("huge", xyz=np.broadcast_to(good.xyz[:1, :1], (20_000, 20_000, 3)))


@kind("A masked array")
def _(good: Good) -> Sample:
    return Sample("masked", rgb=np.ma.masked_array(good.rgb, mask=False))


# --- Images ---------------------------------------------------------------------------------------------------------


@kind("A lens cap: every pixel is black")
def _(good: Good) -> Path:
    return _png(good.folder, np.zeros_like(good.rgb))


@kind("Light that whites out every pixel")
def _(good: Good) -> Path:
    return _png(good.folder, np.full_like(good.rgb, 255))


# --- Clouds ---------------------------------------------------------------------------------------------------------


@kind("A cloud without a measured point", "xyz")
def _(good: Good) -> Path:
    return write_cloud(good.folder / "nothing.tiff", np.zeros_like(good.xyz))


@kind("A cloud in which every point is NaN", "xyz")
def _(good: Good) -> Path:
    return write_cloud(good.folder / "nan.tiff", np.full_like(good.xyz, np.nan))


@kind("A cloud in which every point is a large number (1e30)", "xyz")
def _(good: Good) -> Path:
    return write_cloud(good.folder / "large.tiff", np.full_like(good.xyz, 1e30))


@kind("A cloud in which a large number (65.535) takes the place of most points", "xyz")
def _(good: Good) -> Path:
    xyz = good.xyz.copy()
    xyz[: len(xyz) * 2 // 3] = 65.535
    return write_cloud(good.folder / "gap.tiff", xyz)


@kind("A cloud in millimetres", "xyz")
def _(good: Good) -> Path:
    return write_cloud(good.folder / "mm.tiff", good.xyz * 1000)


@kind("A cloud file of another format under the name .tiff", "xyz")
def _(good: Good) -> Path:
    path = good.folder / "other.tiff"
    path.write_bytes(b"ply\nformat ascii 1.0\n")
    return path


@kind("An image of twice the width and height")
def _double_size(good: Good) -> Sample:
    return Sample("double", rgb=good.rgb.repeat(2, axis=0).repeat(2, axis=1))


@kind("An image cut off at the side")
def _narrow(good: Good) -> Sample:
    return Sample("narrow", rgb=good.rgb[:, :-4].copy())


@kind("An image with red and blue exchanged (BGR)")
def _bgr(good: Good) -> Sample:
    return Sample("bgr", rgb=good.rgb[..., ::-1].copy())


@kind("A colour image without colours")
def _faded(good: Good) -> Sample:
    return Sample("faded", rgb=good.rgb.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8))


@kind("Half of the light")
def _dark(good: Good) -> Sample:
    return Sample("dark", rgb=good.rgb // 2)


@kind("Twice the light")
def _bright(good: Good) -> Sample:
    return Sample("bright", rgb=np.minimum(good.rgb.astype(np.uint16) * 2, 255).astype(np.uint8))


@kind("A lens out of focus")
def _blurred(good: Good) -> Sample:
    return Sample("blurred", rgb=np.asarray(Image.fromarray(good.rgb).filter(ImageFilter.GaussianBlur(3))))


@kind("A noisy image")
def _noisy(good: Good) -> Sample:
    noise = np.random.default_rng(0).normal(0, 10, good.rgb.shape)
    return Sample("noisy", rgb=np.clip(good.rgb + noise, 0, 255).astype(np.uint8))


def _changed(name: str, xyz: np.ndarray) -> Sample:
    return Sample(name, xyz=np.ascontiguousarray(xyz, dtype=np.float32))


@kind("A noisy cloud", "xyz")
def _noisy_cloud(good: Good) -> Sample:
    return _changed("noisy", good.xyz + np.random.default_rng(0).normal(0, 5e-4, good.xyz.shape) * [0, 0, 1])


@kind("A cloud of another size", "xyz")
def _small_cloud(good: Good) -> Sample:
    return _changed("small", good.xyz[::2, ::2])


@kind("A cloud whose x axis is mirrored", "xyz")
def _mirrored_x(good: Good) -> Sample:
    return _changed("mirrored x", good.xyz * [-1, 1, 1])


@kind("A cloud whose y axis is mirrored", "xyz")
def _mirrored_y(good: Good) -> Sample:
    return _changed("mirrored y", good.xyz * [1, -1, 1])


@kind("A cloud whose z axis points to the sensor", "xyz")
def _mirrored_z(good: Good) -> Sample:
    return _changed("mirrored z", good.xyz * [1, 1, -1])


@kind("A cloud whose x and y are swapped", "xyz")
def _swapped_axes(good: Good) -> Sample:
    return _changed("swapped", good.xyz[..., [1, 0, 2]])


@kind("A cloud whose rows are stored from bottom to top", "xyz")
def _upside_down(good: Good) -> Sample:
    return _changed("upside down", good.xyz[::-1])


@kind("A cloud whose rows and columns are swapped", "xyz")
def _transposed(good: Good) -> Sample:
    return _changed("transposed", np.swapaxes(good.xyz, 0, 1))


@kind("A cloud from half the distance", "xyz")
def _nearer(good: Good) -> Sample:
    return _changed("nearer", good.xyz * 0.5)


@kind("A cloud in which half of the points are missing, one here and one there", "xyz")
def _thinned(good: Good) -> Sample:
    kept = np.random.default_rng(0).random(good.xyz.shape[:2]) < 0.5
    return _changed("thinned", good.xyz * kept[..., None])


@kind("A cloud in which the lower half is missing", "xyz")
def _half(good: Good) -> Sample:
    xyz = good.xyz.copy()
    xyz[len(xyz) // 2 :] = 0
    return _changed("half", xyz)


@kind("A cloud whose background is cut away, where training had it", "xyz")
def _cut_away(good: Good) -> Sample:
    part = PartGeometry(Sample("good", xyz=good.xyz)).part
    return _changed("cut away", good.xyz * part[..., None])


@kind("A cloud with stray points of up to 10 m in place of missing points", "xyz")
def _stray_points(good: Good) -> Sample:
    missing = ~np.isfinite(good.xyz).all(axis=2) | (good.xyz == 0).any(axis=2)
    stray = np.random.default_rng(0).uniform(5, 10, good.xyz.shape)
    return _changed("stray", np.where(missing[..., None], stray, good.xyz))


@kind("A sensor that was moved by 5 cm", "xyz")
def _moved(good: Good) -> Sample:
    missing = (good.xyz == 0).all(axis=2, keepdims=True)
    return _changed("moved", np.where(missing, 0, good.xyz + [0, 0, 0.05]))


@kind("A hole of 3 mm in the measurement of a part without openings, which the top view fills", "xyz")
def _hole(good: Good) -> Sample:
    part = PartGeometry(Sample("good", xyz=good.xyz)).part
    depth = ndimage.distance_transform_edt(part)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    distance = np.linalg.norm(good.xyz - good.xyz[row, column], axis=2)
    return _changed("hole", np.where((part & (distance < 0.0015))[..., None], 0, good.xyz))


@kind("A part that lies on something", "xyz")
def _raised_part(good: Good) -> Sample:
    xyz = good.xyz.copy()
    xyz[PartGeometry(Sample("good", xyz=good.xyz)).part, 2] -= 0.008
    return _changed("raised", xyz)


@kind("A block of material that is detached from the part", "xyz")
def _detached(good: Good) -> Sample:
    part = PartGeometry(Sample("good", xyz=good.xyz)).part
    inside = ndimage.binary_erosion(part, iterations=12)
    row, column = np.argwhere(inside)[np.count_nonzero(inside) // 2]
    block = np.zeros_like(part)
    block[row - 5 : row + 6, column - 5 : column + 6] = True
    xyz = good.xyz.copy()
    xyz[block & part, 2] -= 0.03
    return _changed("detached", xyz)
