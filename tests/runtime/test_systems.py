"""Calls that Windows lacks are isolated in the room `support`, and the runtime works without them."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "format1"
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {
        "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC WNOHANG chown fchmod fchown fork forkpty getegid",
        "geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getsid getuid killpg lchown major makedev",
        "minor mkfifo mknod nice pathconf posix_fadvise posix_fallocate pread pwrite register_at_fork",
        "sched_getaffinity sched_setaffinity sendfile setegid seteuid setgid setpgid setpriority setsid setuid",
        "statvfs sync sysconf tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid",
    },
    "signal": {
        "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm",
        "getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigwait",
    },
}
"""Names that Python's documentation gives for Unix only."""
NAMES = {module: {name for line in lines for name in line.split()} for module, lines in POSIX_NAMES.items()}
FOLDERS = ("/proc/", "/sys/", "/dev/")
ROOM = ROOT / "runtime" / "cmdiad_runtime" / "support"
IMPORTED_FIRST = "click concurrent.futures filelock numpy onnxruntime PIL.Image scipy.ndimage subprocess tifffile"


def _uses(source: str) -> Iterator[str]:
    """Yield each call, constant, module and folder of a module that exists on some systems only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in POSIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in {*POSIX_MODULES, *NAMES}:
            known = NAMES.get(node.module)
            yield from (f"{node.module}.{a.name}" for a in node.names if known is None or a.name in known)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NAMES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
            yield node.value


def test_only_the_room_of_support_has_calls_of_one_system() -> None:
    uses = {
        (path.relative_to(ROOT).as_posix(), use)
        for package in ("cmdiad", "cmdiad_runtime")  # The station says that it needs Linux.
        for path in (ROOT / "runtime" / package).rglob("*.py")
        if not path.is_relative_to(ROOM)
        for use in _uses(path.read_text(encoding="utf-8"))
    }
    assert not uses


def test_modules_of_support_with_such_calls_are_listed_in_one_place() -> None:
    text = ast.get_docstring(ast.parse((ROOM / "system.py").read_text(encoding="utf-8")))
    using = {path.stem for path in ROOM.glob("*.py") if any(_uses(path.read_text(encoding="utf-8")))} - {"system"}
    assert using
    assert {name for name in using if f"`{name}`" not in (text or "")} == set()


def test_the_check_notices_such_calls() -> None:
    source = "import os, fcntl\nfrom signal import SIGHUP\nos.sched_getaffinity(0)\nopen('/proc/meminfo')\nos.fsync(3)"
    assert set(_uses(source)) == {"fcntl", "signal.SIGHUP", "os.sched_getaffinity", "/proc/meminfo"}


AS_ON_WINDOWS = """
import importlib, sys, types
for name in {first!r}.split():
    importlib.import_module(name)  # the standard library and these have their own counterparts for Windows
for name in {modules!r}:
    sys.modules[name] = None
for module, missing in {names!r}.items():
    complete, reduced = importlib.import_module(module), types.ModuleType(module)
    reduced.__dict__.update({{name: value for name, value in vars(complete).items() if name not in missing}})
    sys.modules[module] = reduced  # for the modules of cmdiad, which are imported from here on
from cmdiad_runtime.cli.{command} import main
main()
"""


def _run_as_on_windows(command: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    names = {module: sorted(listed) for module, listed in NAMES.items()}
    script = AS_ON_WINDOWS.format(first=IMPORTED_FIRST, modules=sorted(POSIX_MODULES), names=names, command=command)
    words = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.run(words, check=False, capture_output=True, text=True, cwd=folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "xyz-points.cmdiad", tmp_path / "parts.cmdiad"))


@pytest.mark.seconds
def test_inspection_and_results_without_the_calls_of_posix(bundle: Path, tmp_path: Path) -> None:
    sample = FIXTURES / "samples" / "xyz" / "good.tiff"
    ended = _run_as_on_windows("run", bundle, sample, "--output", tmp_path / "results", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (line,) = (tmp_path / "results" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["verdict"] == "OK"
    assert ended.stdout.startswith("OK\t")
    assert len(list((tmp_path / "results" / "overlays").iterdir())) == 1


@pytest.mark.seconds
def test_change_of_a_bundle_without_the_calls_of_posix(bundle: Path, tmp_path: Path) -> None:
    ended = _run_as_on_windows("threshold", bundle, "--threshold", "1000", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "1000" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {bundle.name, f".{bundle.name}.lock"}
