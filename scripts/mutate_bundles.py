#!/usr/bin/env python
"""Open thousands of damaged and forged bundles, and check that each is refused or judges as before.

Each bundle is a copy of a good, signed one with one random change. `cmdiad-run` inspects a good sample with the copy,
in a child process. With the signature required, the command must refuse the copy (exit 4 or 5) or print the verdict of
the good bundle. Without it, a consistent change of a threshold or graph may make another bundle of the copy. A
traceback, a crash, a hang, or more than 1 GB of memory is a problem in any case.

Run: python scripts/mutate_bundles.py --count 5000 --seed 1
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bundle_changes import CHANGES, WEIGHTS, Copy
from child import Ended, run

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "format1"
PACKAGES = ("cmdiad_runtime", "numpy", "scipy", "onnxruntime", "PIL", "tifffile", "click", "cryptography")
MEMORY = 1_000_000_000
"""Largest memory of one command, bytes."""


def inspect(arguments: list[object], output: Path) -> Ended:
    """Run `cmdiad-run` in a child process; AssertionError for a hang or too much memory."""

    def call() -> None:
        from cmdiad_runtime.cli.run import cli
        from cmdiad_runtime.support.command_line import run_command

        run_command(cli, "cmdiad-run", list(map(str, arguments)))

    ended = run(call, output)
    assert ended.memory < MEMORY, f"{ended.memory / 1e6:.0f} MB"
    return ended


@dataclass
class Figures:
    """Figures of all trials.

    Attributes:
        bundles: Number of changed bundles.
        problems: Number of those that were neither refused nor judged as before.
        memory: Largest memory of a command, bytes.
        seconds: Longest duration of a command.
        seen: Number of commands by their end.
    """

    bundles: int = 0
    problems: int = 0
    memory: int = 0
    seconds: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)


def check(bundle: Copy, sample: Path, key_file: Path, good: str, figures: Figures) -> None:
    """Inspect a sample with a changed bundle and check how that ends."""
    output = bundle.folder.parent
    commands: list[tuple[bool, list[object]]] = [(True, [sample, "--require-signature", key_file]), (False, [sample])]
    if bundle.golden:
        commands.append((False, []))
    for signed, options in commands:
        ended = inspect([bundle.folder, *options], output)
        figures.seconds, figures.memory = max(figures.seconds, ended.seconds), max(figures.memory, ended.memory)
        code, out, err = ended.code, ended.out, ended.err
        assert "Traceback" not in err, err
        assert code in ((0, 3, 4, 5, 8) if bundle.another or bundle.golden else (0, 4, 5)), (code, err)
        kind = {3: "not inspected", 4: "refused", 5: "refused by the engine", 8: "self-test failed"}.get(code, "")
        if code == 0 and options:
            assert out == good or (bundle.another and not signed), (out, good)
            kind = "same verdict" if out == good else "another consistent bundle"
        elif code in (4, 5):
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, err
            assert "OK\t" not in out, out
        assert not (signed and code in (3, 8)), (code, err)
        figures.seen[f"{'signature required' if signed else 'no signature'}: {kind or 'self-test passed'}"] += 1


def good_bundles(folder: Path) -> list[tuple[Path, Path]]:
    """Return signed bundles with a sample each: two stored ones, and one with weights in a separate file."""
    import onnx_ir as ir

    from cmdiad_runtime.bundle.change import sign_bundle
    from cmdiad_runtime.bundle.manifest import write_manifest
    from cmdiad_runtime.bundle.signature import new_key
    from cmdiad_runtime.engines.graph_file import graph_digest

    new_key(folder / "line.key")
    cloud = FIXTURES / "samples" / "xyz" / "good.tiff"
    bundles = [(Path(shutil.copytree(FIXTURES / "xyz-points.cmdiad", folder / "plain.cmdiad")), cloud)]
    large = Path(shutil.copytree(FIXTURES / "xyz-points.cmdiad", folder / "large.cmdiad"))
    model = ir.load(large / "graph.onnx")
    ir.save(model, large / "graph.onnx", external_data="graph.weights", size_threshold_bytes=1000)
    content = json.loads((large / "manifest.json").read_text(encoding="utf-8"))
    content["graph"]["sha256"] = graph_digest(large / "graph.onnx")
    write_manifest(large, {name: value for name, value in content.items() if name not in ("files", "manifest_sha256")})
    bundles.append((large, cloud))
    for bundle, _ in bundles:
        sign_bundle(bundle, folder / "line.key")
    return bundles


def import_all() -> None:
    """Import what an inspection imports, so that the children start quickly."""
    paths = [str(FIXTURES / "xyz-points.cmdiad"), str(FIXTURES / "samples" / "xyz" / "good.tiff")]
    code = (
        "import sys; from cmdiad_runtime.cli.run import cli; from click.testing import CliRunner\n"
        "CliRunner().invoke(cli, sys.argv[1:]); print(*sys.modules)"
    )
    arguments = [sys.executable, "-c", code, *paths]
    ended = subprocess.run(arguments, check=True, capture_output=True, text=True)  # noqa: S603 - our own code
    for name in ended.stdout.split():
        if name.split(".")[0] in PACKAGES:
            with suppress(ImportError):
                importlib.import_module(name)


def try_all(numbers: range, seed: int, figures: Figures) -> None:
    """Make and check the changed bundles of these numbers."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        os.environ["CMDIAD_CACHE"] = str(folder / "cache")
        bundles = good_bundles(folder)
        verdicts = [inspect([bundle, sample], folder).out for bundle, sample in bundles]
        assert all(verdict.startswith("OK\t") for verdict in verdicts), verdicts
        for number in numbers:
            source = random.Random(f"{seed}:{number}")  # noqa: S311 - not for secrets
            (bundle, sample), good = source.choice(list(zip(bundles, verdicts, strict=True)))
            changed = Copy(Path(shutil.copytree(bundle, folder / "m" / "b.cmdiad")), source)
            kind = source.choices(list(CHANGES), [WEIGHTS.get(change, 1) for change in CHANGES])[0]
            detail = CHANGES[kind](changed)
            try:
                check(changed, sample, folder / "line.key.pub", good, figures)
            except AssertionError as problem:
                figures.problems += 1
                print(f"{number} {kind} {detail}: {str(problem)[-1500:]}", file=sys.stderr, flush=True)
            figures.bundles += 1
            shutil.rmtree(folder / "m")


def main() -> None:
    """Try the changes and print the figures as JSON; Ctrl-C prints the figures so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="number of changed bundles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first change, to repeat one")
    options = parser.parse_args()
    import_all()
    figures, start = Figures(), time.monotonic()
    with suppress(KeyboardInterrupt):
        try_all(range(options.first, options.first + options.count), options.seed, figures)
    record = {"bundles": figures.bundles, "problems": figures.problems, **dict(sorted(figures.seen.items()))}
    record |= {"memory_mb": round(figures.memory / 1e6), "slowest_s": round(figures.seconds, 1)}
    print(json.dumps({**record, "seconds": round(time.monotonic() - start)}, indent=2))
    sys.exit(bool(figures.problems))


if __name__ == "__main__":
    main()
