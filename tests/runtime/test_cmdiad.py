"""The package `cmdiad`: the documented Python API, which loads nothing heavy."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

import cmdiad
import cmdiad_runtime
from helpers import python

NAMES = [
    "BundleError",
    "CertificateError",
    "CmdiadError",
    "EngineError",
    "InputError",
    "Inspection",
    "Inspector",
    "OpenOptions",
    "OutputError",
    "PatternInspector",
    "RunError",
    "Sample",
    "__version__",
    "read_rgb",
    "read_xyz",
]


def test_names_of_the_door() -> None:
    assert dir(cmdiad) == cmdiad.__all__ == NAMES
    for name in NAMES:
        assert getattr(cmdiad, name) is getattr(cmdiad_runtime, name) or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'Bundle'"):
        cmdiad.Bundle  # noqa: B018


def test_version() -> None:
    assert cmdiad.__version__ == cmdiad_runtime.__version__ == version("cmdiad")


@pytest.mark.parametrize("package", ["cmdiad", "cmdiad_runtime"])
def test_importing_loads_nothing_heavy(package: str) -> None:
    heavy = ("numpy", "scipy", "PIL", "onnxruntime")
    code = f"import sys\nimport {package}\nprint([name for name in {heavy} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_packages_are_typed() -> None:
    root = Path(__file__).parents[2]
    packages = ("runtime/cmdiad", "runtime/cmdiad_runtime", "train/cmdiad_train", "export/cmdiad_export")
    for package in (*packages, "benchmarks/cmdiad_bench"):
        assert (root / package / "py.typed").is_file(), package
