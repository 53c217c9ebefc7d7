#!/usr/bin/env python
"""Inspect thousands of damaged files, each followed by a good one, and report everything that must not happen.

    scripts/mutate_inputs.py --inputs 10000 --bundle RGB.cmdiad PHOTO.png --bundle XYZ.cmdiad CLOUD.tiff

The good sample of each bundle is written in all formats that the bundle's modality has, and copies of these files are
damaged: flipped bits, cuts, changed headers and sizes, parts of other files. Checksums are renewed in half of the PNG
and NPZ files, so that the damage gets past them. The seed decides about everything.

Faults, each printed with the file, which is kept: an exception, the reason `internal`, a sample that takes longer
than the limit, more than 1 GB of memory in addition to the image itself, a lost result, and a good sample that is not
inspected or gets another score. The exit code is 1 if there is a fault. A hang ends the process with a traceback.
Linux only, because the peak memory of each file comes from /proc.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pipeline import inspect_stream
from cmdiad_runtime.readers import read_rgb, read_xyz

MOST_MEMORY = 1 << 30
EXTREMES = (0, 1, 2, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NUMBERS = (b"0", b"1", b"-1", b"65536", b"999999999", b"4294967296", b"1e308", b"nan", b"-nan(ind)", b"1,5", b"")


@dataclass
class Report:
    """What happened.

    Attributes:
        reasons: Number of damaged files by reason; `None` for the verdict OK.
        faults: One line per fault.
        slowest_s: Longest time of a damaged file and the good one behind it.
        memory: Largest growth of the peak memory during one file, beyond the image itself, in bytes.
    """

    reasons: Counter[str | None] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    memory: int = 0


# Files


def write_images(folder: Path, photo: Path) -> list[Path]:
    """Write an image in the formats of cameras."""
    image = Image.fromarray(read_rgb(photo))
    folder.mkdir()
    image.save(folder / "plain.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    image.save(folder / "plain.jpg", quality=90)
    image.save(folder / "progressive.jpg", quality=90, progressive=True, exif=_exif())
    image.save(folder / "plain.bmp")
    image.save(folder / "plain.tif")
    image.save(folder / "packed.tiff", compression="tiff_lzw")
    image.save(folder / "lossy.webp", quality=90)
    image.save(folder / "lossless.webp", lossless=True)
    image.save(folder / "plain.jp2")
    image.save(folder / "tiles.j2k", tile_size=(64, 64), irreversible=True)
    return sorted(folder.iterdir())


def write_clouds(folder: Path, cloud: Path) -> list[Path]:
    """Write a cloud in the formats of 3D sensors; the depth image gets its own folder with the intrinsics."""
    points = read_xyz(cloud)
    height, width = points.shape[:2]
    (folder / "depth").mkdir(parents=True)
    tifffile.imwrite(folder / "plain.tiff", points, photometric="rgb")
    tifffile.imwrite(folder / "packed.tif", points, photometric="rgb", compression="zlib", rowsperstrip=16)
    np.savez(folder / "plain.npz", xyz=points)
    np.savez_compressed(folder / "packed.npz", xyz=points)
    flat = points.reshape(-1, 3)
    head = f"obj_info num_cols {width}\nobj_info num_rows {height}\nelement vertex {len(flat)}\n"
    head += "property float x\nproperty float y\nproperty float z\nend_header\n"
    text = "\n".join(" ".join(f"{value:.6g}" for value in point) for point in flat.tolist()).encode() + b"\n"
    for form, body in (("binary_little_endian", flat.astype("<f4").tobytes()), ("ascii", text)):
        (folder / f"{form}.ply").write_bytes(f"ply\nformat {form} 1.0\n{head}".encode() + body)
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    head += f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(flat)}\n"
    literal = _literal_lzf(np.ascontiguousarray(flat.T, dtype="<f4").tobytes())
    packed = struct.pack("<II", len(literal), flat.nbytes) + literal
    for data, body in (("binary", flat.astype("<f4").tobytes()), ("ascii", text), ("binary_compressed", packed)):
        (folder / f"{data}.pcd").write_bytes(f"{head}DATA {data}\n".encode() + body)
    depth = np.round(points[..., 2] * 10_000).astype(np.uint16)
    intrinsics = {"fx": 600.0, "fy": 600.0, "cx": width / 2, "cy": height / 2, "depth_scale": 0.0001}
    Image.fromarray(depth).save(folder / "depth" / "depth.png")
    (folder / "depth" / "intrinsics.json").write_text(json.dumps(intrinsics))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "camera"
    return exif


def _literal_lzf(data: bytes) -> bytes:
    """Return data in the form of LZF without any compression."""
    return b"".join(bytes([len(data[at : at + 32]) - 1]) + data[at : at + 32] for at in range(0, len(data), 32))


# Damage


def flip_bits(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Flip some bits anywhere."""
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Cut the file, mostly not far from its beginning or its end."""
    length = len(data)
    del data[rng.choice((rng.randrange(length), rng.randrange(min(length, 400)), length - rng.randint(1, 64))) :]


def change_header(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Replace some bytes of the header."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(min(len(data), 300))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def change_size(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Replace a number of 2, 4 or 8 bytes in the header or near the end by an extreme one."""
    width, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
    value = rng.choice(EXTREMES) % (1 << 8 * width)
    region = min(len(data), 600)
    place = rng.choice((rng.randrange(region), len(data) - 1 - rng.randrange(region)))
    data[place : place + width] = value.to_bytes(width, order)  # type: ignore[arg-type]  # one of two literals


