"""Network inputs that training leaves for export: golden, quantisation and held-out samples with tampered copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy.typing as npt
from torch import Tensor

from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.splits import Splits
from cmdiad_train.runs.run import GOLDEN, HELD_OUT, QUANTISATION
from cmdiad_train.runs.tensors import Inputs, save_inputs

GOLDEN_SAMPLES = 4
QUANTISATION_SAMPLES = 4
HELD_OUT_SAMPLES = 24


def golden_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the held-out samples of the certificate."""
    return splits.held_out[:GOLDEN_SAMPLES]


def quantisation_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the training samples that calibrate int8 and fp8."""
    step = max(1, len(splits.train) // QUANTISATION_SAMPLES)
    return splits.train[::step][:QUANTISATION_SAMPLES]


def measured_samples(splits: Splits) -> Sequence[SampleFiles]:
    """Return the held-out samples on which export measures a faster search or a smaller bank."""
    return evenly_spread(splits.held_out, HELD_OUT_SAMPLES)


def evenly_spread(samples: Sequence[SampleFiles], count: int) -> list[SampleFiles]:
    """Return `count` of the samples at equal steps, the first one included, or all if there are no more."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def tampered_samples(splits: Splits) -> list[SampleFiles]:
    """Return the samples of which export needs a tampered copy."""
    return [*golden_samples(splits), *quantisation_samples(splits), *measured_samples(splits)]


def save_export_inputs(
    run: Path, splits: Splits, samples: SampleProvider, input_names: Sequence[str], reporter: Reporter
) -> None:
    """Write the inputs of golden, quantisation and held-out samples, each with the inputs of a tampered copy.

    Good samples alone would clip the values that defects cause in an int8 or fp8 graph.

    Args:
        run: Run directory.
        splits: Samples of the training.
        samples: Source of prepared samples.
        input_names: Names of the detector's inputs.
        reporter: Receiver of progress.
    """
    kept: Inputs = {}
    measured = measured_samples(splits)
    for i, files in enumerate(measured):
        kept |= _good_and_tampered(f"{i:02d}", files, samples, input_names)
        reporter.step("keep held-out samples", i + 1, len(measured))
    save_inputs(run / HELD_OUT, kept)
    for file, chosen in ((GOLDEN, golden_samples(splits)), (QUANTISATION, quantisation_samples(splits))):
        pairs = [_good_and_tampered(str(i), files, samples, input_names) for i, files in enumerate(chosen)]
        save_inputs(run / file, {name: inputs for pair in pairs for name, inputs in pair.items()})


def _good_and_tampered(name: str, files: SampleFiles, samples: SampleProvider, input_names: Sequence[str]) -> Inputs:
    """Return the inputs of a sample and of a tampered copy, as `NAME-good` and `NAME-tampered`."""
    return {
        f"{name}-good": _named(samples.prepared(files).inputs, input_names),
        f"{name}-tampered": _named(samples.tampered(files).inputs, input_names),
    }


def _named(inputs: dict[str, npt.NDArray], names: Sequence[str]) -> dict[str, Tensor]:  # type: ignore[type-arg]
    return as_tensors({name: inputs[name] for name in names})
