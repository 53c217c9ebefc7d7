"""The self-test of `cmdiad-run`: repeat the certificate of a bundle on this device."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.engines import ONNX_RUNTIME_NAMES
from cmdiad_runtime.names import PATTERN_TEXTS
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.self_test import SelfTest
    from cmdiad_runtime.inspection.open_options import OpenOptions


def self_test(path: Path, options: OpenOptions, output: Path | None, *, keep: bool) -> None:
    """Run the golden set through the engine on this machine and compare with the certificate's reference.

    A graph for several samples at once is tested too, if the engine can run that graph.
    A bundle for whichever sensors arrive has one golden set for each pattern, all of which are run.
    """
    if is_pattern_bundle(path):
        _test_patterns(path, options, output, keep=keep)
    else:
        _test_bundle(path, options, output, keep=keep)


def _test_patterns(path: Path, options: OpenOptions, output: Path | None, *, keep: bool) -> None:
    from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
    from cmdiad_runtime.inspection.inspector import open_bundle

    opened = open_pattern_bundle(
        path, partial(open_bundle, options=options), require_signature=options.require_signature
    )
    for pattern, bundle in opened.bundles.items():
        click.echo(f"samples with {PATTERN_TEXTS[pattern]}:")
        _test_bundle(bundle.path, options, None if output is None else output / pattern, keep=keep)


def _test_bundle(path: Path, options: OpenOptions, output: Path | None, *, keep: bool) -> None:
    from cmdiad_runtime.bundle.engine_selection import batch_self_test_of, self_test_of
    from cmdiad_runtime.bundle.self_test import require_passed, write_self_test
    from cmdiad_runtime.inspection.inspector import open_bundle
    from cmdiad_runtime.support.files import write_json
    from cmdiad_runtime.support.lock import lock_folder
    from cmdiad_runtime.support.progress import TerminalReporter

    bundle = open_bundle(path, options)
    test = self_test_of(
        bundle, options.engine, rebuild=options.rebuild, reporter=TerminalReporter(), server=options.server
    )
    tests = {"self-test.json": test}
    if bundle.record.batch is not None and options.engine in ONNX_RUNTIME_NAMES:
        tests["self-test-batch.json"] = batch_self_test_of(bundle, options.engine)
    for test in tests.values():
        _print_self_test(test)
        if keep:
            say(f"result: {printable(write_self_test(bundle, test))}")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        with lock_folder(output):
            for name, test in tests.items():
                write_json(output / name, test.comparison.to_json())
    for test in tests.values():
        require_passed(path, test)


def _print_self_test(test: SelfTest) -> None:
    comparison = test.comparison
    click.echo(
        f"self-test {'passed' if comparison.passed else 'FAILED'}: {test.samples} golden samples on "
        f"{comparison.engine}; score within {comparison.score_max_share:.2%} and map within "
        f"{comparison.map_max_share:.2%} of the threshold, {comparison.label_flips} label flips"
    )
