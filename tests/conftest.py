"""Shared fixtures: a tiny data set, trained runs and bundles; makes `golden` and `helpers` importable."""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
from faults import flush_nothing

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # In a background job, no test could press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # Under nohup, commands ignore SIGHUP.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tests and modules are compiled once and not in every process. Images of containers often set this variable.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The collector visits all modules of torch again and again otherwise: a fifth of the time of an export.
gc.set_threshold(50_000, 20, 50)
# Tests leave nothing in the cache folder of the user, and use nothing there.
os.environ["CMDIAD_CACHE"] = tempfile.mkdtemp(prefix="cmdiad-tests-")
atexit.register(shutil.rmtree, os.environ["CMDIAD_CACHE"], ignore_errors=True)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # As in the runtime, for tests that import onnxruntime directly.
# The same generated examples in every run and on every machine, however slow it is.
settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("deterministic")
os.fsync = flush_nothing  # Processes that tests start flush, except for those of killed_trainings.

GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu")  # On a PC, and on a Jetson.
IMPORTERS = {
    "onnx": {"onnx", "graphs"},
    "sklearn": {"sklearn"},
    "tritonclient": {"tritonclient", "kserve_server", "kserve_http"},
    "torch": {"torch", "cmdiad_bench", "cmdiad_export", "cmdiad_train", "golden"},
}
"""Modules that cannot be imported without a package."""
MISSING = {name for package, names in IMPORTERS.items() if find_spec(package) is None for name in names}
TRAINING_FIXTURES = {"data", "trained", "fitted", "trained_ast", "trained_dsr3d", "trained_shape_guided", "exported"}
"""Fixtures that synthesise a data set, train or export, which takes seconds."""
LONGEST_FIRST = (
    "tests/test_demo.py",
    "tests/train/detectors/test_variants.py",
    "tests/test_real_data.py",
    "tests/export/test_trd_graphs.py",
    "tests/export/search/test_rtx_budget.py",
    "tests/studies/test_compare.py",
)
"""Files that start first, so that no worker is left with minutes of work when the others have ended."""
COVERING = (
    "tests/runtime/",
    "tests/property/",
    "tests/examples/",
    "tests/line/station_file/",  # TOML files of the runtime.
    "tests/fleet/manifest/",
)
"""Folders whose tests count for the coverage of the runtime."""
Trained = Callable[..., Path]
Exported = Callable[..., Path]
Make = Callable[[Path], object]
Once = Callable[[str, Make], Path]


