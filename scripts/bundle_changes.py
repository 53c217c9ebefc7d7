"""Random changes of a bundle, for scripts/mutate_bundles.py: damage, and forgeries with right hashes."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WRONG: tuple[object, ...] = (
    *(None, True, False, "", "x", "../../../../etc/passwd", "\ud800", "a\0b", "é" * 3000),
    *(0, -1, 1, 7, 10**9, 10**400, -(10**20), 1e300, -1e300, 5e-324, 0.1),
    *([], {}, [[]], [None], {"a": None}, "NUMBER"),
)
NAMES = (
    "notes.txt",
    "engines/rtx.engine",
    "engines/rtx.json",
    "engines/cpu.self-test.json",
    ".hidden",
    "a/b/c",
    "mask.png",
)
PATHS = (
    "../outside",
    "/etc/passwd",
    "C:\\x",
    "a\\b",
    "./graph.onnx",
    "a//b",
    "",
    ".",
    "x" * 5000,
    "graph.onnx/",
    "a\nb",
)
TEXTS = (b"", b"{", b"[]", b"null", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 4_000_000)
LOCATIONS = (
    "/etc/passwd",
    "../graph.weights",
    "graph.onnx",
    "",
    "*/_ORT_MEM_ADDR_/*",
    "/dev/zero",
    "golden.npz",
    "a\0b",
)


@dataclass
class Copy:
    """A copy of a good bundle that is about to be changed.

    Attributes:
        folder: Folder of the copy.
        random: Source of all choices.
        another: True if the change may make a consistent bundle with other verdicts.
        golden: True if the change concerns the golden set, which only the self-test reads.
    """

    folder: Path
    random: random.Random
    another: bool = False
    golden: bool = False

    def manifest(self) -> dict[str, Any]:
        """Return the manifest without its own hash."""
        content: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        del content["manifest_sha256"]
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Write the manifest with a right hash, as far as there is one."""
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        text = json.dumps({**content, "manifest_sha256": digest})
        (self.folder / "manifest.json").write_text(text.replace('"NUMBER"', "1" * 5000), encoding="utf-8")

    def relist(self, name: str) -> None:
        """State the present hash and size of a file in the manifest, and that of the graph."""
        content = self.manifest()
        data = (self.folder / name).read_bytes()
        content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        digests = [
            content["files"][part]["sha256"] for part in ("graph.onnx", "graph.weights") if part in content["files"]
        ]
        joint = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
        content["graph"]["sha256"] = joint
        self.write(content)

    def file(self) -> Path:
        """Return a random file of the bundle."""
        return self.random.choice(sorted(path for path in self.folder.rglob("*") if path.is_file()))


def leaf(bundle: Copy) -> str:
    """Replace one value of the manifest by a wrong one, or change a number a little."""
    content = bundle.manifest()
    places = list(_places(content))
    place = bundle.random.choice(places)
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    old = parent[place[-1]]
    if isinstance(old, int | float) and not isinstance(old, bool) and bundle.random.random() < 0.3:
        new: object = bundle.random.choice([old * 2, -old, old + 1, old / 3])
        bundle.another = True
    else:
        new = copy.deepcopy(bundle.random.choice(WRONG))
        bundle.another = type(new) is type(old) or new is None or isinstance(old, float | dict | list | bool)
    parent[place[-1]] = new
    bundle.write(content)
    return f"{'.'.join(map(str, place))} = {new!r:.40}"


def key(bundle: Copy) -> str:
    """Remove one key of the manifest, or add an unknown one."""
    content = bundle.manifest()
    objects = [content] + [value for value in content.values() if isinstance(value, dict)]
    place = bundle.random.choice(objects)
    name = bundle.random.choice([*place, "moon"])
    place[name] = 1
    if name != "moon":
        del place[name]
    bundle.another = True  # Some fields are optional.
    bundle.write(content)
    return name


def path_name(bundle: Copy) -> str:
    """List a file under a name that is no plain path in the bundle."""
    content = bundle.manifest()
    name = bundle.random.choice(PATHS)
    content["files"][name] = dict(content["files"]["golden.npz"])
    bundle.write(content)
    return name[:20]


def text(bundle: Copy) -> str:
    """Replace the manifest or the signature by other bytes."""
    content = bundle.random.choice(TEXTS)
    name = bundle.random.choice(["manifest.json", "manifest.sig"])
    (bundle.folder / name).write_bytes(content)
    return f"{name}: {content[:10]!r}"


def damage(bundle: Copy) -> str:
    """Flip, cut, extend or empty a file, or remove it."""
    path = bundle.file()
    data = bytearray(path.read_bytes())
    way = bundle.random.choice(["flip", "cut", "extend", "empty", "remove", "sparse"])
    if way == "flip":
        data[bundle.random.randrange(len(data))] ^= 1 << bundle.random.randrange(8)
    elif way == "cut":
        del data[bundle.random.randrange(len(data)) :]
    elif way == "extend":
        data += b"\0" * bundle.random.randrange(1, 5000)
    elif way == "empty":
        data.clear()
    path.write_bytes(data)
    if way == "remove":
        path.unlink()
    elif way == "sparse":
        os.truncate(path, 4 << 30)
    return f"{way} {path.name}"


