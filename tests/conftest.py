"""Shared fixtures: a tiny data set, trained runs and bundles; makes `golden` and `helpers` importable."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # In a background job, no test could press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # Under nohup, commands ignore SIGHUP.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tests leave nothing in the cache folder of the user, and use nothing there.
os.environ["CMDIAD_CACHE"] = tempfile.mkdtemp(prefix="cmdiad-tests-")
atexit.register(shutil.rmtree, os.environ["CMDIAD_CACHE"], ignore_errors=True)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # As in the runtime, for tests that import onnxruntime directly.

GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu")  # On a PC, and on a Jetson.
IMPORTERS = {
    "onnx": {"onnx", "graphs"},
    "sklearn": {"sklearn"},
    "torch": {"torch", "cmdiad_bench", "cmdiad_export", "cmdiad_train", "golden"},
}
"""Modules that cannot be imported without a package."""
MISSING = {name for package, names in IMPORTERS.items() if find_spec(package) is None for name in names}
TRAINING_FIXTURES = {"data", "trained", "fitted", "exported"}
"""Fixtures that synthesise a data set, train or export, which takes seconds."""
Trained = Callable[..., Path]
Exported = Callable[..., Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of one category, `gear`. Tests that change the files take `own_data`."""
    from helpers import make_data

    return make_data(tmp_path_factory.mktemp("data") / "parts")


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy of the data set for one test."""
    return Path(shutil.copytree(data, tmp_path / "own-data"))


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(modality, hallucination, **changes)`: a finished run of the tiny recipe, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_recipe

    folder = tmp_path_factory.mktemp("runs")
    runs: dict[str, Path] = {}

    def train(modality: str, hallucination: str = "none", **changes: object) -> Path:
        recipe = tiny_recipe(modality, hallucination, **changes)
        key = repr(recipe)
        if key not in runs:
            run = folder / f"{modality}-{hallucination}-{len(runs)}"
            fit(data, None, recipe, run)
            runs[key] = run
        return runs[key]

    return train


@pytest.fixture(scope="session")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`fitted(variant, modality)`: a finished run of tiny reverse distillation, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_trd_recipe

    folder = tmp_path_factory.mktemp("trd")

    def train(variant: str, modality: str) -> Path:
        run = folder / f"{variant}-{modality}"
        if not run.exists():
            fit(data, None, tiny_trd_recipe(variant, modality), run)
        return run

    return train


@pytest.fixture(scope="session")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported(modality, hallucination, precision, **changes)`: the bundle of a trained run, exported once."""
    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_export.options import ExportOptions
    from cmdiad_runtime.support.reporter import SILENT
    from cmdiad_train.runs.run import load_run

    folder = tmp_path_factory.mktemp("bundles")
    bundles: dict[tuple[Path, str], Path] = {}

    def export(modality: str, hallucination: str = "none", precision: str = "fp32", **changes: object) -> Path:
        run = trained(modality, hallucination, **changes)
        if (run, precision) not in bundles:
            bundle = folder / f"{run.name}-{precision}.cmdiad"
            write_bundle(load_run(run), bundle, ExportOptions(precision), SILENT)  # type: ignore[arg-type]
            bundles[run, precision] = bundle
        return bundles[run, precision]

    return export


@pytest.fixture
def own_bundle(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the plain RGB bundle for one test to damage."""
    return Path(shutil.copytree(exported("rgb"), tmp_path / "own.cmdiad"))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Restore the number of threads of torch, which changes the rounding of sums and which a benchmark changes."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    yield
    torch = sys.modules.get("torch")
    if torch and threads is not None:
        torch.set_num_threads(threads)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out test files that import a package that is not installed (scripts/pythons has no torch)."""
    if not MISSING or collection_path.suffix != ".py":
        return None
    imported = re.findall(r"^(?:from|import) (\w+)", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    return True if MISSING & set(imported) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that train or export, and skip tests that need a GPU on machines without one."""
    for item in items:
        # `fixturenames` also contains the fixtures that the fixtures of a test use.
        if TRAINING_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("trains")
    if any(Path(device).exists() for device in GPU_DEVICES):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
