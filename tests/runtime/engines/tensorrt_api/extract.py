"""Make the tables beside this file: what a TensorRT release publishes as its Python API, read off its own bindings.

    python extract.py tensorrt-cu12-bindings 10.3.0
    python extract.py tensorrt-cu13-bindings 11.4.0.106
    python extract.py tensorrt-rtx 1.7.1.116          (reads the installed package)

The binding packages are small and come from the package index, but without the libraries that they bind to. Here
these are replaced by empty ones, which is enough to import the bindings and to read off names and signatures.
Needs gcc and Linux. Only names and signature lines are kept, of the classes that the project uses.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
NATIVE = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRIES = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getInferLibVersion",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def table_of(trt: Any, source: str) -> dict[str, Any]:
    """Names of the module, members of its enumerations, and signatures of the classes in `CLASSES`."""
    public = {name: getattr(trt, name) for name in dir(trt) if not name.startswith("_")}
    enums = {name: value for name, value in public.items() if isinstance(value, type) and hasattr(value, "__members__")}
    return {
        "source": source,
        "version": trt.__version__,
        "module": sorted(public),
        "enums": {name: {key: int(each) for key, each in enum.__members__.items()} for name, enum in enums.items()},
        "classes": {name: members_of(public[name]) for name in CLASSES if name in public},
    }


def members_of(kind: type) -> dict[str, list[str]]:
    """Public members and `__init__`, without a network's many layers: signature lines of functions, else nothing."""
    names = [name for name in dir(kind) if name == "__init__" or not name.startswith("_")]
    names = [name for name in names if not (name.startswith("add_") and kind.__name__ == "INetworkDefinition")]
    return {name: signatures(name, getattr(kind, name)) for name in names}


def signatures(name: str, member: Any) -> list[str]:
    lines = [line.strip() for line in (getattr(member, "__doc__", None) or "").splitlines()]
    found = [line.split(". ", 1)[-1] for line in lines if f"{name}(self" in line]
    return [line.replace("tensorrt_rtx_bindings.tensorrt_rtx.", "tensorrt.") for line in found]


def import_bindings(package: str, release: str, folder: Path) -> Any:
    """Import a release's compiled bindings with empty libraries in place of TensorRT's own."""
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), f"{package}=={release}"]
    subprocess.run(download, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder)], check=True)
    stub = folder / "stub.c"
    stub.write_text("".join(f"void *{entry}(void) {{ return 0; }}\n" for entry in ENTRIES))
    for name in NATIVE:
        library = folder / f"lib{name}.so.{release.split('.', maxsplit=1)[0]}"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(stub)], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder / "tensorrt_bindings")}
    os.execve(sys.executable, [sys.executable, __file__, package, release, "imported"], environment)


def main() -> None:
    package, release = sys.argv[1:3]
    if package == "tensorrt-rtx":
        trt, name = importlib.import_module("tensorrt_rtx"), f"rtx-{release}"
    elif sys.argv[3:] != ["imported"]:
        import_bindings(package, release, Path(tempfile.mkdtemp()))
        return
    else:
        trt, name = importlib.import_module("tensorrt"), release
        vars(trt)["__version__"] = release
    source = f"names and signatures of the Python package {package} {release}"
    content = json.dumps(table_of(trt, source), indent=1, sort_keys=True)
    Path(__file__).with_name(f"{name}.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
