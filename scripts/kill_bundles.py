#!/usr/bin/env python
"""End changes of thresholds and exports at random moments, and check what they leave.

Each trial starts a command in a child process and ends it at a random step or moment: SIGKILL, SIGTERM, a full disk
(ENOSPC, or EFBIG by a limit of file sizes) or an I/O error. Afterwards a bundle must be whole, old or new, and after
the next start of the same command nothing may be left. Run: python scripts/kill_bundles.py --trials 100 --seed 1
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from child import run

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "tests" / "fixtures" / "format1" / "xyz-points.cmdiad"
RUN = ROOT / "tests" / "fixtures" / "run2" / "xyz-points.run"
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "shutil.rmtree")
FAULTS = ("SIGKILL at a step", "SIGTERM at a step", "ENOSPC", "EIO", "full disk", "SIGKILL", "SIGTERM")


@dataclass(frozen=True)
class Fault:
    """One way to end a process.

    Attributes:
        kind: One of FAULTS.
        step: Number of the step at which the fault happens; steps are changes of files below the folder.
        after_s: Seconds after which a signal is sent, for the faults without a step.
        bytes: Largest file that the process may write, for "full disk".
    """

    kind: str
    step: int = 0
    after_s: float = 0.0
    bytes: int = 0


def install(fault: Fault, folder: Path) -> None:
    """Let a fault happen in this process, which has just been made."""
    if fault.kind == "full disk":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, fault.bytes))
    if not fault.step:
        return
    left = [fault.step]

    def step(name: str) -> None:
        left[0] -= 1
        if left[0] != 0:
            return
        if fault.kind.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, fault.kind.split()[0]))
            return
        number = getattr(errno, fault.kind)
        raise OSError(number, os.strerror(number), name)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        name = os.fsdecode(arguments[0])
        if Path(name).is_relative_to(folder):
            step(name)

    original = os.fsync

    def fsync(descriptor: int) -> None:
        step(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        original(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def end(command: Callable[[], None], fault: Fault, folder: Path) -> tuple[int, str]:
    """Run a command in a child process that a fault ends; return its exit code and what it printed."""

    def faulty() -> None:
        install(fault, folder)
        command()

    send = getattr(signal, fault.kind) if fault.after_s else None
    ended = run(faulty, folder.parent, send=send, after_s=fault.after_s)
    return ended.code, ended.out + ended.err


def complete(command: Callable[[], None], folder: Path) -> float:
    """Run a command in a child process to its end, which must be good, and return its duration in seconds."""
    ended = run(command, folder.parent)
    assert ended.code == 0, ended.err
    return ended.seconds


def command_line(name: str, *arguments: object) -> Callable[[], None]:
    """Return a function that runs a command as its entry point does."""

    def call() -> None:
        from cmdiad_runtime.support.command_line import run_command

        if name == "cmdiad-threshold":
            from cmdiad_runtime.cli.threshold import cli
        else:
            from cmdiad_export.cli import cli
        run_command(cli, name, list(map(str, arguments)))

    return call


def draw(random: random.Random, steps: int, seconds: float, size: int) -> Fault:
    """Return a random fault for a command that takes this number of steps and seconds and writes this much."""
    kind = random.choice(FAULTS)
    if kind == "full disk":
        return Fault(kind, bytes=random.randrange(size))
    if kind in ("SIGKILL", "SIGTERM"):
        return Fault(kind, after_s=random.uniform(0.001, seconds))
    return Fault(kind, step=random.randint(1, steps))


def names(folder: Path) -> list[str]:
    """Return the paths of everything in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def check_end(fault: Fault, code: int, printed: str) -> None:
    """Check how a command ended: done, with one line, or by the signal; never with a traceback."""
    assert "Traceback" not in printed, (fault, printed)
    assert code in (0, 6, 129, 130, 143, -signal.SIGKILL, -signal.SIGTERM), (fault, code, printed)
    if code == 6:
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, (fault, printed)