@pytest.fixture(scope="session")
def folder_of_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one run of the suite share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def made_once(folder_of_suite: Path) -> Once:
    """`made_once(name, make)`: the shared folder `name`, which `make(folder)` fills in the worker that asks first."""

    def made(name: str, make: Make) -> Path:
        folder, unfinished = folder_of_suite / name, folder_of_suite / "unfinished" / name
        with FileLock(folder_of_suite / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.parent.mkdir(exist_ok=True)
                with _not_covered():
                    make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def own_copy(made_once: Once, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`own_copy(name, make)`: this worker's copy of the folder that `made_once(name, make)` returns."""
    folder = tmp_path_factory.mktemp("own")

    def copied(name: str, make: Make) -> Path:
        if not (folder / name).exists():
            shutil.copytree(made_once(name, make), folder / name)
        return folder / name

    return copied


@pytest.fixture(scope="session", autouse=True)
def kept_exports(folder_of_suite: Path) -> Iterator[None]:
    """Let torch export equal detectors once for all workers; see `kept_exports.kept`."""
    if "torch" not in sys.modules or "onnx_ir" not in sys.modules:
        yield
        return
    import torch

    from kept_exports import kept

    folder = folder_of_suite / "exports"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", kept(torch.onnx.export, folder))
        yield


@pytest.fixture(scope="session")
def data(made_once: Once) -> Path:
    """A synthetic data set of one category, `gear`. Tests that change the files take `own_data`."""
    from helpers import make_data

    return made_once("parts", make_data)


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy of the data set for one test."""
    return Path(shutil.copytree(data, tmp_path / "own-data"))


def _name(recipe: Any, *words: str) -> str:
    """A name for the run of a recipe that is the same in all workers."""
    return "-".join((*words, hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]))


@pytest.fixture(scope="session")
def trained(data: Path, own_copy: Once) -> Trained:
    """`trained(modality, hallucination, **changes)`: a finished run of the tiny recipe, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_recipe

    def train(modality: str, hallucination: str = "none", **changes: object) -> Path:
        recipe = tiny_recipe(modality, hallucination, **changes)
        return own_copy(_name(recipe, modality, hallucination), lambda run: fit(data, None, recipe, run))

    return train


@pytest.fixture(scope="session")
def fitted(data: Path, own_copy: Once) -> Trained:
    """`fitted(variant, modality)`: a finished run of tiny reverse distillation, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_trd_recipe

    def train(variant: str, modality: str) -> Path:
        recipe = tiny_trd_recipe(variant, modality)
        return own_copy(_name(recipe, variant, modality), lambda run: fit(data, None, recipe, run))

    return train


@pytest.fixture(scope="session")
def trained_ast(data: Path, own_copy: Once) -> Trained:
    """`trained_ast(modality, **changes)`: a finished run of tiny AST, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_ast_recipe

    def train(modality: str, **changes: object) -> Path:
        recipe = tiny_ast_recipe(modality, **changes)
        return own_copy(_name(recipe, "ast", modality), lambda run: fit(data, None, recipe, run))

    return train


@pytest.fixture(scope="session")
def trained_shape_guided(data: Path, own_copy: Once) -> Trained:
    """`trained_shape_guided(modality)`: a finished run of a tiny Shape-Guided detector, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_shape_guided_recipe

    def train(modality: str) -> Path:
        recipe = tiny_shape_guided_recipe(modality)
        return own_copy(_name(recipe, "shape-guided", modality), lambda run: fit(data, None, recipe, run))

    return train


@pytest.fixture(scope="session")
def trained_dsr3d(data: Path, own_copy: Once) -> Trained:
    """`trained_dsr3d(modality, **changes)`: a finished run of tiny 3DSR, trained once."""
    pytest.importorskip("torch", reason="trains a detector")
    from cmdiad_train.fit.fit import fit
    from helpers import tiny_dsr3d_recipe

    def train(modality: str, **changes: object) -> Path:
        recipe = tiny_dsr3d_recipe(modality, **changes)
        return own_copy(_name(recipe, "dsr3d", modality), lambda run: fit(data, None, recipe, run))

    return train


@pytest.fixture(scope="session")
def bundle_of(own_copy: Once) -> Callable[..., Path]:
    """`bundle_of(run, precision)`: the bundle of a run of the fixtures above, exported once.

    Bundles of one run share a certifier, so the fp32 graph is certified once for all precisions. Tests of
    `write_bundle` certify it for each.
    """
    from cmdiad_export.bundle_writer import certifier_of, write_bundle
    from cmdiad_export.options import ExportOptions
    from cmdiad_runtime.support.reporter import SILENT
    from cmdiad_train.runs.run import load_run

    certifiers: dict[Path, Any] = {}

    def export(run: Path, precision: str = "fp32") -> Path:
        def write(bundle: Path) -> None:
            if precision != "fp32":  # In this order, the fp32 graph is made once for both bundles.
                export(run)
            options, opened = ExportOptions(precision), load_run(run)  # type: ignore[arg-type]
            certifiers[run] = certifiers.get(run) or certifier_of(opened, options, SILENT)
            write_bundle(opened, bundle, options, SILENT, certifier=certifiers[run])

        return own_copy(f"{run.name}-{precision}.cmdiad", write)

    return export


@pytest.fixture(scope="session")
def exported(trained: Trained, bundle_of: Callable[..., Path]) -> Exported:
    """`exported(modality, hallucination, precision, **changes)`: the bundle of a trained run, see `bundle_of`."""

    def export(modality: str, hallucination: str = "none", precision: str = "fp32", **changes: object) -> Path:
        return bundle_of(trained(modality, hallucination, **changes), precision)

    return export


@pytest.fixture(scope="session")
def exported_outside(trained: Trained, own_copy: Once) -> Callable[[str, str], Path]:
    """`exported_outside(modality, precision)`: the bundle of a trained run with its weights beside the graph."""
    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_export.graph import storage
    from cmdiad_export.options import ExportOptions
    from cmdiad_runtime.support.reporter import SILENT
    from cmdiad_train.runs.run import load_run

    def export(modality: str, precision: str) -> Path:
        run = trained(modality)

        def write(bundle: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(storage, "LARGE", 1)
                write_bundle(load_run(run), bundle, ExportOptions(precision), SILENT)  # type: ignore[arg-type]

        return own_copy(f"{run.name}-{precision}-outside.cmdiad", write)

    return export


@pytest.fixture(scope="session")
def batched(trained: Trained, own_copy: Once) -> Path:
    """The bundle of the plain RGB run with a graph for three samples at once."""
    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_export.options import ExportOptions
    from cmdiad_runtime.support.reporter import SILENT
    from cmdiad_train.runs.run import load_run

    run = trained("rgb")
    options = ExportOptions(batch=3)
    return own_copy(f"{run.name}-batch3.cmdiad", lambda out: write_bundle(load_run(run), out, options, SILENT))


@pytest.fixture
def own_bundle(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the plain RGB bundle for one test to damage."""
    return Path(shutil.copytree(exported("rgb"), tmp_path / "own.cmdiad"))


@pytest.fixture(scope="session")
def exported_for_any(exported: Exported, own_copy: Once) -> Path:
    """A bundle for whichever sensors arrive, of the plain bundles of all patterns."""
    from cmdiad_export.pattern_bundle_writer import bind_patterns, bundle_name
    from cmdiad_export.shared_weights import share_weights
    from cmdiad_runtime.names import SENSORS
    from cmdiad_runtime.support.reporter import SILENT

    def write(folder: Path) -> None:
        for pattern in SENSORS:
            shutil.copytree(exported(pattern), folder / bundle_name("gear", pattern))
        bind_patterns(folder, "gear", {pattern: bundle_name("gear", pattern) for pattern in SENSORS})
        share_weights(folder, SILENT)

    return own_copy("gear-any.cmdiad", write)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Restore the number of threads of torch, which changes the rounding of sums and which a benchmark changes."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    yield
    torch = sys.modules.get("torch")
    if torch and threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def _not_covered() -> Iterator[None]:
    """Pause the measurement of coverage (--cov), which makes an export almost twice as slow."""
    coverage = sys.modules.get("coverage")
    running = coverage.Coverage.current() if coverage else None
    if running is None:
        yield
        return
    running.stop()
    try:
        yield
    finally:
        running.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure coverage in the tests of the runtime only."""
    if _file(item).startswith(COVERING):
        return (yield)
    with _not_covered():
        return (yield)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out test files that import a package that is not installed (scripts/pythons has no torch)."""
    if not MISSING or collection_path.suffix != ".py":
        return None
    imported = re.findall(r"^(?:from|import) (\w+)", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    return True if MISSING & set(imported) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long lane, order the files, mark tests that train or export, and skip those without their GPU."""
    if not re.search(r"\blong\b", config.option.markexpr):
        _leave_out(config, items, "long")
    slow = {_file(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: _start(_file(item), slow))
    for item in items:
        # `fixturenames` also contains the fixtures that the fixtures of a test use.
        if TRAINING_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("trains")
    if any(Path(device).exists() for device in GPU_DEVICES):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str) -> None:
    """Deselect the tests with a marker."""
    left_out = [item for item in items if item.get_closest_marker(marker)]
    items[:] = [item for item in items if not item.get_closest_marker(marker)]
    config.hook.pytest_deselected(items=left_out)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _start(file: str, slow: set[str]) -> int:
    """The position of a file: those of LONGEST_FIRST, then files with slow tests, then all others."""
    if file in LONGEST_FIRST:
        return LONGEST_FIRST.index(file)
    return len(LONGEST_FIRST) + (file not in slow)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting all modules and tests again; leave out what torch notes for debugging.

    torch notes at each operation of an export which lines of Python led to it, a seventh of the time. No line is in the
    graphs; `test_search_in_a_loop_keeps_the_results` checks that with the notes.
    """
    gc.collect()
    gc.freeze()
    if "torch" in sys.modules:
        import torch.fx.config

        torch.fx.config.do_not_emit_stack_traces = True