def replace(bundle: Copy) -> str:
    """Replace a file by something that is no file, or by a link to its content."""
    path = bundle.file()
    return f"{path.name}: {_put(bundle, path)}"


def add(bundle: Copy) -> str:
    """Add a file, pipe, socket, folder or link that the manifest does not list."""
    path = bundle.folder / bundle.random.choice(NAMES)
    path.parent.mkdir(parents=True, exist_ok=True)
    if bundle.random.random() < 0.5 and not path.exists():
        path.write_bytes(bundle.random.randbytes(100))
        return f"file {path.name}"
    return f"{path.name}: {_put(bundle, path)}"


def external(bundle: Copy) -> str:
    """Let an array of the graph lie elsewhere, with all hashes right."""
    import onnx

    graph = bundle.folder / "graph.onnx"
    model = onnx.load(graph, load_external_data=False)
    tensors = list(model.graph.initializer)
    tensor = bundle.random.choice(tensors)
    moved = [value for value in tensors if value.external_data]
    if moved and bundle.random.random() < 0.5:
        tensor = bundle.random.choice(moved)
    del tensor.external_data[:]
    tensor.data_location = bundle.random.choice([onnx.TensorProto.EXTERNAL] * 4 + [onnx.TensorProto.DEFAULT])
    tensor.ClearField("raw_data")
    values = {
        "location": bundle.random.choice([*LOCATIONS, "graph.weights", "graph.weights"]),
        "offset": bundle.random.choice(["0", "-1", "1" * 30, "x", "4096", "99999999", ""]),
        "length": bundle.random.choice(["0", "16", "-1", "1" * 30, "99999999", ""]),
    }
    for name, value in values.items():
        if bundle.random.random() < 0.9:
            tensor.external_data.add(key=name, value=value)
    graph.write_bytes(model.SerializeToString())
    bundle.relist("graph.onnx")
    bundle.another = True
    return f"{values}"


def graph_bytes(bundle: Copy) -> str:
    """Flip bytes of the graph, with all hashes right: another program, or none."""
    path = bundle.folder / "graph.onnx"
    data = bytearray(path.read_bytes())
    for _ in range(bundle.random.choice([1, 1, 8, 100])):
        data[bundle.random.randrange(len(data))] = bundle.random.randrange(256)
    path.write_bytes(data)
    bundle.relist("graph.onnx")
    bundle.another = True
    return f"{len(data)} bytes"


def golden(bundle: Copy) -> str:
    """Change an array of the golden set, or let the archive unpack to much more, with all hashes right."""
    path = bundle.folder / "golden.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = bundle.random.choice(sorted(arrays))
    way = bundle.random.choice(["remove", "nan", "shape", "type", "bomb", "claim", "object", "lzma", "rename"])
    if way == "remove":
        del arrays[name]
    elif way == "nan":
        arrays[name] = np.full(arrays[name].shape, np.nan)
    elif way == "shape":
        arrays[name] = np.zeros((2, *arrays[name].shape), arrays[name].dtype)
    elif way == "type":
        arrays[name] = np.full(arrays[name].shape, "x")
    elif way == "rename":
        arrays[bundle.random.choice(["", "a/b/c/d", "../x", "a\0", "x/score"])] = arrays.pop(name)
    if way not in ("bomb", "claim", "object", "lzma"):
        np.savez_compressed(path, allow_pickle=False, **arrays)
    else:
        _archive(path, name, way)
    bundle.relist("golden.npz")
    bundle.golden = True
    return f"{way} {name}"


CHANGES: dict[str, Callable[[Copy], str]] = {
    **{change.__name__: change for change in (leaf, key, path_name, text, damage, replace, add)},
    **{change.__name__: change for change in (external, graph_bytes, golden)},
}
WEIGHTS = {"leaf": 8, "damage": 3, "external": 3, "graph_bytes": 2, "golden": 3, "add": 2, "replace": 2}


def _places(value: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if place:
        yield place
    items: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:3]))
    for name, child in items:
        yield from _places(child, (*place, name))


def _put(bundle: Copy, path: Path) -> str:
    """Put something that is no file in the place of a file; return what."""
    outside = bundle.folder.parent / "outside"
    if path.is_file():
        shutil.copy(path, outside)
    else:
        outside.write_bytes(b"outside")
    path.unlink(missing_ok=True)
    kind = bundle.random.choice(["pipe", "socket", "folder", "link", "loop", "device", "relative link", "hard link"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "hard link":
        os.link(outside, path)
    else:
        targets = {"link": str(outside), "loop": path.name, "device": "/dev/zero", "relative link": "manifest.json"}
        path.symlink_to(targets[kind])
    return kind


def _archive(path: Path, name: str, way: str) -> None:
    """Write an archive whose one array is forged."""
    stream = io.BytesIO()
    shape = (1 << 58,) if way == "claim" else (3 << 28,)
    if way == "object":
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    kind = zipfile.ZIP_LZMA if way == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", kind) as archive, archive.open(f"{name}.npy", "w") as file:
        file.write(stream.getvalue())
        for _ in range(12 if way == "bomb" else 1):
            file.write(bytes(1 << 26 if way == "bomb" else 1 << 10))