def count_steps(command: Callable[[], None], folder: Path) -> tuple[int, float]:
    """Return the number of steps and seconds of a command without a fault, which runs in a child process."""
    counter = folder.parent / "steps"

    def counted() -> None:
        steps = [0]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            changes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if event in EVENTS and changes and isinstance(arguments[0], str | os.PathLike):
                steps[0] += Path(os.fsdecode(arguments[0])).is_relative_to(folder)

        sys.addaudithook(hook)
        try:
            command()
        finally:
            counter.write_text(str(steps[0] + 4))  # Flushes are steps too.

    seconds = complete(counted, folder)
    return int(counter.read_text()), seconds


def try_threshold(random: random.Random, folder: Path, trials: int) -> Counter[str]:
    """End `cmdiad-threshold` at random moments."""
    from cmdiad_runtime.bundle.bundle import Bundle

    bundle = Path(shutil.copytree(BUNDLE, folder / "threshold" / "a.cmdiad"))
    listed, seen = names(bundle.parent), Counter[str]()
    steps, seconds = count_steps(command_line("cmdiad-threshold", bundle, "--threshold", 100), bundle.parent)
    for trial in range(trials):
        old = (bundle / "manifest.json").read_bytes()
        change = command_line("cmdiad-threshold", bundle, "--threshold", 1 + trial)
        fault = draw(random, steps, seconds, len(old) + 200)
        code, printed = end(change, fault, bundle.parent)
        check_end(fault, code, printed)
        value = Bundle.open(bundle).calibration.score_threshold
        whole = (bundle / "manifest.json").read_bytes()
        assert whole == old or value == 1 + trial, (fault, value)
        assert code != 0 or value == 1 + trial, (fault, value)
        seen[f"threshold, {fault.kind}: {'new' if value == 1 + trial else 'old'}"] += 1
        left = [name for name in names(bundle.parent) if name not in listed]
        seen["threshold, leftovers before the next start"] += len(left)
        assert not left or code < 0, (fault, left)
        complete(command_line("cmdiad-threshold", bundle, "--threshold", 1000 + trial), bundle.parent)
        assert names(bundle.parent) == listed, (fault, names(bundle.parent))
    return seen


def try_export(random: random.Random, folder: Path, trials: int) -> Counter[str]:
    """End `cmdiad-export` at random moments."""
    from cmdiad_runtime.bundle.bundle import Bundle

    parent = folder / "export"
    parent.mkdir()
    out, seen = parent / "a.cmdiad", Counter[str]()
    export = command_line("cmdiad-export", RUN, "--out", out)
    with suppress(SystemExit):  # All imports are done here, so that the children start quickly.
        command_line("cmdiad-export", RUN, "--out", folder / "first.cmdiad")()
    steps, seconds = count_steps(export, parent)
    listed = names(parent)
    for _ in range(trials):
        shutil.rmtree(out, ignore_errors=True)
        fault = draw(random, steps, seconds, 90_000)
        code, printed = end(export, fault, parent)
        check_end(fault, code, printed)
        if out.exists():
            Bundle.open(out)
            assert names(out) == [name.removeprefix("a.cmdiad/") for name in listed[1:]], fault
        assert code != 0 or out.exists(), fault
        seen[f"export, {fault.kind}: {'whole' if out.exists() else 'none'}"] += 1
        left = [name for name in names(parent) if not name.startswith("a.cmdiad")]
        seen["export, leftovers before the next start"] += bool(left)
        assert not left or code < 0, (fault, code, left)
        shutil.rmtree(out, ignore_errors=True)
        complete(export, parent)
        assert names(parent) == listed, (fault, names(parent))
        Bundle.open(out)
    return seen


def main() -> None:
    """Run the trials and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="number of ended commands of each kind")
    parser.add_argument("--command", choices=["threshold", "export", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seen = Counter[str]()
    start = time.monotonic()
    source = random.Random(options.seed)  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if options.command != "export":
            import cmdiad_runtime.bundle.threshold  # noqa: F401 - so that the children do not import it

            seen += try_threshold(source, folder, options.trials)
        if options.command != "threshold":
            import torch.onnx  # noqa: F401 - the same

            import cmdiad_export.bundle_writer  # noqa: F401 - the same

            seen += try_export(source, folder, options.trials)
    print(json.dumps({**dict(sorted(seen.items())), "seconds": round(time.monotonic() - start)}, indent=2))


if __name__ == "__main__":
    main()