def change_number(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Replace a number in text."""
    numbers = list(re.finditer(rb"[-+]?[0-9][0-9.]*", bytes(data[:2000])))
    if numbers:
        start, end = rng.choice(numbers).span()
        data[start:end] = rng.choice(NUMBERS)


def splice(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Replace, insert or repeat a part, from another file or this one."""
    source = rng.choice([*others, bytes(data)])
    start = rng.randrange(len(source))
    part = source[start : start + rng.randint(1, 4000)] * rng.choice((1, 1, 1, 50))
    place = rng.randrange(len(data))
    data[place : place + rng.choice((0, len(part)))] = part


def lose(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Remove a part."""
    place = rng.randrange(len(data))
    del data[place : place + rng.randint(1, 500)]


DAMAGES: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    *(flip_bits, cut, change_header, change_size, change_number, splice, lose),
)


def damaged(path: Path, rng: random.Random, others: list[bytes]) -> bytes:
    """Return the content of a file with one to three damages."""
    whole = path.read_bytes()
    if path.suffix == ".npz" and rng.random() < 0.5:
        return _damaged_members(whole, rng, others)
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        if data:
            rng.choice(DAMAGES)(data, rng, others)
    return _with_checksums(bytes(data)) if path.suffix == ".png" and rng.random() < 0.5 else bytes(data)


def _damaged_members(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return an archive whose members are damaged, and whose checksums are right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            content = bytearray(archive.read(name))
            rng.choice(DAMAGES)(content, rng, others)
            copy.writestr(zipfile.ZipInfo(name), bytes(content), zipfile.ZIP_DEFLATED)  # Without the time of day.
    return packed.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """Return a PNG file with right checksums, as far as its chunks can be found."""
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, place)
        end = place + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)


# Inspection


def examine(inspector: Inspector, path: Path, good: Path, score: float, report: Report) -> list[str]:
    """Inspect a damaged file and the good one, and return the faults."""
    before = _reset_peak_memory()
    start = time.perf_counter()
    try:
        with closing(inspect_stream(inspector, [path, good], ahead=1)) as stream:
            results = [item.inspection for item in stream]
    except Exception:
        return [traceback.format_exc()]
    report.slowest_s = max(report.slowest_s, time.perf_counter() - start)
    if len(results) != 2:
        return [f"{len(results)} results"]
    first, second = results
    report.reasons[first.reason] += 1
    sample = first.sample
    own = 0 if sample is None else sum(array.nbytes for array in (sample.rgb, sample.xyz) if array is not None)
    memory = _peak_memory() - before - own
    report.memory = max(report.memory, memory)
    faults = [f"{memory} bytes of memory"] if memory > MOST_MEMORY else []
    if first.reason == "internal":
        faults.append(first.message)
    if not second.inspected or second.score != score:
        faults.append(f"the good sample got {second.score} ({second.message}), not {score}")
    return faults


def _reset_peak_memory() -> int:
    """Let the system forget the largest memory of this process so far, and return the present one in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak_memory() -> int:
    """Return the largest memory of this process since the last reset in bytes."""
    return _memory("VmHWM")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def mutations(samples: list[Path], folder: Path, rng: random.Random) -> Iterator[Path]:
    """Write damaged files without end and yield their paths; each is removed when the next is requested."""
    contents = [path.read_bytes()[:200_000] for path in samples]
    while True:
        source = rng.choice(samples)
        place = folder / f"work-{source.parent.name}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source.parent, place) if source.parent.name == "depth" else place.mkdir()
        (place / source.name).write_bytes(damaged(source, rng, contents))
        yield place / ("depth.png" if source.parent.name == "depth" else source.name)


def run(bundle: Path, good: Path, count: int, options: argparse.Namespace, report: Report) -> None:
    """Inspect damaged files with one bundle."""
    rng = random.Random(f"{options.seed}-{bundle.name}")  # noqa: S311 - reproducible damage, no secret
    same_frames = OpenOptions(frozen_after=0)  # The same good sample follows each damaged one.
    with Inspector.open(bundle, same_frames) as inspector, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_cloud = inspector.bundle.preprocessing.modality == "xyz"
        samples = (write_clouds if is_cloud else write_images)(folder / "whole", good)
        score = next(iter(inspect_stream(inspector, [good]))).inspection.score
        stream = mutations(samples, folder, rng)
        for number in range(count):
            path = next(stream)
            faulthandler.dump_traceback_later(options.limit, exit=True, file=sys.__stderr__)
            faults = examine(inspector, path, good, score, report)
            faulthandler.cancel_dump_traceback_later()
            if faults:
                options.keep.mkdir(parents=True, exist_ok=True)
                kept = options.keep / f"{bundle.stem}-{number}-{path.name}"
                shutil.copy(path, kept)
                report.faults.extend(f"{kept}: {fault}" for fault in faults)
                print(report.faults[-1], flush=True)
            if (number + 1) % 500 == 0:
                print(f"{bundle.name}: {number + 1} of {count}, {len(report.faults)} faults", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the script; return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", nargs=2, metavar=("BUNDLE", "GOOD"), type=Path, action="append", required=True)
    parser.add_argument("--inputs", type=int, default=300, help="Damaged files for all bundles together.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=30.0, help="Seconds for a damaged file and the good one.")
    parser.add_argument("--keep", type=Path, default=Path("mutated-inputs"), help="Folder for files with a fault.")
    options = parser.parse_args(arguments)
    report = Report()
    for index, (bundle, good) in enumerate(options.bundle):
        count = (options.inputs + index) // len(options.bundle)
        run(bundle, good, count, options, report)
    print(
        f"{report.reasons.total()} damaged files: {len(report.faults)} faults; slowest pair {report.slowest_s:.1f} s; "
        f"largest growth of memory {report.memory / 1e6:.0f} MB"
    )
    for reason, number in report.reasons.most_common():
        print(f"{number:7d}  {reason or 'OK'}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
